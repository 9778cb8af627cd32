"""LabelMe: a JSON an image with shapes, drawn as a mask in the order of the file.

Pixels of no shape are of a class "background", or ignored with zero_is_background=false. The classes are the labels of
all files in the order of their names, or those of a class list.
"""

import base64
import functools
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paddlemae.data.decode.limits import check_size
from paddlemae.data.masks.class_file import ListedClass, find_class_file, read_class_file
from paddlemae.data.masks.find_classes import BACKGROUND
from paddlemae.data.masks.layout import MaskLayout
from paddlemae.data.masks.mask_file import StoredMask
from paddlemae.data.masks.options import MaskOptions
from paddlemae.data.masks.shapes import fill_polygon
from paddlemae.data.sources.labels import sort_names
from paddlemae.data.sources.readers import FileReader, file_stamp
from paddlemae.data.sources.source import BadMask
from paddlemae.data.sources.splits import choose_split, list_names, split_of
from paddlemae.data.sources.string_table import StringTable

_CIRCLE_CORNERS = 64
_NO_AREA = ("point", "points", "line", "linestrip")
_IGNORED_LABELS = ("__ignore__", "_background_")


@dataclass(frozen=True, eq=False)
class LabelMeMasks:
    """Masks drawn from JSON files.

    Args:
        root: the folder that is away when they are.
        files: paths relative to it.
        values: label -> its value in masks.
    """

    root: str
    files: StringTable
    values: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return len(self.files)

    def describe(self, i: int) -> str:
        return os.path.join(self.root, self.files[i])

    def read_stored(self, i: int) -> StoredMask:
        path, value_of = self.describe(i), dict(self.values)
        content = read_labelme(path)
        try:
            size = (int(content["imageHeight"]), int(content["imageWidth"]))
            check_size(size)
            values = np.zeros(size, np.uint16)
            for shape in content["shapes"]:
                if shape["label"] in _IGNORED_LABELS:
                    continue
                if shape["label"] not in value_of:
                    raise ValueError(f"the label {shape['label']!r} is not in the class list")
                values[_inside(shape, size)] = value_of[shape["label"]]
        except (KeyError, TypeError, ValueError, OverflowError) as fault:
            raise BadMask(f"mask {path!r}: {type(fault).__name__} {fault}; correct the file") from fault
        return StoredMask(values)

    def stamp(self, i: int) -> str:
        return f"{self.files[i]}\0{file_stamp(self.describe(i))}"


def read_labelme(path: str) -> dict[str, Any]:
    """Return the content of a JSON without the image in it; anything else than LabelMe's is a `BadMask`."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as fault:
        raise BadMask(f"cannot read {path!r}: {' '.join(str(fault).split())[:100]}") from fault
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise BadMask(f"{path!r} is no LabelMe JSON: it has no list 'shapes'")
    if not all(isinstance(each, dict) and isinstance(each.get("label"), str) for each in content["shapes"]):
        raise BadMask(f"{path!r} is no LabelMe JSON: a shape in it has no label")
    content.pop("imageData", None)
    return content


def _inside(shape: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels lie inside a shape; of lines and points none do."""
    kind = shape.get("shape_type") or "polygon"
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    if kind == "mask":
        return _inside_stored(shape["mask"], points, size)
    if kind in _NO_AREA:
        return np.zeros(size, np.bool_)
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    elif kind == "circle" and len(points) == 2:
        angles = np.arange(_CIRCLE_CORNERS) * 2 * np.pi / _CIRCLE_CORNERS
        radius = float(np.hypot(*(points[1] - points[0])))
        points = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif kind not in ("polygon", "rectangle", "rotation") or len(points) < 3:
        raise ValueError(f"a shape of kind {kind!r} with {len(points)} points, of which no mask can be drawn")
    return fill_polygon(points, size)


def _inside_stored(text: str, points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of a shape that stores one as a PNG in a box."""
    with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
        stored = np.asarray(image) > 0
    inside = np.zeros(size, np.bool_)
    left, top = points[0].round().astype(int).tolist()
    part = inside[max(top, 0) : top + stored.shape[0], max(left, 0) : left + stored.shape[1]]
    part |= stored[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]]
    return inside


def is_labelme(root: str) -> bool:
    """Return whether a folder's first JSON, at most two folders deep, is LabelMe's."""
    for folder, folders, names in os.walk(root):
        depth = os.path.relpath(folder, root).count(os.sep) + (folder != root)
        folders[:] = sorted(each for each in folders if not each.startswith(".")) if depth < 2 else []
        for name in sorted(names):
            if name.endswith(".json"):
                with open(os.path.join(folder, name), "rb") as file:
                    start = file.read(1 << 12)
                return b'"shapes"' in start or b'"imagePath"' in start
    return False


def open_labelme(root: str, options: MaskOptions, split: str | None) -> MaskLayout:
    """Open the images of a folder with a LabelMe JSON each, next to it or where the JSON says.

    Raises:
        MissingSplit, ValueError: no such split, or images that are not there.
    """
    files = [
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(".json")
    ]
    every = sorted(file for file in files if file not in ("classes.json",))
    counts = {file.split(os.sep)[0]: 1 for file in every if os.sep in file}
    folder = choose_split(counts, split, repr(root), "subfolder") if any(map(split_of, counts)) else None
    if folder is None:
        choose_split({}, split, repr(root), "subfolder")
    chosen = [file for file in every if folder is None or file.startswith(folder + os.sep)]
    images = [_image_of(root, file) for file in chosen]
    if missing := [file for file, image in zip(chosen, images) if image is None]:
        raise ValueError(f"{root!r}: the images of {len(missing):,} JSONs are missing ({list_names(missing[:3])})")
    named = options.classes or ((found := find_class_file(root)) and read_class_file(found)) or None
    stamp = "".join(f"{file}\0{file_stamp(os.path.join(root, file))}\n" for file in every)
    names = [each.name for each in named] if named else _labels(root, tuple(every), stamp)
    listed = [ListedClass(name, value) for value, name in enumerate(names, start=1) if name != BACKGROUND]
    values = tuple((each.name, each.value or 0) for each in listed)
    masks = LabelMeMasks(root, StringTable.of(chosen), (*values, (BACKGROUND, 0)))
    reader = FileReader(root, StringTable.of(image for image in images if image))
    background = [ListedClass(BACKGROUND, 0)] if options.zero_is_background is not False else []
    return MaskLayout(root, reader, masks, masks, [*background, *listed], is_fixed=True)


def _image_of(root: str, file: str) -> str | None:
    """Return the path of a JSON's image, relative to the root: where it says, or next to it by the same stem."""
    folder, name = os.path.split(file)
    said = str(read_labelme(os.path.join(root, file)).get("imagePath") or "").replace("\\", "/")
    places = [os.path.join(folder, said), os.path.join(folder, os.path.basename(said))] if said else []
    stem = os.path.join(folder, os.path.splitext(name)[0])
    places += [stem + end for end in (".jpg", ".png", ".jpeg", ".tif", ".bmp")]
    return next((os.path.normpath(place) for place in places if os.path.isfile(os.path.join(root, place))), None)


@functools.lru_cache(maxsize=4)
def _labels(root: str, files: Sequence[str], stamp: str) -> tuple[str, ...]:
    """Return the labels in all files, sorted."""
    names = {
        shape["label"]
        for file in files
        for shape in read_labelme(os.path.join(root, file))["shapes"]
        if shape["label"] not in _IGNORED_LABELS
    }
    return sort_names(names)
