"""Write the features of a whole source to a file: in parts, each written whole, which are joined at the end.

A command that was stopped leaves the parts that it finished next to the file; the same command computes those that are
missing, from the same batches, so that the file is the same bit for bit (for a fixed number of threads). With several
processes each computes some of the parts, and the first process joins all.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import BadLabel, Source, add_stamps, open_source
from paddlemae.data.sources.output_folders import check_outside
from paddlemae.engine import device
from paddlemae.recipe import MAX_BAD_IMAGES
from paddlemae.runs.progress import progress
from paddlemae.system.atomic import replace_bytes, replace_text
from paddlemae.system.display_names import escape_surrogates
from paddlemae.system.documents import read_object
from paddlemae.system.locks import lock_file
from paddlemae.tasks.models.array_file import FAULTS, read_arrays
from paddlemae.tasks.models.build import load_encoder
from paddlemae.tasks.models.feature_file import (
    MAX_ABOUT_BYTES,
    Rows,
    check_format,
    path_of,
    scaled,
    weights_digest,
    write_file,
)
from paddlemae.tasks.models.features import DEFAULT_KIND, embedded
from paddlemae.tasks.models.inference import FeatureKind
from paddlemae.tasks.models.read_model import Checkpoint, read_checkpoint
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.train.parallel.ranks import ALONE, Ranks, check_same

IMAGES_A_PART = 1024  # at most, about; what an interruption can cost
LEAST_PARTS = 64  # if there are as many batches: processes share the parts, and one of them computes the last alone
ABOUT_FILE = "about.json"
PART_KINDS = {"indices": "iu", "vectors": "f", "reasons": "U"}
SMALLEST_DEVIATION = 1e-6  # of features that say nothing, as in `nearest.standardise`


@dataclass(frozen=True)
class Written:
    """The file that `embed_source` wrote, its rows, their width, and the number of images that could not be read."""

    path: Path
    images: int
    width: int
    skipped: int


def embed_source(
    run: str,
    data: str,
    out: Path,
    *,
    split: str | None = None,
    kind: FeatureKind = DEFAULT_KIND,
    batch_size: int = 64,
    workers: int | str = "auto",
    threads: int | str = "auto",
    max_bad_images: float = MAX_BAD_IMAGES,
    overwrite: bool = False,
    quiet: bool = False,
    ranks: Ranks = ALONE,
    trust: bool = False,
) -> Written:
    """Write the features of every readable image of a source, with its number, path and label.

    Args:
        run: a run, a checkpoint, or anyone's weights, see `read_checkpoint`.
        data, split: images, labelled or not, see `open_source`.
        out: a file that ends in .parquet or .npz; unfinished parts are in a folder of its name and `.parts`.
        kind: which features; with the norm "batch" they are brought to mean 0 and deviation 1 over the source.
        workers, threads: as in `embed`.
        max_bad_images: share, rounded up, of the images that may be unreadable; they are left out.
        overwrite: replace the file that is there, and parts of other features; parts of the same are kept.
        ranks: processes that deal the parts out; all of them see the same files.
        trust: see `read_checkpoint`.
    Raises:
        ValueError, FileNotFoundError: images, weights, settings or a file that can't be used; parts of another command.
        DataFault: too many unreadable images.
        KeyboardInterrupt: the text says what was kept.
    """
    check_format(out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name a file with --out")
    check_outside(out, [data])
    with lock_file(out) if ranks.is_first else nullcontext():  # for all of them
        if out.exists() and not overwrite:
            raise ValueError(f"{out} exists already; add --overwrite to replace it, or name another --out")
        device.prepare("auto", threads)
        checkpoint = read_checkpoint(run, trust=trust)
        model = load_encoder(checkpoint)
        source = labelled_if_possible(data, split)
        about = about_features(checkpoint, data, split, source, kind, batch_size)
        check_same(ranks, about)  # a run that is still trained may have another checkpoint for each
        parts = _Parts(out.with_name(f"{out.name}.parts"), source, _part_size(len(source), batch_size))
        missing = ranks.from_first(lambda: parts.take(about, overwrite))
        due = missing[ranks.rank :: ranks.world]
        skipped = SkippedImages(source, max_bad_images)
        parts.recall(sorted(set(parts.numbers) - set(missing)), skipped)
        batches = embedded(
            model,
            checkpoint.description,
            source,
            kind=kind,
            batch_size=batch_size,
            chosen=parts.batches(due, batch_size),
            workers=workers,
            threads=threads,
            on_skip=skipped,
        )
        with progress("embedding", len(source), parts.images_done, show=not quiet) as show, closing(batches):
            try:
                parts.fill(due, batches, skipped, show)
                ranks.wait()
            except KeyboardInterrupt as stop:
                done = f"{parts.images_done} of {len(source)} images in {parts.folder}"
                raise KeyboardInterrupt(f"stopped with {done}; rerun the same command to resume") from stop
            show(len(source))

        def join() -> tuple[int, int]:
            parts.recall(parts.numbers, skipped)  # those of other processes too
            return parts.join(out, about, standardised=kind.norm == "batch")

        images, width = ranks.from_first(join)
        return Written(out, images, width, len(source) - images)


def labelled_if_possible(data: str, split: str | None) -> Source:
    """Open the images with their labels, or without where they have none.

    Raises:
        BadLabel: one of their labels is missing or unusable.
    """
    plain = open_source(data, split)
    try:
        labelled = open_source(data, split, labelled=True)
    except BadLabel:
        raise
    except ValueError:
        return plain
    return labelled if len(labelled) == len(plain) else plain


def about_features(
    checkpoint: Checkpoint, data: str, split: str | None, source: Source, kind: FeatureKind, batch_size: int
) -> dict[str, Any]:
    """Return all that features depend on except the number of threads, which changes their last bits."""
    stamps = hashlib.sha256()
    add_stamps(stamps, source)
    return {
        "model": str(checkpoint.folder),
        "weights": weights_digest(checkpoint),
        "data": data,
        "split": split,
        "images": len(source),
        "stamps": stamps.hexdigest(),
        "classes": list(source.classes),
        **asdict(kind),
        "batch_size": batch_size,
    }


def _part_size(images: int, batch_size: int) -> int:
    """Return the images of a part: a whole number of batches, the same for any number of processes."""
    images_a_part = min(IMAGES_A_PART, math.ceil(images / LEAST_PARTS))
    return max(1, images_a_part // batch_size) * batch_size


@dataclass(frozen=True)
class _Parts:
    """The folder of the parts, `size` images each, in the source's order.

    A part has the indices and features of its readable images, and why the others could not be read.
    """

    folder: Path
    source: Source
    size: int

    @property
    def numbers(self) -> range:
        return range(math.ceil(len(self.source) / self.size))

    def _images(self, number: int) -> range:
        return range(number * self.size, min((number + 1) * self.size, len(self.source)))

    def _done(self) -> list[int]:
        """List the parts that are there, whichever process wrote them."""
        return [number for number in self.numbers if self._path(number).is_file()]

    @property
    def images_done(self) -> int:
        return sum(len(self._images(number)) for number in self._done())

    def batches(self, numbers: Sequence[int], batch_size: int) -> list[int]:
        """List the numbers of the parts' batches."""
        starts = (start for number in numbers for start in self._images(number)[::batch_size])
        return [start // batch_size for start in starts]

    def take(self, about: dict[str, Any], overwrite: bool) -> list[int]:
        """Make the folder, or find the parts that are there.

        Returns:
            the numbers of those that are missing.
        Raises:
            ValueError: they are of other features.
        """
        note, about = self.folder / ABOUT_FILE, {**about, "part size": self.size}
        if note.is_file():
            try:
                different = self._different(about)
            except ValueError as fault:
                if not overwrite:
                    raise ValueError(f"{fault}; add --overwrite to start over") from fault
                different = [ABOUT_FILE]
            if different and not overwrite:
                raise ValueError(
                    f"{self.folder} holds parts that were made with another {', '.join(different)}; use the same, "
                    "or add --overwrite to start over"
                )
            if different:
                shutil.rmtree(self.folder)
        if not note.is_file():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise ValueError(
                    f"{self.folder} holds something other than parts of features; move it, or change --out"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_text(note, json.dumps(about))
        return sorted(set(self.numbers) - set(self._done()))

    def _different(self, about: dict[str, Any]) -> list[str]:
        """List what differs from what the existing parts were made with."""
        before = read_object(self.folder / ABOUT_FILE, MAX_ABOUT_BYTES)
        return [name for name in about if before.get(name) != about[name] and name != "model"]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.npz"

    def _read(self, number: int, names: Sequence[str] = ("indices", "vectors", "reasons")) -> dict[str, Any]:
        path = self._path(number)
        try:
            arrays = read_arrays(path, {name: PART_KINDS[name] for name in names})
            self._check(number, arrays)
        except FAULTS as fault:
            raise ValueError(f"{path} is damaged; delete it, and the same command makes it again") from fault
        return arrays

    def _check(self, number: int, arrays: dict[str, Any]) -> None:
        """Raise a ValueError unless a part's arrays belong together and are of its images."""
        images, indices = self._images(number), arrays["indices"]
        if indices.ndim != 1 or not set(indices.tolist()) <= set(images) or len(set(indices.tolist())) < len(indices):
            raise ValueError("indices of other images")
        if "vectors" in arrays and (arrays["vectors"].ndim != 2 or len(arrays["vectors"]) != len(indices)):
            raise ValueError("the number of vectors is not that of the images")
        if "reasons" in arrays and len(arrays["reasons"]) != len(images) - len(indices):
            raise ValueError("the number of reasons is not that of the missing images")

    def recall(self, numbers: Sequence[int], skipped: SkippedImages) -> None:
        """Count what these parts left out."""
        for number in numbers:
            part = self._read(number, ("indices", "reasons"))
            for i, reason in zip(self._lacking(number, part["indices"]), part["reasons"], strict=True):
                skipped(UnreadableImage(self.source.describe(i), reason))

    def _lacking(self, number: int, indices: np.ndarray) -> list[int]:
        return sorted(set(self._images(number)) - set(indices.tolist()))

    def fill(
        self,
        numbers: Sequence[int],
        batches: Iterator[tuple[np.ndarray, np.ndarray]],
        skipped: SkippedImages,
        show: Callable[[int], None],
    ) -> None:
        """Write these parts from their batches."""
        due, vectors, indices = deque(numbers), list[np.ndarray](), list[np.ndarray]()
        before = self.images_done
        for batch_BD, batch_indices in batches:
            while int(batch_indices[0]) not in self._images(due[0]):
                self._write(due.popleft(), vectors, indices, skipped)
                before = self.images_done  # others write too
            vectors.append(batch_BD)
            indices.append(batch_indices)
            show(before + sum(map(len, indices)))
        for number in due:
            self._write(number, vectors, indices, skipped)

    def _write(self, number: int, vectors: list[np.ndarray], indices: list[np.ndarray], skipped: SkippedImages) -> None:
        """Write a part from the content of the lists, and empty them."""
        readable = np.concatenate(indices) if indices else np.empty(0, np.int64)
        lacking = (self.source.describe(i) for i in self._lacking(number, readable))
        reasons = [skipped.reasons.get(path, "") for path in lacking]
        content = io.BytesIO()
        np.savez(
            content,
            indices=readable,
            vectors=np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32),
            reasons=np.array(reasons, dtype=str),
        )
        replace_bytes(self._path(number), content.getbuffer())
        vectors.clear()
        indices.clear()

    def join(self, out: Path, about: dict[str, Any], *, standardised: bool) -> tuple[int, int]:
        """Make one file of the parts, and remove them; returns its images and their width."""
        count = sum(len(self._read(number, ("indices",))["indices"]) for number in self.numbers)
        if not count:
            raise DataFault(
                f"no image of {self.source.name} can be read; fix or replace them; first: {self.source.describe(0)}"
            )
        scale = self._scale() if standardised else None
        if scale is not None:
            about = {**about, "mean": scale[0].tolist(), "deviation": scale[1].tolist()}
        write_file(out, partial(self._rows, scale), about)
        width = next(self._rows(scale)).vectors.shape[1]
        shutil.rmtree(self.folder)
        return count, width

    def _rows(self, scale: tuple[np.ndarray, np.ndarray] | None) -> Iterator[Rows]:
        for part in map(self._read, self.numbers):
            indices, vectors = part["indices"], part["vectors"]
            if not len(indices):
                continue
            paths = [path_of(self.source, i) for i in indices.tolist()]
            labels = None
            if self.source.labels is not None:
                labels = [
                    escape_surrogates(self.source.classes[label]) for label in self.source.labels[indices].tolist()
                ]
            yield Rows(indices, paths, labels, vectors if scale is None else scaled(vectors, *scale))

    def _scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (mean, deviation) of each feature, float64 [D]."""
        count, total, squares = 0, 0.0, 0.0
        for rows in self._rows(None):
            count, total = count + len(rows.ids), total + rows.vectors.sum(axis=0, dtype=np.float64)
        mean = np.asarray(total / count)
        for rows in self._rows(None):
            squares = squares + np.square(rows.vectors - mean).sum(axis=0)
        return mean, np.maximum(np.sqrt(np.asarray(squares) / count), SMALLEST_DEVIATION)
