"""Cityscapes: `leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png` with `gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png`.

Of the 34 labels the 19 that its benchmark counts are classes; the others are ignored. `_labelTrainIds` files, which
have these 19 from 0 on, are read where there are no others; `_color` and `_instanceIds` never are.
"""

import os

from paddlemae.data.masks.class_file import Colour, ListedClass
from paddlemae.data.masks.layout import MaskLayout, layout_of_files
from paddlemae.data.masks.options import MaskOptions
from paddlemae.data.masks.pairs import Pairs, check_paired
from paddlemae.data.sources.folder import list_images
from paddlemae.data.sources.subfolders import subfolder_of

IMAGES, _IMAGE_END = "leftImg8bit", "_leftImg8bit"
_MASKS = ("gtFine", "gtCoarse")
_MASK_ENDS = ("_labelIds", "_labelTrainIds")
_CLASSES: tuple[tuple[int, str, Colour], ...] = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
IGNORED_IDS = tuple(sorted({*range(34)} - {value for value, _, _ in _CLASSES}))


def is_cityscapes(root: str) -> bool:
    """Return whether a folder has the layout at the top of this module."""
    return os.path.isdir(os.path.join(root, IMAGES)) and any(os.path.isdir(os.path.join(root, m)) for m in _MASKS)


def open_cityscapes(root: str, options: MaskOptions, split: str | None) -> MaskLayout:
    """Open a split of the layout; raises as `subfolder_of` and `check_paired`."""
    base = options.masks or next(name for name in _MASKS if os.path.isdir(os.path.join(root, name)))
    part = subfolder_of(os.path.join(root, IMAGES), split) or ""
    images = {_key(file, (_IMAGE_END,)): file for file in list_images(os.path.join(root, IMAGES, part))[0]}
    files = list_images(os.path.join(root, base, part))[0]
    end = next((end for end in _MASK_ENDS if any(_stem(file).endswith(end) for file in files)), _MASK_ENDS[0])
    masks = {_key(file, (f"_{base}{end}", end)): file for file in files if _stem(file).endswith(end)}
    both = sorted(images.keys() & masks.keys())
    pairs = Pairs(
        tuple(os.path.join(IMAGES, part, images[key]) for key in both),
        tuple(os.path.join(base, part, masks[key]) for key in both),
        tuple(images[key] for key in sorted(images.keys() - masks.keys())),
        tuple(masks[key] for key in sorted(masks.keys() - images.keys())),
    )
    check_paired(pairs, repr(root), options.skip_unpaired)
    listed = [
        ListedClass(name, number if end == _MASK_ENDS[1] else value, colour)
        for number, (value, name, colour) in enumerate(_CLASSES)
    ]
    return layout_of_files(root, root, pairs.images, pairs.masks, pairs.masks, listed, options)


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]


def _key(file: str, ends: tuple[str, ...]) -> str:
    stem = _stem(file)
    for end in ends:
        stem = stem.removesuffix(end)
    return stem
