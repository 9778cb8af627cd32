"""Fill a pack's shards with a split's images, in the source's order, each as `data.pack.encoding` brings it in.

The entries of an image are named by its number in the source: `000000012.jpg`; with a label `000000012.cls`, the
class's number; with a mask `000000012.mask.png`; and `000000012.json`: its name in the source and, where they are
known, its class and group.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.decode.limits import parse_bytes
from paddlemae.data.disk.errors import DataFault, check_unreadable, report_unreadable
from paddlemae.data.masks.encode_mask import encode_mask
from paddlemae.data.masks.survey import image_size
from paddlemae.data.pack.encoding import EncodedImage, Encoding, encode_image
from paddlemae.data.pack.reader import IMAGE_ENDINGS
from paddlemae.data.pack.writer import ShardFile, size_in_tar
from paddlemae.data.sources import MaskTargets, Source
from paddlemae.data.workers import make_ahead, workers_for
from paddlemae.system.atomic import append_text
from paddlemae.tasks.data.pack_journal import Journal, Shard, shard_name

_CHUNK = 32  # images that a worker packs at a time


@dataclass(frozen=True)
class ShardSize:
    """The most that a shard holds: images, or bytes of entries."""

    images: int | None = None
    bytes: int | None = None

    @classmethod
    def of(cls, text: str) -> ShardSize:
        """Parse "1000" as images, or "500MB" as bytes."""
        number = parse_bytes(text)
        if not number:
            raise ValueError(f"--shard-size must be a number of images, or bytes as in 500MB; got {text!r}")
        return cls(images=number) if text.strip().isdigit() else cls(bytes=number)

    def __str__(self) -> str:
        return f"{self.images} images" if self.images else f"{self.bytes} bytes"


@dataclass(frozen=True)
class PackSplit:
    """The images of a split; `root` is the beginning of their names that is left out."""

    name: str
    source: Source
    root: str


@dataclass
class SkippedImages:
    """A split's unreadable images: listed in the pack's `skipped.jsonl`, named, and no more than are allowed."""

    file: Path
    split: PackSplit
    limit: float
    reasons: dict[str, str] = field(default_factory=dict)  # path -> why
    since_shard: list[tuple[str, str]] = field(default_factory=list)

    def recall(self, shards: list[Shard]) -> None:
        """Take those that finished shards left out."""
        for path, reason in (each for shard in shards for each in shard.skipped):
            self._list(path, reason)
        self._check()

    def add(self, image: UnreadableImage) -> None:
        self.since_shard.append((image.path, image.reason))
        self._list(image.path, image.reason)
        report_unreadable(len(self.reasons), image)
        self._check()

    def taken(self) -> list[tuple[str, str]]:
        """Return and forget the images that were skipped since the last shard."""
        taken, self.since_shard = self.since_shard, []
        return taken

    def _list(self, path: str, reason: str) -> None:
        self.reasons[path] = reason
        line = json.dumps({"path": path, "reason": reason, "part": self.split.name})  # ASCII, whatever bytes it has
        append_text(self.file, line + "\n")

    def _check(self) -> None:
        source = self.split.source
        check_unreadable(self.reasons, self.limit, len(source), source.name, self.file)


def fill_shards(
    journal: Journal,
    skipped: SkippedImages,
    encoding: Encoding,
    most: ShardSize,
    workers: int | None,
    show: Callable[[int], None],
    before: int,
) -> None:
    """Make the shards of a split that are not done yet.

    Args:
        most: a shard with one image may have more bytes.
        show: called with the number of images seen so far, of which `before` are of other splits.
    Raises:
        DataFault: too many of the split's images, or all, can't be read.
        OSError: no room, or a disk that gives back other bytes.
    """
    split = skipped.split
    done, count = journal.of_split(split.name), len(split.source)
    skipped.recall(done)
    start = done[-1].end if done else 0
    chunks = (range(i, min(i + _CHUNK, count)) for i in range(start, count, _CHUNK))
    encode = functools.partial(_encode_chunk, split.source, encoding)
    shards = _Shards(journal, most, skipped)
    i = start
    try:
        with closing(make_ahead(encode, chunks, workers_for(count - start, workers))) as made:
            for chunk in made:
                for image in chunk:
                    if isinstance(image, UnreadableImage):
                        skipped.add(image)
                    else:
                        shards.add(i, image)
                    i += 1
                show(before + i)
        shards.finish(count)
    finally:
        shards.abandon()
    if not journal.of_split(split.name):
        path, reason = next(iter(skipped.reasons.items()))
        raise DataFault(f"no image of {split.source.name} can be read; fix or replace them; first: {path!r} ({reason})")


def _encode_chunk(source: Source, encoding: Encoding, numbers: range) -> list[EncodedImage | UnreadableImage]:
    images: list[EncodedImage | UnreadableImage] = []
    for i in numbers:
        try:
            image = encode_image(source.stored(i), source.describe(i), encoding, source.room(i))
            if isinstance(source.targets, MaskTargets):
                mask = source.masks.read(i, image_size(source, i))
                image = replace(image, mask=encode_mask(mask, image.size, source.masks.palette))
            images.append(image)
        except UnreadableImage as fault:
            images.append(fault.without_frames())
    return images


@dataclass
class _Shards:
    """The shards of a split, of which one is being written."""

    journal: Journal
    most: ShardSize
    skipped: SkippedImages
    file: ShardFile | None = None
    rows: list[list[int]] = field(default_factory=list)
    bytes_before: int = 0

    def add(self, i: int, image: EncodedImage) -> None:
        """Add image `i`, to the next shard if it is one too many for this one."""
        split = self.skipped.split
        entries = list(_entries(split, i, image))
        if self.file and self._is_full(self.file.bytes + sum(size_in_tar(content) for _, content in entries)):
            self.finish(i)
        if self.file is None:
            name = shard_name(split.name, len(self.journal.of_split(split.name)))
            self.file, self.rows, self.bytes_before = ShardFile(self.journal.folder / name), [], 0
        offset, *_ = [self.file.add(name, content) for name, content in entries]
        source = split.source
        numbers = (-1 if column is None else int(column[i]) for column in (source.labels, source.groups))
        self.rows.append([i, offset, len(image.content), IMAGE_ENDINGS.index(image.ending), *numbers])
        self.bytes_before += image.bytes_before

    def finish(self, end: int) -> None:
        """Bring the shard to its place; the source's image `end` comes next."""
        if self.file is None:
            return
        digest, name = self.file.close(), self.file.path.name
        counts = (len(self.rows), self.file.bytes, digest, end, self.bytes_before)
        self.file = None
        self.journal.add(Shard(name, self.skipped.split.name, *counts, self.skipped.taken(), self.rows))

    def abandon(self) -> None:
        if self.file:
            self.file.abandon()

    def _is_full(self, bytes_then: int) -> bool:
        return len(self.rows) == self.most.images or bool(self.most.bytes and bytes_then > self.most.bytes)


def _entries(split: PackSplit, i: int, image: EncodedImage) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of an image's files."""
    source, about = split.source, dict[str, Any]()
    yield f"{i:09}.{image.ending}", image.content
    if image.mask is not None:
        yield f"{i:09}.mask.png", image.mask
    about["source"] = source.describe(i).removeprefix(os.path.join(split.root, ""))
    if source.labels is not None and source.labels[i] >= 0:
        yield f"{i:09}.cls", str(source.labels[i]).encode()
        about["class"] = source.classes[source.labels[i]]
    if source.groups is not None:
        about["group"] = int(source.groups[i])
    yield f"{i:09}.json", json.dumps(about).encode()
