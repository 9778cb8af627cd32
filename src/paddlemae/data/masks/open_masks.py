"""Open images with masks: find which layout a path has, and make a source of it."""

import os
from dataclasses import replace

from paddlemae.data.masks.archives import open_mask_archive
from paddlemae.data.masks.arrays import open_mask_arrays
from paddlemae.data.masks.cityscapes import IGNORED_IDS, is_cityscapes, open_cityscapes
from paddlemae.data.masks.class_file import ListedClass
from paddlemae.data.masks.coco import find_annotations, open_coco
from paddlemae.data.masks.folders import open_folders
from paddlemae.data.masks.labelme import is_labelme, open_labelme
from paddlemae.data.masks.layout import MaskLayout, make_source
from paddlemae.data.masks.lists import open_mask_list
from paddlemae.data.masks.options import LIST_OPTIONS, MaskOptions, parse_options
from paddlemae.data.masks.voc import is_voc, open_voc
from paddlemae.data.pack.reader import Index, read_index
from paddlemae.data.sources.archives import expand_braces
from paddlemae.data.sources.folder import list_tars
from paddlemae.data.sources.source import Source

_LISTS = (".csv", ".tsv", ".txt", ".lst", ".list")


def open_masks(path: str, options: dict[str, str], split: str | None, spec: str) -> Source:
    """Open the images of a path with their masks, in one of the layouts of this package.

    Args:
        path, options: as `open_source` splits `spec`.
        split: as of `open_source`.
    Raises:
        MissingSplit, ValueError: as of `open_source`; `BadMask` if the masks leave open what their classes are.
    """
    if "{" in path and not os.path.exists(path):
        chosen = parse_options(options, spec)
        return make_source(open_mask_archive(expand_braces(path), chosen, split, spec), chosen, split)
    if os.path.isfile(path) and path.lower().endswith(_LISTS):
        columns = {name: options.pop(name) for name in LIST_OPTIONS if name in options}
        chosen = parse_options(options, spec)
        return make_source(open_mask_list(path, columns, chosen, split), chosen, split)
    chosen = parse_options(options, spec)
    if os.path.isfile(path):
        return make_source(_open_file(path, chosen, split), chosen, split)
    if is_cityscapes(path):
        ignore = IGNORED_IDS if chosen.ignore is None else chosen.ignore
        return make_source(open_cityscapes(path, chosen, split), replace(chosen, ignore=(*ignore, 255)), split)
    return make_source(_open_in_folder(path, chosen, split), chosen, split)


def _open_file(path: str, options: MaskOptions, split: str | None) -> MaskLayout:
    ending = os.path.splitext(path)[1].lower()
    if ending == ".json":
        return open_coco(os.path.dirname(path) or ".", [path], options, split, path)
    if ending == ".npz":
        return open_mask_arrays(path, split)
    if ending in (".tar", ".zip"):
        return open_mask_archive([path], options, split, path)
    raise ValueError(
        f"{path!r} has no masks that are understood; expected a folder, a list, COCO's .json, .npz, .tar or .zip"
    )


def _open_in_folder(root: str, options: MaskOptions, split: str | None) -> MaskLayout:
    if is_voc(root):
        return open_voc(root, options, split)
    if annotations := find_annotations(root):
        return open_coco(root, annotations, options, split, root)
    if is_labelme(root):
        return open_labelme(root, options, split)
    if tars := list_tars(root):
        layout = open_mask_archive([os.path.join(root, tar) for tar in tars], options, split, root)
        index = read_index(root, os.listdir(root))
        return replace(layout, listed=_packed_classes(index), is_fixed=True) if index else layout
    return open_folders(root, options, split)


def _packed_classes(index: Index) -> list[ListedClass]:
    """Return the classes of a pack's masks; a pack without masks is a ValueError."""
    masks = next(iter(index["parts"].values())).get("masks")
    if masks is None:
        raise ValueError("the pack was made of images without masks; pack images with masks")
    colours = [(int(r), int(g), int(b)) for r, g, b in masks["palette"]]
    return [ListedClass(str(name), i, colour) for i, (name, colour) in enumerate(zip(masks["classes"], colours))]
