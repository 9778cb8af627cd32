"""PASCAL VOC, and CVAT's "Segmentation mask 1.1": ids of images in `ImageSets`, masks as palette or colour PNGs.

ImageSets/Segmentation/train.txt   ids, one a line
JPEGImages/ID.jpg                  images; perhaps of any other format, or in a folder `images`
SegmentationClass/ID.png           masks: 255 is the border between objects
labelmap.txt                       of CVAT: `road:128,64,128::`
"""

import os
import re
from collections.abc import Sequence

from paddlemae.data.decode.images import EXTENSIONS
from paddlemae.data.masks.class_file import ListedClass
from paddlemae.data.masks.folders import listed_classes
from paddlemae.data.masks.layout import MaskLayout, layout_of_files
from paddlemae.data.masks.options import MaskOptions
from paddlemae.data.masks.palette import VOC_COLOURS
from paddlemae.data.sources.splits import choose_split, list_names

MASKS = "SegmentationClass"
SETS = os.path.join("ImageSets", "Segmentation")
_IMAGES = ("JPEGImages", "images", "")
_BOTH = "trainval"  # a list of images to train on and to hold out
_PUBLISHED_ID = re.compile(r"\d{4}_\d{6}")
_PUBLISHED = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def is_voc(root: str) -> bool:
    """Return whether a folder has the layout at the top of this module."""
    return os.path.isdir(os.path.join(root, MASKS)) and os.path.isdir(os.path.join(root, SETS))


def open_voc(root: str, options: MaskOptions, split: str | None) -> MaskLayout:
    """Open a split of the layout.

    Raises:
        MissingSplit, ValueError: no such split, or files of listed ids that are not there.
    """
    lists = {name: _read_ids(os.path.join(root, SETS, f"{name}.txt")) for name in _list_names(root)}
    if split and len(lists) > 1:
        lists.pop(_BOTH, None)
    chosen = choose_split({name: len(ids) for name, ids in lists.items()}, split, repr(root), "list in ImageSets")
    ids = lists[chosen] if chosen else sorted({each for names in lists.values() for each in names})
    if not ids:
        raise ValueError(f"{root!r} lists no images in {SETS}")
    every = [os.path.join(MASKS, name) for name in sorted(os.listdir(os.path.join(root, MASKS))) if name[0] != "."]
    masks = [os.path.join(MASKS, f"{each}.png") for each in ids]
    images = _find_images(root, ids)
    missing = [mask for mask in masks if not os.path.isfile(os.path.join(root, mask))]
    if missing and not options.skip_unpaired:
        raise ValueError(f"{root!r}: {len(missing):,} listed masks are missing ({list_names(missing[:3])})")
    pairs = [(image, mask) for image, mask in zip(images, masks) if mask not in set(missing)]
    listed = listed_classes(root) or _published(ids)
    return layout_of_files(root, root, [a for a, _ in pairs], [b for _, b in pairs], every, listed, options)


def _list_names(root: str) -> list[str]:
    names = sorted(os.listdir(os.path.join(root, SETS)))
    return [name.removesuffix(".txt") for name in names if name.endswith(".txt")]


def _read_ids(path: str) -> list[str]:
    with open(path, encoding="utf-8-sig") as file:
        return [line.strip() for line in file if line.strip()]


def _find_images(root: str, ids: Sequence[str]) -> list[str]:
    """Return the image file of each id."""
    for folder in _IMAGES:
        if os.path.isdir(os.path.join(root, folder)):
            stems = {
                os.path.splitext(name)[0]: os.path.join(folder, name)
                for name in _files_below(os.path.join(root, folder))
                if name.lower().endswith(EXTENSIONS) and not (folder == "" and name.startswith("Segmentation"))
            }
            if any(each in stems for each in ids):
                break
    missing = [each for each in ids if each not in stems]
    if missing:
        raise ValueError(
            f"{root!r}: {len(missing):,} listed images are missing ({list_names(missing[:3])}); expected them in "
            f"{_IMAGES[0]!r}"
        )
    return [stems[each] for each in ids]


def _files_below(folder: str) -> list[str]:
    """Return the paths of files below a folder, relative to it and with "/"."""
    return [
        os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")
        for place, _, names in os.walk(folder)
        for name in names
    ]


def _published(ids: Sequence[str]) -> list[ListedClass] | None:
    """Return VOC's classes if the images are VOC's own."""
    if not all(map(_PUBLISHED_ID.fullmatch, ids)):
        return None
    colours = [(int(r), int(g), int(b)) for r, g, b in VOC_COLOURS[: len(_PUBLISHED)]]
    return [ListedClass(name, None, colour) for name, colour in zip(_PUBLISHED, colours)]
