"""Images in archives: a tar or zip gives those that its unpacked folder would give, in that order, a shard its samples.

Nothing is unpacked. Of an entry that comes twice the last one counts, as it does when the archive is unpacked.
"""

import contextlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from zipfile import ZipInfo

import numpy as np

from paddlemae.data.decode.images import ARRAY_EXTENSION, EXTENSIONS
from paddlemae.data.sources.archive_entries import RUN_MARKS, visible_folders
from paddlemae.data.sources.labels import class_folders, number_labels, sort_names, targets_by_folder
from paddlemae.data.sources.mask_folders import choose_images, without_sample_masks
from paddlemae.data.sources.readers import ContentReader
from paddlemae.data.sources.shards import Samples, ending_of, is_sidecar, label_of, samples_of
from paddlemae.data.sources.source import ClassTargets, Source
from paddlemae.data.sources.splits import MissingSplit, files_of_split, is_held_out, note, split_of
from paddlemae.data.sources.string_table import StringTable
from paddlemae.data.sources.subfolders import ARRAY, PICTURE, choose_folder, note_deeper_splits
from paddlemae.data.sources.tar import Entry, TarContents, read_entries
from paddlemae.data.sources.zip import begins_with_entry, zip_contents, zip_entries

_IMAGES = frozenset((*EXTENSIONS, ARRAY_EXTENSION))
_MOST_NAMES = 1_000_000
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")

