"""Pack a source of images into shards that are read fast, and check such a pack: `paddlemae data pack` and `verify`."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import paddlemae
from paddlemae.data.masks.holds_masks import holds_masks
from paddlemae.data.pack.encoding import Encoding
from paddlemae.data.pack.reader import INDEX_FILE, PACK_FORMAT, find_file_faults, listed_files, read_index
from paddlemae.data.pack.writer import digest_file
from paddlemae.data.sources import MaskTargets, Source, add_stamps
from paddlemae.data.sources.open import path_and_options
from paddlemae.data.sources.output_folders import check_outside
from paddlemae.recipe import MAX_BAD_IMAGES
from paddlemae.runs.progress import progress
from paddlemae.runs.runlog import SKIPPED_FILE
from paddlemae.tasks.data.pack_fill import PackSplit, ShardSize, SkippedImages, fill_shards
from paddlemae.tasks.data.pack_journal import Journal, open_journal
from paddlemae.tasks.data.splits import ALL_SPLITS, open_masked_parts, open_splits
from paddlemae.train.stopping import ended_by_signals

SHARD_IMAGES = "1000"


@dataclass(frozen=True)
class PackResult:
    """A pack that is finished.

    Args:
        images, skipped: of the source, those that are in shards and those that can't be read.
        bytes, bytes_before: of the shards, and of their images in the source.
        images_now, seconds: what was done this time, and how long it took.
        unlabelled: splits without labels, and why.
    """

    folder: Path
    images: int
    skipped: int
    shards: int
    bytes: int
    bytes_before: int
    images_now: int
    seconds: float
    unlabelled: dict[str, str]


def pack(
    spec: str,
    out: Path,
    *,
    size: int = 256,
    channels: int = 3,
    bits: int | None = None,
    quality: int = 95,
    lossless: bool = False,
    shard_size: str = SHARD_IMAGES,
    split: str = ALL_SPLITS,
    max_bad_images: float = MAX_BAD_IMAGES,
    workers: int | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> PackResult:
    """Make a pack of the images that `spec` names, or resume the one in `out`.

    Args:
        spec: as `open_source` takes it.
        out: the pack's folder, made if it is not there.
        size, channels, bits, quality, lossless: see `Encoding`.
        shard_size: images in a shard, or bytes as in "500MB".
        split: train, test, or all: both, where there are both.
        max_bad_images: share, rounded up, of each split's images that may be unreadable; they are left out and listed.
        workers: processes that decode and encode; None is one a core where the images are many.
        overwrite: remove the pack in `out` first.
    Raises:
        ValueError: settings that can't be, no images, a folder of something else or of another pack.
        FileNotFoundError: no such path.
        DataFault: too many unreadable images. From here on, what is done is kept.
        OSError: no room.
        KeyboardInterrupt, Preempted: the text says how to resume.
    """
    if bits not in (None, 8, 16):
        raise ValueError(f"--bits must be 8 or 16; got {bits}")
    encoding = Encoding(size, channels, cast(Literal[8, 16] | None, bits), quality, lossless)
    most = ShardSize.of(shard_size)
    started = time.monotonic()
    path, _ = path_and_options(spec)
    root = path if os.path.isdir(path) else os.path.dirname(path)
    opened = open_masked_parts(spec, split) if holds_masks(spec) else open_splits(spec, split)
    for each in opened:
        if each.is_fault:
            raise ValueError(each.unlabelled)
    splits = [PackSplit(split.name, split.source, root) for split in opened]
    check_outside(out, [spec])
    about = {
        "pack": PACK_FORMAT,
        "paddlemae": paddlemae.__version__,
        "source": spec,
        "settings": {**asdict(encoding), "shard-size": str(most)},
        "parts": {split.name: _about(split.source) for split in splits},
    }
    with ended_by_signals(), open_journal(out, about, overwrite) as journal:
        before = journal.images
        if not journal.is_finished:
            try:
                _make(journal, splits, encoding, most, max_bad_images, workers, quiet)
            except KeyboardInterrupt as stop:
                count = sum(len(split.source) for split in splits)
                raise KeyboardInterrupt(
                    f"stopped with {journal.images} of {count} images in {out}; rerun the same command to resume"
                ) from stop
            except OSError as fault:
                text = f"could not write the pack ({fault.strerror or fault}); fix it and rerun the command to resume"
                raise OSError(fault.errno, text, str(out)) from fault
    return PackResult(
        out,
        journal.images,
        sum(len(split.source) for split in splits) - journal.images,
        len(journal.done),
        sum(shard.bytes for shard in journal.done),
        sum(shard.bytes_before for shard in journal.done),
        journal.images - before,
        time.monotonic() - started,
        {split.name: split.unlabelled for split in opened if split.unlabelled},
    )


def _make(
    journal: Journal,
    splits: list[PackSplit],
    encoding: Encoding,
    most: ShardSize,
    max_bad_images: float,
    workers: int | None,
    quiet: bool,
) -> None:
    skipped_file = journal.folder / SKIPPED_FILE
    skipped_file.unlink(missing_ok=True)  # it may end in half a line, or list what was met behind the last shard
    total, seen = sum(len(split.source) for split in splits), 0
    with progress("packing", total, journal.images, show=not quiet) as show:
        for split in splits:
            skipped = SkippedImages(skipped_file, split, max_bad_images)
            fill_shards(journal, skipped, encoding, most, workers, show, seen)
            seen += len(split.source)
    journal.finish()


def _about(source: Source) -> dict[str, Any]:
    """Return all of a source that a pack depends on."""
    files = hashlib.sha256()
    add_stamps(files, source)
    digests = {
        name: None if numbers is None else hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()
        for name, numbers in (("labels", source.labels), ("groups", source.groups))
    }
    about = {"images": len(source), "classes": list(source.classes), "files": files.hexdigest(), **digests}
    if not isinstance(source.targets, MaskTargets):
        return about
    for i in range(len(source)):
        files.update(source.masks.reader.stamp(i).encode("utf-8", "surrogateescape") + b"\n")
    masks = {"classes": list(source.classes), "palette": source.masks.palette.tolist()}
    return about | {"classes": [], "masks": masks, "files": files.hexdigest()}


def summarize_pack(packed: PackResult) -> str:
    """Format the result as one line, after a line for each split without labels."""
    notes = [f"note: {name} is packed without labels: {reason}" for name, reason in packed.unlabelled.items()]
    left_out = f", {packed.skipped:,} skipped, see {packed.folder / SKIPPED_FILE}" if packed.skipped else ""
    rate = f", {packed.images_now / packed.seconds:,.0f} images/s" if packed.images_now else ", all done before"
    done = f"packed {packed.images:,} images in {packed.shards:,} shard{'s' * (packed.shards > 1)} in {packed.folder}"
    sizes = f"{_megabytes(packed.bytes)} of {_megabytes(packed.bytes_before)}"
    return "\n".join([*notes, f"{done}: {sizes}{rate}{left_out}"])


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


@dataclass(frozen=True)
class VerifyResult:
    """A pack that was looked at; `bytes` of all its files; `faults`: what is wrong with which file."""

    folder: Path
    shards: int
    bytes: int
    faults: dict[str, str]


def verify(folder: Path, *, quiet: bool = False) -> VerifyResult:
    """Read every file of a pack, and compare its checksum with the index's.

    Raises:
        ValueError: no pack, or one that is not finished.
        FileNotFoundError: no such folder.
    """
    names = os.listdir(folder)
    index = read_index(folder, names)
    if index is None:
        raise ValueError(f"{folder} is not a pack: it has no {INDEX_FILE}; 'paddlemae data pack' writes packs")
    files = listed_files(index)
    faults = find_file_faults(folder, files)
    with progress("files", len(files), show=not quiet) as show:
        for number, file in enumerate(files, start=1):
            if file["name"] not in faults and (fault := _damage(folder / file["name"], file["sha256"])):
                faults[file["name"]] = fault
            show(number)
    return VerifyResult(folder, len(index["shards"]), sum(file["bytes"] for file in files), faults)


def _damage(path: Path, sha256: str) -> str | None:
    try:
        digest = digest_file(path)
    except OSError as fault:
        return f"can't be read ({fault.strerror})"
    return None if digest == sha256 else f"is damaged: its SHA-256 is {digest}, and was {sha256}"


def describe_verification(verified: VerifyResult) -> str:
    """Return a line for each file that is wrong, or one that all are whole."""
    if verified.faults:
        return "\n".join(f"{verified.folder / name} {what}" for name, what in verified.faults.items())
    return f"{verified.folder}: {verified.shards:,} shards, {_megabytes(verified.bytes)}, as they were written"
