"""COCO's JSON: polygons and run lengths of objects, drawn as masks, the larger ones first.

Pixels of no object are of a class "background" (id 0), or ignored with zero_is_background=false. Files are looked for
next to the JSON, in `images`, and in folders called like the split. A folder holds one JSON a split
(`annotations/instances_train2017.json`, or Roboflow's `train/_annotations.coco.json`) or one in all.
"""

import functools
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.limits import check_size
from paddlemae.data.masks.class_file import ListedClass, check_classes
from paddlemae.data.masks.find_classes import BACKGROUND
from paddlemae.data.masks.layout import MaskLayout
from paddlemae.data.masks.mask_file import StoredMask
from paddlemae.data.masks.options import MaskOptions
from paddlemae.data.masks.shapes import decode_runs, fill_polygons, polygon_area, run_lengths
from paddlemae.data.sources.readers import FileReader, file_stamp
from paddlemae.data.sources.source import BadMask
from paddlemae.data.sources.splits import choose_split, files_of_split, list_names, note, split_of, words_of
from paddlemae.data.sources.string_table import StringTable

_INSTANCES = "instances_"
_SUFFIX = ".coco.json"
_KEYS = ("images", "annotations", "categories")


@dataclass(frozen=True, eq=False)
class CocoMasks:
    """Masks drawn from the objects of a COCO JSON.

    Args:
        path: the JSON.
        ids: of the images in it.
        stamped: a text that changes when the JSON does.
    """

    path: str
    ids: tuple[int | str, ...]
    stamped: str

    def __len__(self) -> int:
        return len(self.ids)

    def describe(self, i: int) -> str:
        return f"{self.path}, image {self.ids[i]}"

    def read_stored(self, i: int) -> StoredMask:
        document = read_coco(self.path, self.stamped)
        image = document.images[self.ids[i]]
        size = (int(image["height"]), int(image["width"]))
        try:
            check_size(size)
            values, objects = np.zeros(size, np.uint16), document.objects.get(self.ids[i], [])
            for each in sorted(objects, key=_area, reverse=True):
                values[_inside(each, size)] = document.value_of[each["category_id"]]
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as fault:
            raise BadMask(f"{self.describe(i)}: {' '.join(str(fault).split())}; correct it") from fault
        return StoredMask(values)

    def stamp(self, i: int) -> str:
        return f"{self.ids[i]}\0{self.stamped}"


@dataclass(frozen=True, eq=False)
class Coco:
    """A COCO JSON.

    Args:
        images: by their ids.
        objects: annotations by the ids of their images.
        value_of: id of a category -> its value in masks; 0 is the background.
        listed: the classes with these values.
    """

    images: dict[int | str, dict[str, Any]]
    objects: dict[int | str, list[dict[str, Any]]]
    value_of: dict[int, int]
    listed: tuple[ListedClass, ...]


@functools.lru_cache(maxsize=4)  # not a field of the reader: it would travel to every worker
def read_coco(path: str, stamped: str) -> Coco:
    """Return the content of a JSON; anything else than COCO's is a ValueError."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as fault:
        raise ValueError(f"cannot read {path!r}: {' '.join(str(fault).split())[:100]}") from fault
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in _KEYS):
        raise ValueError(f"{path!r} is no COCO JSON; expected the lists {list_names(_KEYS)}")
    try:
        images = {image["id"]: image for image in content["images"]}
        objects: dict[int | str, list[dict[str, Any]]] = defaultdict(list)
        for each in content["annotations"]:
            objects[each["image_id"]].append(each)
        value_of, listed = _classes(content["categories"], path)
        unknown = {each["category_id"] for each in content["annotations"]} - value_of.keys()
        if any(not image["file_name"] or min(image["height"], image["width"]) < 1 for image in images.values()):
            raise ValueError("an image without name or size")
    except (KeyError, TypeError, ValueError) as fault:
        raise ValueError(f"{path!r} is no COCO JSON that is understood: {type(fault).__name__} {fault}") from fault
    if unknown:
        raise ValueError(f"{path!r} has annotations of the category {min(unknown)}, which it does not list")
    return Coco(images, dict(objects), value_of, listed)


def _classes(categories: Sequence[dict[str, Any]], path: str) -> tuple[dict[int, int], tuple[ListedClass, ...]]:
    """Return (id -> value, the classes): the background is 0, and the categories follow in the order of their ids."""
    ordered = sorted(categories, key=lambda category: int(category["id"]))
    names = [str(category["name"]) for category in ordered]
    has_own = BACKGROUND in names  # such as category 0 of programs that number it too
    names = [name for name in names if name != BACKGROUND]
    listed = [ListedClass(BACKGROUND, 0), *(ListedClass(name, value) for value, name in enumerate(names, start=1))]
    check_classes(listed, path)
    value_of = {each.name: each.value or 0 for each in listed}
    if has_own:
        value_of[BACKGROUND] = 0
    return {int(category["id"]): value_of[str(category["name"])] for category in ordered}, tuple(listed)


def _area(each: dict[str, Any]) -> float:
    """Return the pixels of an object."""
    shape = each.get("segmentation")
    if isinstance(shape, dict):
        return float(run_lengths(shape)[1::2].sum())
    return sum(map(polygon_area, shape or ()))


def _inside(each: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    shape = each.get("segmentation")
    if isinstance(shape, dict):
        return decode_runs(shape, size)
    if isinstance(shape, list) and shape:
        return fill_polygons(shape, size)
    if each.get("bbox"):
        raise ValueError("a box without a polygon or run lengths, of which no mask can be drawn")
    raise ValueError("no polygon and no run lengths")


def find_annotations(root: str) -> list[str]:
    """Return the paths of COCO's JSONs in a folder, in its `annotations`, and in its folders of splits."""
    folders = [root, os.path.join(root, "annotations")]
    with os.scandir(root) as entries:
        folders += sorted(entry.path for entry in entries if entry.is_dir() and split_of(entry.name))
    found = [
        os.path.join(folder, name)
        for folder in folders
        if os.path.isdir(folder)
        for name in sorted(os.listdir(folder))
        if name.endswith(_SUFFIX) or (name.endswith(".json") and _begins_like_coco(os.path.join(folder, name)))
    ]
    instances = [path for path in found if os.path.basename(path).startswith(_INSTANCES)]
    return instances or found  # next to COCO's own captions and key points


