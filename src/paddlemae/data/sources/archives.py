"""Images in archives: a tar or zip with folders in it, or the shards of a WebDataset.

A tar is a shard when files beside its images are named alike: `0001.jpg` and `0001.cls`. Images of an archive are in
their names' order, as those of the unpacked folder would be; those of shards as they are stored.
"""

import json
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from paddlemae.data.images import ARRAY_EXTENSION, EXTENSIONS
from paddlemae.data.sources.labels import (
    MissingPart,
    as_labels,
    class_folders,
    files_of_part,
    is_whole,
    labels_by_folder,
    numbered,
    of_split,
    split_of,
)
from paddlemae.data.sources.names import Names
from paddlemae.data.sources.source import EncodedSource
from paddlemae.data.sources.tar import Entry, TarContents, entries
from paddlemae.data.sources.zipped import ZipContents, zip_contents

SIDECARS = (".cls", ".json", ".txt")  # where a shard's labels are, the first that is there
_IMAGES = frozenset((*EXTENSIONS, ARRAY_EXTENSION))
_JSON_KEYS = ("label", "cls", "class")
_MOST_NAMES = 1_000_000
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


def expanded(pattern: str) -> list[str]:
    """The names that a pattern with braces means: `{000..099}`, zeros in front kept, or `{train,val}`."""
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    first, last, words = found.groups()
    if not words and int(last) - int(first) >= _MOST_NAMES:
        raise ValueError(f"{pattern!r} means more than {_MOST_NAMES} files")
    middles = words.split(",") if words else [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    return [each for m in middles for each in expanded(pattern[: found.start()] + m + pattern[found.end() :])]


def open_zip(path: str, split: str | None, labelled: bool) -> EncodedSource:
    """The images in a zip."""
    refused: list[str] = []
    contents = zip_contents(path, _is_image, refused)
    _tell(path, refused)
    return _with_folders(path, contents, split, labelled)


def open_tars(paths: Sequence[str], name: str, split: str | None, labelled: bool) -> EncodedSource:
    """The images in a tar, or in shards.

    Args:
        paths: the tars of all parts.
        name: how they were named.
        split: for shards, those whose names have the word.
    Raises:
        ValueError: a shard that is damaged or cut short; no images; no labels.
    """
    root = os.path.dirname(paths[0]) or "."
    alone = _listed(paths, labelled) if len(paths) == 1 else None
    if alone and not alone.has_sidecars:
        contents = _contents(root, paths, alone, sorted(range(len(alone.images)), key=alone.name_of))
        return _with_folders(name, contents, split, labelled)
    relative = [os.path.relpath(path, root) for path in paths]
    chosen = [os.path.join(root, file) for file in files_of_part(relative, split, repr(name))]
    listing = alone or _listed(chosen, labelled)
    contents = _contents(root, chosen, listing, range(len(listing.images)))
    if not len(contents):
        raise ValueError(f"no images in {name!r}; expected entries named like 0001.jpg, {_endings()}")
    if not labelled:
        return EncodedSource(name, contents)
    known: tuple[str, ...] = ()
    if split == "test" and (trained_on := _trained_on(root, relative, name)) not in ([], chosen):
        known = _classes_of(_listed(trained_on, labelled=True), name)
    if not listing.has_sidecars:
        classes = class_folders(name, contents.files, known=known)
        return EncodedSource(name, contents, labels_by_folder(contents.files, classes), classes)
    return EncodedSource(name, contents, *numbered(listing.labels(), name, known))


def _trained_on(root: str, files: Sequence[str], name: str) -> list[str]:
    """The shards of the split to train on."""
    try:
        return [os.path.join(root, file) for file in files_of_part(files, "train", repr(name))]
    except MissingPart:
        return []


def _classes_of(listing: "_Listing", name: str) -> tuple[str, ...]:
    if listing.has_sidecars:
        return numbered(listing.labels(), name)[1]
    return class_folders(name, (entry.name for _, entry in listing.images))


@dataclass(eq=False)
class _Listing:
    """Images of tars, as they are stored, with the files beside them."""

    images: list[tuple[int, Entry]] = field(default_factory=list)  # which tar, which entry
    beside: list[dict[str, bytes | None]] = field(default_factory=list)  # of each image: ending -> content
    has_sidecars: bool = False

    def name_of(self, place: int) -> str:
        return self.images[place][1].name

    def labels(self) -> list[str]:
        return [_label_of(self.name_of(place), files) for place, files in enumerate(self.beside)]


def _listed(paths: Sequence[str], labelled: bool) -> _Listing:
    listing = _Listing()
    for number, path in enumerate(paths):
        refused: list[str] = []
        image_of: dict[str, int] = {}
        beside: dict[str, dict[str, bytes | None]] = {}
        for entry in entries(path, lambda name: labelled and _ending(name) in SIDECARS, refused):
            key, ending = _key(entry.name), _ending(entry.name)
            if ending in SIDECARS:
                beside.setdefault(key, {})[ending] = entry.content
            elif ending in _IMAGES and key not in image_of:
                image_of[key] = len(listing.images)
                listing.images.append((number, entry))
        _tell(path, refused)
        listing.has_sidecars |= any(key in image_of for key in beside)
        listing.beside += [beside.get(key, {}) for key in image_of]
    return listing


def _key(name: str) -> str:
    """What names a sample's files: the path up to the file name's first dot."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _ending(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") else ""


def _label_of(image: str, beside: dict[str, bytes | None]) -> str:
    for ending in SIDECARS:
        content = beside.get(ending)
        if content is None:
            continue
        text = content.decode("utf-8", "replace").strip()
        if ending == ".json":
            try:
                values = json.loads(text)
            except (ValueError, RecursionError):  # also of a number of more than 4,300 digits
                values = None
            key = next((key for key in _JSON_KEYS if key in values), None) if isinstance(values, dict) else None
            if key:
                return as_labels([values[key]], lambda _: f"{image!r} and its .json")[0]
        elif is_whole(text):
            return text
        raise ValueError(f"the label of {image!r} in its {ending} is no whole number: {text[:40]!r}; mend it")
    raise ValueError(f"labels need a file beside each image, as in 0001.jpg and 0001.cls, but {image!r} has none")


def _contents(root: str, paths: Sequence[str], listing: _Listing, order: Iterable[int]) -> TarContents:
    images = [listing.images[place] for place in order]
    return TarContents(
        root,
        tuple(paths),
        np.array([which for which, _ in images], np.int32),
        np.array([entry.offset for _, entry in images], np.int64),
        np.array([entry.size for _, entry in images], np.int64),
        Names.of(entry.name for _, entry in images),
    )


def _with_folders(name: str, contents: TarContents | ZipContents, split: str | None, labelled: bool) -> EncodedSource:
    """An archive whose folders are parts and classes, as a folder's are; one folder around all does not count."""
    files = list(contents.files)
    if not files:
        raise ValueError(f"no images in {name!r}; expected entries {_endings()}")
    around = _around_all(files)
    where = f"{name}/{around}".rstrip("/")
    part, labels, classes = of_split([file[len(around) :] for file in files], split, labelled, where)
    if part is not None:
        inside = f"{around}{part}/"
        contents = taken(contents, [place for place, file in enumerate(files) if file.startswith(inside)])
    return EncodedSource(name, contents, labels, classes)


def _around_all(files: Sequence[str]) -> str:
    """The folders, with a slash, that all files are in, unless they are parts."""
    kept = ""
    for first, last in zip(files[0].split("/")[:-1], files[-1].split("/")[:-1]):  # they are sorted
        if first != last or split_of(first):
            break
        kept += f"{first}/"
    return kept


def taken(contents: TarContents | ZipContents, chosen: Sequence[int]) -> TarContents | ZipContents:
    """Some of an archive's entries, in this order."""
    columns: dict[str, Any] = {
        column.name: value[list(chosen)]
        for column in fields(contents)
        if isinstance(value := getattr(contents, column.name), np.ndarray)
    }
    return replace(contents, files=Names.of(contents.files[place] for place in chosen), **columns)


def _is_image(name: str) -> bool:
    return _ending(name) in _IMAGES


def _endings() -> str:
    return f"ending in {' '.join(EXTENSIONS)} or {ARRAY_EXTENSION}"


def _tell(path: str, refused: list[str]) -> None:
    if refused:
        warnings.warn(
            f"{path!r}: {len(refused)} entries are links, devices, encrypted or lead out of it, and are left out; "
            f"first: {refused[0]!r}",
            stacklevel=4,
        )
