"""Images in archives: a tar or zip gives those that its unpacked folder would give, in that order, a shard its samples.

Nothing is unpacked. Of an entry that comes twice the last one counts, as it does when the archive is unpacked.
"""

import os
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar
from zipfile import ZipInfo

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.images import ARRAY_EXTENSION, EXTENSIONS
from paddlemae.data.sources.labels import PARTS, class_folders, files_of_part, labels_by_folder, numbered, part_of
from paddlemae.data.sources.names import Names
from paddlemae.data.sources.shards import SIDECARS, Samples, ending_of, is_shard, label_of, samples_of
from paddlemae.data.sources.source import EncodedSource
from paddlemae.data.sources.tar import Entry, TarContents, entries
from paddlemae.data.sources.zipped import zip_contents, zip_entries

_PICTURES = frozenset(EXTENSIONS)
_IMAGES = frozenset((*EXTENSIONS, ARRAY_EXTENSION))
_MOST_NAMES = 1_000_000
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")

_Stored = TypeVar("_Stored", Entry, ZipInfo)


def expanded(pattern: str) -> list[str]:
    """Return the names that a pattern with braces means: `{000..099}`, zeros in front kept, or `{train,val}`."""
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    first, last, words = found.groups()
    if not words and int(last) - int(first) >= _MOST_NAMES:
        raise ValueError(f"{pattern!r} means more than {_MOST_NAMES} files")
    middles = words.split(",") if words else [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    return [each for m in middles for each in expanded(pattern[: found.start()] + m + pattern[found.end() :])]


def open_zip(path: str, split: str | None, labelled: bool) -> EncodedSource:
    """Return the images in a zip."""
    listing = _Listing[ZipInfo]()
    for name, kind, info in zip_entries(path):
        listing.add(name, kind, info)
    _warn(path, refused=listing.refused, replaced=listing.replaced)
    chosen = _chosen(path, sorted(listing.images()), listing.folders, split, labelled)
    contents = zip_contents(path, chosen.names, [listing.files[name] for name in chosen.names])
    return EncodedSource(path, contents, chosen.labels, chosen.classes)


def open_tars(paths: Sequence[str], name: str, split: str | None, labelled: bool, root: str = "") -> EncodedSource:
    """Return the images in a tar, or in shards.

    Args:
        paths: the tars of all splits.
        name: how they were named.
        split: of shards, those whose paths below `root` have the word.
        root: the folder that holds all; by default the first one's.
    Raises:
        ValueError: a tar that is damaged or cut short; no images; no labels.
    """
    root = root or os.path.dirname(paths[0]) or "."
    only = _listed(paths[0], labelled) if len(paths) == 1 else None
    if only and not is_shard(only.files):
        _warn(name, refused=only.refused, replaced=only.replaced)
        chosen = _chosen(name, sorted(only.images()), only.folders, split, labelled)
        contents = _contents(root, paths, [(0, only.files[each]) for each in chosen.names])
        return EncodedSource(name, contents, chosen.labels, chosen.classes)
    relative = [os.path.relpath(path, root) for path in paths]
    selected = [os.path.join(root, file) for file in files_of_part(relative, split, repr(name))]
    shards = _shards(selected, labelled)
    _warn(name, refused=shards.refused, replaced=shards.replaced, further=shards.further)
    if not shards.images:
        raise ValueError(f"no images in {name!r}; expected entries named like 0001.jpg, {_endings()}")
    contents = _contents(root, selected, shards.images)
    if not labelled:
        return EncodedSource(name, contents)
    if not shards.have_samples:
        around = _around_all(sorted(contents.files), PARTS if len(selected) == len(paths) else ())
        return EncodedSource(name, contents, *_classes(name, around, list(contents.files), shards.folders))
    known: tuple[str, ...] = ()
    if split == "test":
        trained_on = [os.path.join(root, file) for file in files_of_part(relative, "train", repr(name))]
        if trained_on != selected:
            known = numbered(_shards(trained_on, True).labels(), name)[1]
    return EncodedSource(name, contents, *numbered(shards.labels(), name, known))


@dataclass(eq=False)
class _Listing(Generic[_Stored]):
    """What an archive gives when it is unpacked.

    Attributes:
        files: by name, in the order of their first entries.
        folders: of directories, and of files that are no images, with a "/" behind.
        refused: names of entries that no image may come from.
        replaced: names of images that came again.
    """

    files: dict[str, _Stored] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)

    def add(self, name: str, kind: str, stored: _Stored) -> None:
        if kind == "folder":
            self.folders.add(f"{name}/")
        elif kind == "other":
            self.files.pop(name, None)
            self.refused.append(name)
        else:
            if ending_of(name) not in _IMAGES:
                self.folders.add(name[: name.rfind("/") + 1])
            elif name in self.files:
                self.replaced.append(name)
            self.files[name] = stored

    def images(self) -> list[str]:
        return [name for name in self.files if ending_of(name) in _IMAGES]