_Stored = TypeVar("_Stored", Entry, ZipInfo)


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern with braces means: `{000..099}`, zeros in front kept, or `{train,val}`."""
    braces = _BRACES.search(pattern)
    if not braces:
        return [pattern]
    first, last, words = braces.groups()
    if not words and int(last) - int(first) >= _MOST_NAMES:
        raise ValueError(f"{pattern!r} expands to more than {_MOST_NAMES} files")
    middles = words.split(",") if words else [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    return [each for m in middles for each in expand_braces(pattern[: braces.start()] + m + pattern[braces.end() :])]


def open_zip(path: str, split: str | None, labelled: bool) -> Source:
    """Return the images in a zip."""
    listing, first = _Listing[ZipInfo](), -1
    for name, kind, info in zip_entries(path):
        listing.add(name, kind, info)
        first = info.header_offset if first < 0 else min(first, info.header_offset)
    listing.leave_out_masks()
    if first > 0 and begins_with_entry(path):
        note(
            f"{path!r}: its directory lists no entry of its first {first} bytes; of zips that were joined the last one "
            "is read, as when they are unpacked"
        )
    _warn(path, listing.refused, listing.replaced)
    names, targets = _choose(path, listing, split, labelled)
    contents = zip_contents(path, names, [listing.images[name] for name in names])
    return Source(path, ContentReader(contents), targets)


def open_tars(paths: Sequence[str], name: str, split: str | None, labelled: bool, root: str = "") -> Source:
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
    only = [_list_tar(paths[0], labelled)] if len(paths) == 1 else []
    if only and only[0][1] is None:  # no samples
        listing = only[0][0]
        _warn(name, listing.refused, listing.replaced)
        names, targets = _choose(name, listing, split, labelled)
        contents = _contents(root, paths, [(0, listing.images[each]) for each in names])
        return Source(name, ContentReader(contents), targets)
    relative = [os.path.relpath(path, root) for path in paths]
    selected = [os.path.join(root, file) for file in files_of_split(relative, split, repr(name))]
    shards = _join_tars(only or (_list_tar(path, labelled) for path in selected))
    _warn(name, shards.refused, shards.replaced, shards.further)
    if not shards.images:
        raise ValueError(f"no images in {name!r}; expected entries named like 0001.jpg, {_endings()}")
    contents = _contents(root, selected, shards.images)
    if not labelled:
        return Source(name, ContentReader(contents))
    train_classes: tuple[str, ...] = ()
    if is_held_out(split):
        with contextlib.suppress(MissingSplit):
            train = [os.path.join(root, file) for file in files_of_split(relative, "train", repr(name))]
            if train not in ([], selected):
                tars = _join_tars(_list_tar(path, True) for path in train)
                train_classes = _targets(name, tars, is_split=True).classes
    return Source(name, ContentReader(contents), _targets(name, shards, len(selected) < len(paths), train_classes))


@dataclass(eq=False)
class _Listing(Generic[_Stored]):
    """Contents of an archive as unpacking would write them.

    Attributes:
        images: pictures and arrays by name, in the order of their first entries.
        arrays: which of them are arrays.
        others: other files, and hidden ones.
        folders: with a "/" behind, of all these and of directories.
        refused: names of entries that no image may come from.
        replaced: names of images that came again.
    """

    images: dict[str, _Stored] = field(default_factory=dict)
    arrays: set[str] = field(default_factory=set)
    others: dict[str, _Stored] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)

    def add(self, name: str, kind: str, stored: _Stored) -> None:
        if kind == "file":
            self.folders.add(name[: name.rfind("/") + 1])
            ending = ending_of(name)
            if ending not in _IMAGES:
                self.others[name] = stored
                return
            if name in self.images:
                self.replaced.append(name)
            self.images[name] = stored
            if ending == ARRAY_EXTENSION:
                self.arrays.add(name)
        elif kind == "folder":
            self.folders.add(f"{name}/" if name else "")
        elif kind == "hidden":
            self.others[name] = stored
            self.folders.add(visible_folders(name))
        else:
            self.images.pop(name, None)
            self.refused.append(name)

    def leave_out_masks(self) -> None:
        """Count masks that stand next to their images, `1.mask.png` of `1.jpg`, among the other files."""
        kept = without_sample_masks(list(self.images))
        for name in self.images.keys() - set(kept) if len(kept) < len(self.images) else ():
            self.others[name] = self.images.pop(name)

    def images_among(self, names: list[str]) -> list[str]:
        """Return those of the names that count as images: the pictures or, where there are none, the arrays."""
        return ([name for name in names if name not in self.arrays] or names) if self.arrays else names


def _list_tar(path: str, labelled: bool) -> tuple[_Listing[Entry], Samples | None]:
    """Return what a tar holds, and its samples if it is a shard; with the contents of sidecars if labels are needed."""
    listing = _Listing[Entry]()
    for entry in read_entries(path, is_sidecar if labelled else lambda name: False):
        if entry.kind == "copy":
            original = listing.images.get(entry.target) or listing.others.get(entry.target)
            entry = original._replace(name=entry.name, kind="file") if original else entry._replace(kind="other")
        listing.add(entry.name, entry.kind, entry)
    listing.leave_out_masks()
    return listing, samples_of(listing.images, listing.others)


@dataclass(eq=False)
class _Shards:
    """Images of several tars, as they are stored.

    Attributes:
        images: which tar, which entry.
        sidecars: the sidecars of each; none in tars that are no shards.
        have_samples: whether a tar is a shard.
        further: names of pictures that are not the first of their samples.
    """

    images: list[tuple[int, Entry]] = field(default_factory=list)
    sidecars: list[Mapping[str, bytes | None]] = field(default_factory=list)
    have_samples: bool = False
    refused: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    further: list[str] = field(default_factory=list)


def _join_tars(tars: Iterable[tuple[_Listing[Entry], Samples | None]]) -> _Shards:
    shards = _Shards()
    for number, (listing, samples) in enumerate(tars):
        if samples:
            shards.have_samples = True
            shards.further += samples.further
        else:
            images = [listing.images[name] for name in listing.images_among(list(listing.images))]
            samples = Samples(images, [{} for _ in images])
        shards.images += [(number, entry) for entry in samples.images]
        shards.sidecars += samples.sidecars
        shards.refused += listing.refused
        shards.replaced += listing.replaced
    return shards


def _targets(name: str, shards: _Shards, is_split: bool, train_classes: tuple[str, ...] = ()) -> ClassTargets:
    """Return the labels of the samples, or those by folder where no tar is a shard."""
    if shards.have_samples:
        labels = [label_of(entry.name, sidecars) for (_, entry), sidecars in zip(shards.images, shards.sidecars)]
        return number_labels(labels, name, train_classes)
    files = [entry.name for _, entry in shards.images]
    around = _common_folders(sorted(files), stops=not is_split)
    below = [file[len(around) :] for file in files]
    return targets_by_folder(f"{name}/{around}".rstrip("/"), below, None, train_classes, is_split)


def _contents(root: str, paths: Sequence[str], images: Sequence[tuple[int, Entry]]) -> TarContents:
    return TarContents(
        root,
        tuple(paths),
        np.array([which for which, _ in images], np.int32),
        np.array([entry.offset for _, entry in images], np.int64),
        np.array([entry.size for _, entry in images], np.int64),
        StringTable.of(entry.name for _, entry in images),
    )


def _choose(
    name: str, listing: _Listing[Any], split: str | None, labelled: bool
) -> tuple[list[str], ClassTargets | None]:
    """Return (names, targets) of an archive whose folders are splits and classes; a folder around all is skipped."""
    files = sorted(_outside_runs(listing))
    if not files:
        raise ValueError(f"no images in {name!r}; expected entries {_endings()}")
    around = _of_images(name, files, _common_folders(listing.images_among(files)))
    folders = _first_folders(around, listing.folders)
    chosen_split = _split_folder(name, listing, around, folders, split)
    inside = _of_images(name, files, f"{around}{chosen_split}/") if chosen_split else around
    chosen = listing.images_among([file for file in files if file.startswith(inside)])
    if not chosen:
        raise ValueError(f"no images in '{name}/{inside}'; expected entries {_endings()}")
    if split and not chosen_split:
        note_deeper_splits(name, [file[len(around) :] for file in chosen])
    if not labelled:
        return chosen, None
    train_classes: tuple[str, ...] = ()
    train = next((folder for folder in folders if split_of(folder) == "train"), None)
    if chosen_split and is_held_out(split) and train:
        train_classes = sort_names(class_folders(_first_folders(f"{around}{train}/", listing.folders)))
    below = [file[len(inside) :] for file in chosen]
    first = _first_folders(inside, listing.folders)
    root = f"{name}/{inside}".rstrip("/")
    return chosen, targets_by_folder(root, below, first, train_classes, is_split=chosen_split is not None)


def _of_images(name: str, files: Sequence[str], around: str) -> str:
    """Return `around`, or the folder of images in it where another has their masks, as `mask_folders` does."""
    parts = [file[len(around) :].partition("/") for file in files if file.startswith(around)]
    folder = choose_images({first for first, slash, _ in parts if slash}, repr(name))
    return f"{around}{folder}/" if folder else around


def _outside_runs(listing: _Listing[Any]) -> list[str]:
    """Return the images that are in no folder of a training, whose pictures are no images of the archive."""
    with_mark = [{name[: -len(mark)] for name in listing.others if name.endswith(f"/{mark}")} for mark in RUN_MARKS]
    runs = tuple(set.intersection(*with_mark))
    return [name for name in listing.images if not name.startswith(runs)] if runs else list(listing.images)


def _split_folder(name: str, listing: _Listing[Any], around: str, folders: set[str], split: str | None) -> str | None:
    """Return which of the folders next to each other a split means, as `subfolders.subfolder_of` does; None for all."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    if split and any(split_of(folder) for folder in folders):
        for file in listing.images:
            if file.startswith(around):
                first, slash, _ = file[len(around) :].partition("/")
                counts[first if slash else ""][ARRAY if file in listing.arrays else PICTURE] += 1
    chosen = choose_folder(
        folders,
        split,
        repr(name),
        lambda folder: next((kind for kind in (PICTURE, ARRAY) if counts[folder][kind]), None),
        lambda folder, kind: counts[folder][kind],
    )
    if chosen and (loose := counts[""][PICTURE]):
        note(f"{name!r} leaves out {loose:,} image{'s' * (loose != 1)} in no folder of a split")
    return chosen


