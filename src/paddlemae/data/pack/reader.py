"""Read what `paddlemae data pack` wrote: shards of a WebDataset, and two files that say what is in them.

`pack.json` has the settings, the splits with their class names, and each shard's size and checksum; `images.npy` where
each image is, with its label and group, so that a pack is opened at once, however many images it has. The shards alone
can be read too, by other programs and by `archives`.

Shapes: N images; a row has an entry for each of `INDEX_COLUMNS`.
"""

import json
import os
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.sources.arrays import map_npy
from paddlemae.data.sources.labels import sort_classes
from paddlemae.data.sources.readers import ContentReader
from paddlemae.data.sources.source import ClassTargets, Source
from paddlemae.data.sources.splits import choose_split
from paddlemae.data.sources.string_table import StringTable
from paddlemae.data.sources.tar import TarContents

INDEX_FILE = "pack.json"
IMAGES_FILE = "images.npy"  # int64 [N, 6], in the order of the shards and their entries
JOURNAL_FILE = "packing.jsonl"  # of a pack that is not finished
SHARD_ENDING = ".tar"
PACK_FORMAT = 1  # of these files
# number in the source, place in the shard, bytes, which of `IMAGE_ENDINGS`; label and group, -1 where there are none
INDEX_COLUMNS = ("number", "offset", "size", "ending", "label", "group")
IMAGE_ENDINGS = ("jpg", "png", "webp", "npy")
_LEAST_BYTES = 1024  # of an image in a tar

Index = dict[str, Any]


def read_index(folder: str | os.PathLike[str], names: Collection[str]) -> Index | None:
    """Return the index of a finished pack; None if the folder, with files of these names, is not a pack.

    Raises:
        ValueError: a pack that is not finished, or whose index is damaged.
    """
    folder = os.fspath(folder)
    if INDEX_FILE not in names:
        if JOURNAL_FILE in names:
            raise ValueError(f"{folder!r} is an unfinished pack; rerun its 'paddlemae data pack' command to resume")
        return None
    if not any(name.endswith(SHARD_ENDING) for name in names):  # anyone may call a file among images so
        return None
    path = os.path.join(folder, INDEX_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            index = json.load(file)
    except (OSError, ValueError, RecursionError) as fault:
        raise ValueError(f"{path!r} can't be read ({fault}); copy it again, or remove it and the names") from fault
    if not isinstance(index, dict) or "pack" not in index:
        return None
    if index["pack"] != PACK_FORMAT:
        raise ValueError(f"{path!r} is of format {index['pack']!r}, not of {PACK_FORMAT}; update PaddleMAE")
    if not _is_sound(index):
        raise ValueError(f"{path!r} is damaged; copy it again")
    return index


def _is_sound(index: Index) -> bool:
    """Return whether an index has every entry that is used, of its type: packs come from anywhere."""
    try:
        splits, shards, files = index["parts"], index["shards"], listed_files(index)
        return (
            all(isinstance(file["name"], str) and os.sep not in file["name"] for file in files)
            and all(isinstance(file["sha256"], str) and type(file["bytes"]) is int for file in files)
            and {shard["part"] for shard in shards} == set(splits) != set()
            and all(type(shard["images"]) is int for shard in shards)
            and all(0 < shard["images"] * _LEAST_BYTES <= shard["bytes"] for shard in shards)
            and all(isinstance(split["classes"], list) and "groups" in split for split in splits.values())
            and all(isinstance(name, str) for split in splits.values() for name in split["classes"])
            and all(len(set(split["classes"])) == len(split["classes"]) for split in splits.values())
        )
    except (KeyError, TypeError, AttributeError):
        return False


def listed_files(index: Index) -> list[dict[str, Any]]:
    """Return the entries (name, bytes, sha256) of each file that the index lists."""
    return [*index["shards"], index["images"]]


def find_file_faults(folder: str | os.PathLike[str], files: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Compare the names and sizes of all of a pack's shards with entries of `listed_files`; return name -> fault."""
    faults = {}
    for file in files:
        try:
            size = os.stat(os.path.join(folder, file["name"])).st_size
        except OSError as fault:
            faults[file["name"]] = f"is missing ({fault.strerror})"
        else:
            if size != file["bytes"]:
                faults[file["name"]] = f"has {size} bytes instead of {file['bytes']}"
    listed = {file["name"] for file in files}
    strangers = sorted(name for name in os.listdir(folder) if name.endswith(SHARD_ENDING) and name not in listed)
    return faults | {name: f"is not in {INDEX_FILE}" for name in strangers}


def open_pack(folder: str, index: Index, split: str | None, labelled: bool) -> Source:
    """Open the images of a pack with the index that `read_index` gives.

    Raises:
        ValueError: files that are missing, of another size, or not in the index; no labels.
    """
    if faults := find_file_faults(folder, listed_files(index)):
        name, what = next(iter(faults.items()))
        more = f", and {len(faults) - 1} more files are wrong" if len(faults) > 1 else ""
        raise ValueError(f"{folder!r} is not the whole pack: {name} {what}{more}; copy it again")
    chosen_split = choose_split(index["parts"], split, repr(folder), "split")
    shards = index["shards"]
    of_split = [number for number, shard in enumerate(shards) if chosen_split in (None, shard["part"])]
    which = np.repeat(np.arange(len(shards)), [shard["images"] for shard in shards])
    chosen = np.isin(which, of_split)
    columns = dict(zip(INDEX_COLUMNS, _rows(folder, index, which)[chosen].T))
    splits = [index["parts"][name] for name in dict.fromkeys(shards[number]["part"] for number in of_split)]
    contents = TarContents(
        folder,
        tuple(os.path.join(folder, shard["name"]) for shard in shards),
        which[chosen].astype(np.int32),
        columns["offset"].copy(),
        columns["size"].copy(),
        StringTable.of(
            f"{n:09}.{IMAGE_ENDINGS[e]}" for n, e in zip(columns["number"].tolist(), columns["ending"].tolist())
        ),
    )
    has_groups = len(splits) == 1 and splits[0]["groups"] is not None
    groups = columns["group"].copy() if has_groups else None
    targets = sort_classes(ClassTargets(columns["label"].copy(), _classes(folder, splits))) if labelled else None
    return Source(folder, ContentReader(contents), targets, groups)


def _rows(folder: str, index: Index, which: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of `IMAGES_FILE`, checked against the shards and classes; `which` is each image's shard."""
    path = os.path.join(folder, IMAGES_FILE)
    rows = map_npy(path)
    if rows.shape == (len(which), len(INDEX_COLUMNS)) and rows.dtype == np.int64:
        lengths = np.array([shard["bytes"] for shard in index["shards"]])[which]
        classes = np.array([len(index["parts"][shard["part"]]["classes"]) for shard in index["shards"]])[which]
        number, offset, size, ending, label, _ = rows.T
        is_there = (number >= 0) & (offset >= 0) & (size >= 0) & (size <= lengths - offset)
        is_named = (ending >= 0) & (ending < len(IMAGE_ENDINGS))
        is_labelled = (label >= -1) & (label < classes)
        if (is_there & is_named & is_labelled).all():
            return rows
    raise ValueError(f"{path!r} is not of the images in {INDEX_FILE}; copy both again")


def _classes(folder: str, splits: list[dict[str, Any]]) -> tuple[str, ...]:
    classes = {tuple(split["classes"]) for split in splits}
    if len(classes) > 1:
        raise ValueError(f"the splits of {folder!r} have different classes; choose split 'train' or 'test'")
    (only,) = classes
    if not only:
        raise ValueError(f"{folder!r} was packed from images without labels; pack labelled images")
    return only
