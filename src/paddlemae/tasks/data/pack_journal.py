"""The folder of a pack: a journal of finished shards, from which the same command resumes, and at last its index.

While a pack is written, the first line of `packing.jsonl` has its source and settings, and a line for each finished
shard follows. A line that a crash left half written, and a shard without a line, do not count: they are made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.data.pack.reader import (
    IMAGES_FILE,
    INDEX_FILE,
    JOURNAL_FILE,
    PACK_FORMAT,
    SHARD_ENDING,
    find_file_faults,
    listed_files,
    read_index,
)
from paddlemae.runs.runlog import SKIPPED_FILE
from paddlemae.system.atomic import PARTIAL, flush_file, is_partial, replace_bytes
from paddlemae.system.locks import LOCK_FILE, lock_folder
from paddlemae.tasks.data.splits import SPLIT_NAMES

MOST_SHARDS = 100_000  # of a split: its shards are in the order of their names
_SHARD_NAME = re.compile(rf"({'|'.join(SPLIT_NAMES)})-\d{{5}}{re.escape(SHARD_ENDING)}")
_COMPARED = {  # of splits with as many images
    "files": "files (names, sizes or times of change)",
    "classes": "classes",
    "labels": "labels",
    "groups": "groups",
}

About = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """A shard that is in its place.

    Args:
        end: the number of the source's image that comes next.
        bytes_before: that its images took in the source.
        skipped: (path, reason) of each image up to `end` that is in no shard.
        rows: of its images, with an entry for each of `INDEX_COLUMNS`.
    """

    name: str
    part: str
    images: int
    bytes: int
    sha256: str
    end: int
    bytes_before: int
    skipped: list[tuple[str, str]] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, Any]:
        """Return the shard's entry in the index."""
        return {key: value for key, value in vars(self).items() if key not in ("skipped", "rows")}


def shard_name(split: str, number: int) -> str:
    if number >= MOST_SHARDS:
        raise ValueError(f"a split has at most {MOST_SHARDS} shards; name a larger --shard-size")
    return f"{split}-{number:05}{SHARD_ENDING}"


class Journal:
    """The shards of a pack that are done, in their order; nobody else writes them meanwhile."""

    def __init__(self, folder: Path, about: About, done: list[Shard], is_finished: bool) -> None:
        self.folder = folder
        self.about = about
        self.done = done
        self.is_finished = is_finished

    @property
    def images(self) -> int:
        return sum(shard.images for shard in self.done)

    def of_split(self, split: str) -> list[Shard]:
        return [shard for shard in self.done if shard.part == split]

    def add(self, shard: Shard) -> None:
        self.done.append(shard)
        with open(self.folder / JOURNAL_FILE, "ab") as file:
            file.write(_lines([vars(shard)]))
            flush_file(file)

    def finish(self) -> None:
        """Write where each image is, and the index, which makes it a pack."""
        file = io.BytesIO()
        np.save(file, np.array([row for shard in self.done for row in shard.rows], "<i8"), allow_pickle=False)
        content = file.getvalue()
        replace_bytes(self.folder / IMAGES_FILE, content, flush=True)
        digest = hashlib.sha256(content).hexdigest()
        index = {
            **self.about,
            "images": {"name": IMAGES_FILE, "bytes": len(content), "sha256": digest},
            "shards": [shard.summary for shard in self.done],
        }
        replace_bytes(self.folder / INDEX_FILE, (json.dumps(index, indent=1) + "\n").encode(), flush=True)
        (self.folder / JOURNAL_FILE).unlink()
        self.is_finished = True


@contextlib.contextmanager
def open_journal(folder: Path, about: About, overwrite: bool = False) -> Iterator[Journal]:
    """Begin a pack, resume one, or find it finished.

    Args:
        folder: made if it is not there.
        about: the source and settings of the pack.
        overwrite: remove the pack that is there.
    Raises:
        ValueError: something else is in the folder, or a pack of something else; nothing is touched then.
        BlockingIOError: another command writes it; the text says which.
    """
    _refuse_others(folder)
    with lock_folder(folder):
        names = os.listdir(folder)
        begun = None if overwrite else _begun(folder, names)
        if begun:
            _compare(begun, about)
        else:
            replace_bytes(folder / JOURNAL_FILE, _lines([about]), flush=True)
            begun = Journal(folder, about, [], is_finished=False)
        if INDEX_FILE in names and not begun.is_finished:  # of the pack that is replaced
            (folder / INDEX_FILE).unlink()
            (folder / IMAGES_FILE).unlink(missing_ok=True)
        if begun.is_finished:
            _check_whole(begun)
        else:
            _tidy(begun)
        yield begun


