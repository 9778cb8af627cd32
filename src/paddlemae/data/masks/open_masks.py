"""Open images with masks: find which layout a path has, and make a source of it."""

import os
from collections.abc import Sequence

from paddlemae.data.masks.class_file import ListedClass, find_class_file, read_class_file
from paddlemae.data.masks.find_classes import find_classes
from paddlemae.data.masks.options import MaskOptions, parse_options
from paddlemae.data.masks.pairs import PairRule, check_paired, pair_files
from paddlemae.data.masks.readers import ClassMasks, MaskFiles
from paddlemae.data.sources.folder import list_images
from paddlemae.data.sources.mask_folders import IMAGE_FOLDERS, MASK_FOLDERS
from paddlemae.data.sources.readers import FileReader
from paddlemae.data.sources.source import MaskTargets, Source
from paddlemae.data.sources.string_table import StringTable


def open_masks(path: str, options: dict[str, str], split: str | None, spec: str) -> Source:
    """Open the images of a path with their masks.

    Args:
        path, options: as `open_source` splits `spec`.
        split: as of `open_source`.
    Raises:
        MissingSplit, ValueError: as of `open_source`; `BadMask` if the masks leave open what their classes are.
    """
    chosen = parse_options(options, spec)
    if not os.path.isdir(path):
        raise ValueError(f"{spec!r} has no masks that are understood; expected a folder with 'images' and 'masks'")
    return _open_folder_pairs(path, chosen, split)


def _open_folder_pairs(root: str, options: MaskOptions, split: str | None) -> Source:
    files, _ = list_images(root)
    rule = PairRule(
        (options.images.lower(),) if options.images else IMAGE_FOLDERS,
        (options.masks.lower(),) if options.masks else MASK_FOLDERS,
        options.mask_suffix,
    )
    pairs, all_masks = pair_files(files, rule, split, repr(root))
    check_paired(pairs, repr(root), options.skip_unpaired)
    every = MaskFiles(root, StringTable.of(all_masks), options.rgb)
    class_map = find_classes(_listed(root, options), every, options, repr(root))
    photos = StringTable.of(pairs.images)
    stored = MaskFiles(root, StringTable.of(pairs.masks), options.rgb, photos if options.turn_masks else None)
    targets = MaskTargets(class_map.classes, class_map.palette, ClassMasks(stored, class_map))
    return Source(root, FileReader(root, photos), targets)


def _listed(root: str, options: MaskOptions) -> Sequence[ListedClass] | None:
    """Return the classes of the options, or of a file in the folder or in one of masks; None without either."""
    if options.classes:
        return options.classes
    folders = [root, *(os.path.join(root, name) for name in sorted(os.listdir(root)) if name.lower() in MASK_FOLDERS)]
    found = next((path for folder in folders if (path := find_class_file(folder))), None)
    return read_class_file(found) if found else None
