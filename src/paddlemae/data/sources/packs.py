"""Read what `paddlemae data pack` wrote: shards of a WebDataset, with an index that has the class names.

The shards alone can be read too, by other programs and by `archives`; the index makes a pack's classes, groups and
parts those of the source that it was made of, and a missing or shortened shard an error.
"""

import json
import os
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.sources.archives import Listing, contents_of, listing_of
from paddlemae.data.sources.labels import listed, part_of
from paddlemae.data.sources.source import EncodedSource

INDEX_FILE = "pack.json"
JOURNAL_FILE = "packing.jsonl"  # of a pack that is not finished
SHARD = ".tar"
FORMAT = 1  # raised whenever the same source would be packed otherwise

Index = dict[str, Any]


def read_index(folder: str | os.PathLike[str], names: Collection[str]) -> Index | None:
    """The index of a finished pack; None if the folder is none.

    Args:
        names: of the files in the folder.
    Raises:
        ValueError: a pack that is not finished, or whose index is damaged.
    """
    folder = os.fspath(folder)
    if INDEX_FILE not in names:
        if JOURNAL_FILE in names:
            raise ValueError(
                f"{folder!r} is a pack that is not finished; the same 'paddlemae data pack' goes on with it"
            )
        return None
    path = os.path.join(folder, INDEX_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            index = json.load(file)
    except (OSError, ValueError) as fault:
        if not any(name.endswith(SHARD) for name in names):  # anyone may call a file so
            return None
        raise ValueError(f"{path!r} can't be read ({fault}); copy it again, or remove it to lose its names") from fault
    if not isinstance(index, dict) or "pack" not in index:
        return None
    if index["pack"] != FORMAT:
        raise ValueError(f"{path!r} is of format {index['pack']!r}, and {FORMAT} is read here; update PaddleMAE")
    return index


def shard_faults(folder: str | os.PathLike[str], index: Index) -> dict[str, str]:
    """What is wrong with a pack's shards as far as their names and sizes tell: name -> what."""
    faults = {}
    for shard in index["shards"]:
        try:
            size = os.stat(os.path.join(folder, shard["name"])).st_size
        except OSError as fault:
            faults[shard["name"]] = f"is missing ({fault.strerror})"
        else:
            if size != shard["bytes"]:
                faults[shard["name"]] = f"has {size} bytes instead of {shard['bytes']}"
    known = {shard["name"] for shard in index["shards"]}
    strangers = sorted(name for name in os.listdir(folder) if name.endswith(SHARD) and name not in known)
    return faults | {name: f"is not in {INDEX_FILE}" for name in strangers}


def open_pack(folder: str, index: Index, split: str | None, labelled: bool) -> EncodedSource:
    """The images of a pack.

    Args:
        index: as `read_index` gives it.
    Raises:
        ValueError: shards that are missing, of another size, or not in the index; no labels.
    """
    if faults := shard_faults(folder, index):
        name, what = next(iter(faults.items()))
        more = f", and {len(faults) - 1} more shards are wrong" if len(faults) > 1 else ""
        raise ValueError(f"{folder!r} is not the whole pack: {name} {what}{more}; copy it again")
    part = part_of(index["parts"], split, repr(folder), "part")
    shards = [shard for shard in index["shards"] if part is None or shard["part"] == part]
    parts = [index["parts"][name] for name in sorted({shard["part"] for shard in shards})]
    classes = _classes(folder, parts) if labelled else ()
    has_groups = len(parts) == 1 and parts[0]["groups"] is not None
    paths = [os.path.join(folder, shard["name"]) for shard in shards]
    listing = listing_of(paths, labelled or has_groups)
    if len(listing.images) != sum(shard["images"] for shard in shards):
        raise ValueError(
            f"{folder!r}: its shards hold other images than {INDEX_FILE} says; see 'paddlemae data verify'"
        )
    contents = contents_of(folder, paths, listing, range(len(listing.images)))
    labels = _labels(folder, listing, classes) if labelled else None
    return EncodedSource(folder, contents, labels, classes, _groups(listing) if has_groups else None)


def _classes(folder: str, parts: list[dict[str, Any]]) -> tuple[str, ...]:
    classes = {tuple(part["classes"]) for part in parts}
    if len(classes) > 1:
        raise ValueError(f"the parts of {folder!r} have different classes; ask for split 'train' or 'test'")
    (only,) = classes
    if not only:
        raise ValueError(f"{folder!r} was packed from images without labels; pack them in labelled folders, say")
    return only


def _labels(folder: str, listing: Listing, classes: tuple[str, ...]) -> NDArray[np.int64]:
    labels = np.array([int(label) for label in listing.labels()], np.int64)
    if strangers := sorted({str(label) for label in labels.tolist() if not 0 <= label < len(classes)}):
        raise ValueError(f"{folder!r} has labels that none of its {len(classes)} classes has: {listed(strangers)}")
    return labels


def _groups(listing: Listing) -> NDArray[np.int64]:
    return np.array([json.loads(beside[".json"] or b"")["group"] for beside in listing.beside], np.int64)