def _first_folders(around: str, folders: Iterable[str]) -> set[str]:
    """Return the first folders below another of paths that end with a "/"."""
    return {path[len(around) :].partition("/")[0] for path in folders if path.startswith(around) and path != around}


def _common_folders(files: Sequence[str], stops: bool = True) -> str:
    """Return the folders, with a slash, that all files, sorted, are in; `stops` ends them at a folder of a split."""
    around = ""
    for first, last in zip(files[0].split("/")[:-1], files[-1].split("/")[:-1]):
        if first != last or (stops and split_of(first)):
            break
        around += f"{first}/"
    return around


def _endings() -> str:
    return f"ending in {' '.join(EXTENSIONS)} or {ARRAY_EXTENSION}"


def _warn(name: str, refused: list[str], replaced: list[str], further: Sequence[str] = ()) -> None:
    """Warn of what of an archive is not read."""
    sample = "sample (the files of one name up to its first dot)"
    for names, what in (
        (refused, "entries are links, devices, sparse, encrypted or lead out of it, and are left out"),
        (replaced, "images come again under the same name; the last one counts, as when it is unpacked"),
        (further, f"images are not the first of their {sample}, and are left out"),
    ):
        if names:
            note(f"{name!r}: {len(names)} {what}; first: {names[0]!r}")
