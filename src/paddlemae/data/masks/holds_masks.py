"""Decide whether a source has masks, for commands that take images with and without."""

import os

from paddlemae.data.masks.arrays import MASK_ARRAYS
from paddlemae.data.masks.cityscapes import is_cityscapes
from paddlemae.data.masks.coco import find_annotations
from paddlemae.data.masks.folders import pair_rule
from paddlemae.data.masks.labelme import is_labelme
from paddlemae.data.masks.options import NAMES, MaskOptions
from paddlemae.data.masks.voc import is_voc
from paddlemae.data.sources.digit_scenes import DIGIT_SCENES
from paddlemae.data.sources.folder import list_images, list_tars
from paddlemae.data.sources.lists import MASK_COLUMNS, read_header
from paddlemae.data.sources.mask_folders import SAMPLE_SUFFIX
from paddlemae.data.sources.open import path_and_options
from paddlemae.data.sources.splits import words_of
from paddlemae.data.sources.tar import is_tar, read_entries
from paddlemae.data.sources.zip import read_directory

_SURE_COLUMNS = tuple(name for name in MASK_COLUMNS if "label" not in name)  # these may be classes


def holds_masks(spec: str) -> bool:
    """Return whether the masks of `spec` are found by themselves: by a layout's files, or by options of masks."""
    if spec.partition("::")[0] == DIGIT_SCENES:
        return True
    path, options = path_and_options(spec)
    if options.keys() & {*NAMES, "mask"}:
        return True
    if os.path.isdir(path):
        return _in_folder(path)
    ending = os.path.splitext(path)[1].lower()
    if not os.path.isfile(path):
        return False
    if ending in (".csv", ".tsv"):
        return any(name.lower() in _SURE_COLUMNS for name in read_header(path))
    if ending == ".npz":
        return any("masks" in words_of(info.filename) & set(MASK_ARRAYS) for info in read_directory(path))
    if ending == ".zip":
        return _has_masks([info.filename for info in read_directory(path)])
    return ending == ".json" or (ending == ".tar" and is_tar(path) and _has_masks(_names_in_tar(path)))


def _in_folder(root: str) -> bool:
    if is_voc(root) or is_cityscapes(root) or find_annotations(root):
        return True
    if tars := list_tars(root):
        return any(
            name.rpartition(".")[0].endswith(SAMPLE_SUFFIX) for name in _names_in_tar(os.path.join(root, tars[0]))
        )
    return is_labelme(root) or _has_masks(list_images(root, with_masks=True)[0])


def _names_in_tar(path: str) -> list[str]:
    return [entry.name for entry in read_entries(path, lambda name: False) if entry.kind == "file"]


def _has_masks(files: list[str]) -> bool:
    """Return whether both images and masks are among files."""
    rule = pair_rule(files, MaskOptions())
    kinds = {rule.kind(file) for file in files}
    return "mask" in kinds and ("image" in kinds or bool(rule.suffix))