def _listed(path: str, labelled: bool) -> _Listing[Entry]:
    """Return what a tar holds; with the contents of the files that labels may be in, if these are needed."""
    listing = _Listing[Entry]()
    for entry in entries(path, lambda name: labelled and ending_of(name) in SIDECARS):
        if entry.kind == "copy":
            original = listing.files.get(entry.target)
            entry = original._replace(name=entry.name) if original else entry._replace(kind="other")
        listing.add(entry.name, entry.kind, entry)
    return listing


@dataclass(eq=False)
class _Shards:
    """Images of several tars, as they are stored.

    Attributes:
        images: which tar, which entry.
        beside: the sidecars of each; none in tars that are no shards.
        further: names of pictures that are not the first of their samples.
    """

    images: list[tuple[int, Entry]] = field(default_factory=list)
    beside: list[Mapping[str, bytes | None]] = field(default_factory=list)
    have_samples: bool = False
    folders: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    further: list[str] = field(default_factory=list)

    def labels(self) -> list[str]:
        return [label_of(entry.name, beside) for (_, entry), beside in zip(self.images, self.beside)]


def _shards(paths: Sequence[str], labelled: bool) -> _Shards:
    found = _Shards()
    for number, path in enumerate(paths):
        listing = _listed(path, labelled)
        if is_shard(listing.files):
            samples = samples_of(listing.files)
            found.have_samples = True
            found.further += samples.further
        else:
            images = [listing.files[name] for name in _counted(listing.images())]
            samples = Samples(images, [{} for _ in images])
        found.images += [(number, entry) for entry in samples.images]
        found.beside += samples.beside
        found.folders |= listing.folders
        found.refused += listing.refused
        found.replaced += listing.replaced
    return found


def _contents(root: str, paths: Sequence[str], images: Sequence[tuple[int, Entry]]) -> TarContents:
    return TarContents(
        root,
        tuple(paths),
        np.array([which for which, _ in images], np.int32),
        np.array([entry.offset for _, entry in images], np.int64),
        np.array([entry.size for _, entry in images], np.int64),
        Names.of(entry.name for _, entry in images),
    )


class _Chosen(NamedTuple):
    """Images of a split, with labels where they are needed."""

    names: list[str]
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()


def _chosen(name: str, files: list[str], folders: Collection[str], split: str | None, labelled: bool) -> _Chosen:
    """Return the images of an archive whose folders are splits and classes; one folder around all does not count.

    Args:
        files: of all images and arrays, sorted.
        folders: others than theirs.
    """
    if not files:
        raise ValueError(f"no images in {name!r}; expected entries {_endings()}")
    around = _around_all(_counted(files))
    part = part_of(_first_folders(around, (*files, *folders)), split, repr(name), "folder")
    around += f"{part}/" if part else ""
    chosen = _counted([file for file in files if file.startswith(around)])
    if not chosen:
        raise ValueError(f"no images in '{name}/{around}'; expected entries {_endings()}")
    if not labelled:
        return _Chosen(chosen)
    return _Chosen(chosen, *_classes(name, around, chosen, {*files, *folders}))


def _classes(
    name: str, around: str, files: Sequence[str], folders: Collection[str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return (labels, classes) by the first folders below the one around all."""
    inside = [file[len(around) :] for file in files]
    classes = class_folders(f"{name}/{around}".rstrip("/"), inside, _first_folders(around, (*files, *folders)))
    return labels_by_folder(inside, classes), classes


def _counted(files: list[str]) -> list[str]:
    """Return the pictures or, where there are none, the arrays."""
    return [file for file in files if ending_of(file) in _PICTURES] or files


def _first_folders(around: str, paths: Iterable[str]) -> set[str]:
    """Return the first folders of the paths below another."""
    start = len(around)
    return {path[start : path.index("/", start)] for path in paths if path.startswith(around) and "/" in path[start:]}


def _around_all(files: Sequence[str], kept: Collection[str] = PARTS) -> str:
    """Return the folders, with a slash, that all files are in, up to one that is a split.

    Args:
        files: sorted.
        kept: names of splits.
    """
    around = ""
    for first, last in zip(files[0].split("/")[:-1], files[-1].split("/")[:-1]):
        if first != last or first in kept:
            break
        around += f"{first}/"
    return around


def _endings() -> str:
    return f"ending in {' '.join(EXTENSIONS)} or {ARRAY_EXTENSION}"


def _warn(name: str, *, refused: list[str], replaced: list[str], further: Sequence[str] = ()) -> None:
    """Say what of an archive is not read."""
    for names, what in (
        (refused, "entries are links, devices, encrypted or lead out of it, and are left out"),
        (replaced, "images come again under the same name; the last one counts, as when it is unpacked"),
        (
            further,
            "images are not the first of their sample (the files of one name up to its first dot), and are left out",
        ),
    ):
        if names:
            warnings.warn(f"{name!r}: {len(names)} {what}; first: {names[0]!r}", stacklevel=4)