def _refuse_others(folder: Path) -> None:
    """Refuse a folder that holds anything but a pack's files."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name another --out")
    names = os.listdir(folder) if folder.exists() else []
    strangers = sorted(name for name in names if not _is_ours(name))
    if not strangers and JOURNAL_FILE in names:
        _read_journal(folder)
    elif not strangers:
        is_beginning = all(name == LOCK_FILE or is_partial(name, JOURNAL_FILE) for name in names)
        strangers = [] if is_beginning or read_index(folder, names) else sorted(names)
    if strangers:
        raise ValueError(
            f"{folder} holds {strangers[0]!r}, which is not part of a pack; move it or choose another --out"
        )


def _is_ours(name: str) -> bool:
    replaced = (INDEX_FILE, IMAGES_FILE, JOURNAL_FILE)
    is_shard = _SHARD_NAME.fullmatch(name.removesuffix(PARTIAL)) is not None
    return is_shard or name in (*replaced, SKIPPED_FILE, LOCK_FILE) or any(is_partial(name, file) for file in replaced)


def _begun(folder: Path, names: list[str]) -> Journal | None:
    """Return the journal of the existing pack, finished or not."""
    journal = _read_journal(folder) if JOURNAL_FILE in names else None
    index = read_index(folder, names) if INDEX_FILE in names else None
    if index and (journal is None or not _differences(index, journal.about)):
        return Journal(folder, index, [Shard(**shard) for shard in index["shards"]], is_finished=True)
    return journal


def _read_journal(folder: Path) -> Journal:
    """Read the complete lines of a journal, or raise a ValueError if it is damaged, or something else."""
    path = folder / JOURNAL_FILE
    try:
        whole = [text for text in path.read_text().splitlines(keepends=True) if text.endswith("\n")]
        about, *lines = map(json.loads, whole)
        if about["pack"] != PACK_FORMAT:
            raise ValueError(about["pack"])
        shards = [Shard(**{**line, "skipped": [tuple(each) for each in line["skipped"]]}) for line in lines]
    except (ValueError, KeyError, TypeError) as fault:
        raise ValueError(
            f"{path} is damaged, or of something else than a pack; move it, or name another --out"
        ) from fault
    return Journal(folder, about, shards, is_finished=False)


def _lines(objects: Iterable[Any]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in objects).encode()


def _check_whole(journal: Journal) -> None:
    for name, what in find_file_faults(journal.folder, listed_files(journal.about)).items():
        raise ValueError(f"{journal.folder} is not the whole pack: {name} {what}; add --overwrite to replace it")
    (journal.folder / JOURNAL_FILE).unlink(missing_ok=True)  # it was ended between its last two steps


def _tidy(journal: Journal) -> None:
    """Remove what counts for nothing; shards that follow one which is gone are not done either."""
    faults = find_file_faults(journal.folder, [shard.summary for shard in journal.done])
    if wrong := [place for place, shard in enumerate(journal.done) if shard.name in faults]:
        del journal.done[wrong[0] :]
    content = _lines([journal.about, *map(vars, journal.done)])
    if (journal.folder / JOURNAL_FILE).read_bytes() != content:
        replace_bytes(journal.folder / JOURNAL_FILE, content, flush=True)
    kept = {shard.name for shard in journal.done}
    for name in os.listdir(journal.folder):
        is_shard = _SHARD_NAME.fullmatch(name.removesuffix(PARTIAL))
        if name not in kept and (is_shard or (name.startswith(".") and name.endswith(PARTIAL))):
            (journal.folder / name).unlink()


def _compare(begun: Journal, now: About) -> None:
    different = _differences(begun.about, now)
    if not begun.is_finished and begun.about["paddlemae"] != now["paddlemae"]:  # its shards may come out otherwise
        different.append(f"PaddleMAE {begun.about['paddlemae']} then, {now['paddlemae']} now")
    if different:
        raise ValueError(
            f"{begun.folder} holds a pack of something else: {', '.join(different)}; add --overwrite to replace it, "
            "or name another --out"
        )


def _differences(before: About, now: About) -> list[str]:
    """Return, in words, the settings and images in which two packs differ."""
    differences = [
        f"{name} {_shown(before['settings'].get(name))} then, {_shown(value)} now"
        for name, value in now["settings"].items()
        if before["settings"].get(name) != value
    ]
    then, here = before["parts"], now["parts"]
    if then.keys() != here.keys():
        return [*differences, f"splits {', '.join(then)} then, {', '.join(here)} now"]
    for split in here:
        if then[split]["images"] != here[split]["images"]:
            differences.append(f"{split} images {then[split]['images']} then, {here[split]['images']} now")
        else:
            differences += [
                f"{split} {words}" for key, words in _COMPARED.items() if then[split][key] != here[split][key]
            ]
    return differences


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
