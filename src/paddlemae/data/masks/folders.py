"""Folders of image files and of mask files."""

import os
from collections.abc import Sequence

from paddlemae.data.masks.class_file import ListedClass, find_class_file, read_class_file
from paddlemae.data.masks.layout import MaskLayout, layout_of_files
from paddlemae.data.masks.options import MaskOptions
from paddlemae.data.masks.pairs import PairRule, check_paired, pair_files
from paddlemae.data.sources.folder import list_images
from paddlemae.data.sources.mask_folders import IMAGE_FOLDERS, MASK_FOLDERS, SAMPLE_SUFFIX
from paddlemae.data.sources.splits import split_of


def open_folders(root: str, options: MaskOptions, split: str | None) -> MaskLayout:
    """Open a folder with images and masks below it; raises as `pairs.pair_files` and `pairs.check_paired`."""
    files, _ = list_images(root, with_masks=True)
    pairs, every = pair_files(files, pair_rule(files, options), split, repr(root))
    check_paired(pairs, repr(root), options.skip_unpaired)
    return layout_of_files(root, root, pairs.images, pairs.masks, every, listed_classes(root), options)


def pair_rule(files: Sequence[str], options: MaskOptions) -> PairRule:
    """Return the rule of which files are images and which are masks."""
    suffix = options.mask_suffix
    if not suffix and any(os.path.splitext(file)[0].endswith(SAMPLE_SUFFIX) for file in files):
        suffix = SAMPLE_SUFFIX
    named = options.masks is not None
    return PairRule(
        (options.images.lower(),) if options.images else IMAGE_FOLDERS,
        (options.masks.lower(),) if options.masks else MASK_FOLDERS,
        suffix,
        *([()] if named else []),
    )


def listed_classes(root: str) -> Sequence[ListedClass] | None:
    """Return the classes that a file in a folder, or in a folder of masks in it, lists; None without one."""
    found = class_files(root)
    return read_class_file(found[0]) if found else None


def class_files(root: str) -> list[str]:
    """Return the files in a folder, and in the folders of masks and splits in it, that list classes."""
    names = sorted(os.listdir(root), key=lambda name: (split_of(name) is not None, name))
    inside = [name for name in names if name.lower() in MASK_FOLDERS or split_of(name)]
    folders = [root, *(os.path.join(root, name) for name in inside)]
    return [path for folder in folders if (path := find_class_file(folder))]