def _begins_like_coco(path: str) -> bool:
    """Return whether a JSON's name or first bytes are COCO's, without reading all of it."""
    if os.path.basename(path).startswith(_INSTANCES):
        return True
    with open(path, "rb") as file:
        start = file.read(1 << 16)
    return start.lstrip().startswith(b"{") and any(
        f'"{key}"'.encode() in start for key in ("annotations", "categories", "licenses")
    )


def open_coco(root: str, paths: Sequence[str], options: MaskOptions, split: str | None, name: str) -> MaskLayout:
    """Open the images of a split.

    Args:
        root: the folder that holds all.
        paths: JSONs of all splits.
        name: for messages.
    Raises:
        MissingSplit, ValueError: no such split, no image with an annotation, images that are not there.
    """
    if options.classes:
        raise ValueError(f"{name!r} lists its classes itself; choose and merge them with ::select=NAME,NEW=NAME+NAME")
    path = _of_split(root, paths, split, name)
    document = read_coco(path, file_stamp(path))
    folder = _find_images(root, path, document, options)
    known = {ident: image["file_name"] for ident, image in document.images.items()}
    present = {ident: file for ident, file in known.items() if os.path.lexists(os.path.join(folder, file))}
    if missing := [file for ident, file in known.items() if ident not in present]:
        text = f"{name!r}: {len(missing):,} images of {path!r} are missing ({list_names(missing[:3])})"
        if not options.skip_unpaired or not present:
            raise ValueError(f"{text}; name their folder with ::images=FOLDER, or leave them out with ::unpaired=skip")
        note(f"{text}: left out")
    ordered = sorted(present, key=lambda ident: present[ident])
    masks = CocoMasks(path, tuple(ordered), file_stamp(path))
    listed = document.listed if options.zero_is_background is not False else document.listed[1:]
    reader = FileReader(folder, StringTable.of(present[ident] for ident in ordered))
    return MaskLayout(name, reader, masks, masks, listed, is_fixed=True)


def _of_split(root: str, paths: Sequence[str], split: str | None, name: str) -> str:
    if len(paths) == 1:
        words = words_of(os.path.relpath(paths[0], root))
        choose_split([word for word in words if split_of(word)], split, repr(name), "JSON named by")
        return paths[0]
    chosen = files_of_split([os.path.relpath(path, root) for path in paths], split, repr(name), "JSON")
    if len(chosen) != 1:
        raise ValueError(
            f"{name!r} has the JSONs {list_names(chosen)}; name one, or put the word of its split into each name"
        )
    return os.path.join(root, chosen[0])


def _find_images(root: str, path: str, document: Coco, options: MaskOptions) -> str:
    """Return the folder that the images' paths are relative to: the first with one of them."""
    if not document.images:
        raise ValueError(f"{path!r} lists no images")
    first = next(iter(document.images.values()))["file_name"]
    folder, stem = os.path.dirname(path), os.path.splitext(os.path.basename(path))[0]
    if options.images:
        return os.path.join(root, os.path.expanduser(options.images))
    words = [stem.removeprefix(_INSTANCES), *sorted(word for word in words_of(stem) if split_of(word))]
    bases = dict.fromkeys([folder, root, os.path.dirname(root.rstrip("/")) or "."])
    parts = ["", "images", *[os.path.join("images", word) for word in words], *words]
    places = [os.path.join(base, part) for base in bases for part in parts]
    return next((place for place in places if os.path.lexists(os.path.join(place, first))), places[0])
