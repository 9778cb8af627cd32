"""Compute something of every image of a source in parts, each written whole, so that a stopped command can be resumed.

A command that was stopped leaves the parts that it finished next to its output; the same command computes those that
are missing, from the same batches, so that the result is the same bit for bit (for a fixed number of threads). With
several processes each computes some of the parts, and the first process joins all.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import Source, add_stamps
from paddlemae.data.sources.output_folders import check_outside
from paddlemae.engine.safe_import import nn
from paddlemae.runs.progress import progress
from paddlemae.system.atomic import replace_bytes, replace_text
from paddlemae.system.display_names import say
from paddlemae.system.documents import read_object
from paddlemae.system.locks import lock_file
from paddlemae.tasks.models.array_file import FAULTS, read_arrays
from paddlemae.tasks.models.feature_file import MAX_ABOUT_BYTES, weights_digest
from paddlemae.tasks.models.features import embedded
from paddlemae.tasks.models.inference import FeatureKind, Logits
from paddlemae.tasks.models.read_model import Checkpoint
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.train.parallel.ranks import ALONE, Ranks
from paddlemae.weights.model_folder import Description

IMAGES_A_PART = 1024  # at most, about; what an interruption can cost
LEAST_PARTS = 64  # if there are as many batches: processes share the parts, and one of them computes the last alone
ABOUT_FILE = "about.json"
INDICES, REASONS = "indices", "reasons"  # arrays of every part
_KINDS = {INDICES: "iu", REASONS: "U"}
_EMPTY = {"f": np.float32, "iu": np.int64}  # types of arrays without rows, by their kinds
_TITLES = {"stamps": "state of the image files"}  # names of `about` in messages

Arrays = dict[str, np.ndarray]
Batches = Iterator[tuple[Arrays, np.ndarray]]  # arrays [B, ...] and the indices int64 [B] of their images


class Part(NamedTuple):
    """Arrays of a part's readable images, their indices in the source, and why the other images could not be read."""

    indices: np.ndarray
    arrays: Arrays
    faults: dict[int, str]


def part_size(images: int, batch_size: int) -> int:
    """Return the images of a part: a whole number of batches, the same for any number of processes."""
    images_a_part = min(IMAGES_A_PART, math.ceil(images / LEAST_PARTS))
    return max(1, images_a_part // batch_size) * batch_size


def about_source(checkpoint: Checkpoint, data: Any, split: str | None, source: Source) -> dict[str, Any]:
    """Return what the results of a model on a source depend on, except for the settings of the command.

    The number of threads is left out: it changes the last bits only.
    """
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
    }


@contextmanager
def hold_output(out: Path, data: Iterable[str], *, overwrite: bool, ranks: Ranks = ALONE) -> Iterator[None]:
    """Hold the file that a command is going to write; the first process holds it for all.

    Args:
        data: sources of images, in whose folders no output may be.
    Raises:
        ValueError: a folder, a file that exists already, or a place among the images.
        BlockingIOError: another command writes it.
    """
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name a file with --out")
    check_outside(out, data)
    with lock_file(out) if ranks.is_first else nullcontext():
        if out.exists() and not overwrite:
            raise ValueError(f"{out} exists already; add --overwrite to replace it, or name another --out")
        yield


@dataclass(frozen=True)
class Parts:
    """The folder of the parts, `size` images each, in the source's order.

    Args:
        kinds: of the arrays that a part has in addition to `indices` and `reasons`: name -> letters of NumPy's kinds,
            one of "f" and "iu". Each has two dimensions, of which the first is the readable images.
        content: what they hold, in plural, for messages.
    """

    folder: Path
    source: Source
    size: int
    kinds: Mapping[str, str]
    content: str

    @property
    def numbers(self) -> range:
        return range(math.ceil(len(self.source) / self.size))

    @property
    def images_done(self) -> int:
        return sum(len(self._images(number)) for number in self._done())

    def _images(self, number: int) -> range:
        return range(number * self.size, min((number + 1) * self.size, len(self.source)))

    def _done(self) -> list[int]:
        """List the parts that are there, whichever process wrote them."""
        return [number for number in self.numbers if self._path(number).is_file()]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.npz"

    def batches(self, numbers: Sequence[int], batch_size: int) -> list[int]:
        """List the numbers of the parts' batches."""
        starts = (start for number in numbers for start in self._images(number)[::batch_size])
        return [start // batch_size for start in starts]

    def take(self, about: dict[str, Any], *, restart: bool) -> list[int]:
        """Make the folder, or find the parts that are there.

        Args:
            about: what they depend on.
            restart: remove parts that were made with something else, and say so.
        Returns:
            the numbers of those that are missing.
        Raises:
            ValueError: they were made with something else.
        """
        note, about = self.folder / ABOUT_FILE, {**about, "part size": self.size}
        if note.is_file():
            try:
                different = self._different(about)
            except ValueError as fault:
                if not restart:
                    raise ValueError(f"{fault}; add --overwrite to start over") from fault
                different = [ABOUT_FILE]
            if different:
                text = f"{self.folder} holds parts that were made with another {', '.join(different)}"
                if not restart:
                    raise ValueError(f"{text}; use the same, or add --overwrite to start over")
                say(f"{text}; starting over", error=True)
                shutil.rmtree(self.folder)
        if not note.is_file():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise ValueError(
                    f"{self.folder} holds something other than parts of {self.content}; move it, or change --out"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_text(note, json.dumps(about))
        return sorted(set(self.numbers) - set(self._done()))

    def _different(self, about: dict[str, Any]) -> list[str]:
        """List what differs from what the existing parts were made with."""
        before = read_object(self.folder / ABOUT_FILE, MAX_ABOUT_BYTES)
        return [_TITLES.get(name, name) for name in about if before.get(name) != about[name] and name != "model"]

    def _read(self, number: int, names: Sequence[str]) -> dict[str, Any]:
        path = self._path(number)
        try:
            kinds = {**_KINDS, **self.kinds}
            arrays = read_arrays(path, {name: kinds[name] for name in (INDICES, *names)})
            self._check(number, arrays)
        except FAULTS as fault:
            raise ValueError(f"{path} is damaged; delete it, and the same command makes it again") from fault
        return arrays

    def _check(self, number: int, arrays: dict[str, Any]) -> None:
        """Raise a ValueError unless a part's arrays belong together and are of its images."""
        images, indices = self._images(number), arrays[INDICES]
        if indices.ndim != 1 or not set(indices.tolist()) <= set(images) or len(set(indices.tolist())) < len(indices):
            raise ValueError("indices of other images")
        for name in set(self.kinds) & set(arrays):
            if arrays[name].ndim != 2 or len(arrays[name]) != len(indices):
                raise ValueError(f"the number of {name} is not that of the images")
        if REASONS in arrays and len(arrays[REASONS]) != len(images) - len(indices):
            raise ValueError("the number of reasons is not that of the missing images")

    def recall(self, numbers: Sequence[int], skipped: SkippedImages) -> None:
        """Count what these parts left out."""
        for number in numbers:
            for i, reason in self._faults(number, self._read(number, [REASONS])).items():
                skipped(UnreadableImage(self.source.describe(i), reason))

    def _faults(self, number: int, arrays: dict[str, Any]) -> dict[int, str]:
        return dict(zip(self._lacking(number, arrays[INDICES]), arrays[REASONS], strict=True))

    def _lacking(self, number: int, indices: np.ndarray) -> list[int]:
        return sorted(set(self._images(number)) - set(indices.tolist()))

    def fill(
        self, numbers: Sequence[int], batches: Batches, skipped: SkippedImages, show: Callable[[int], None]
    ) -> None:
        """Write these parts from their batches."""
        due, rows, indices = deque(numbers), list[Arrays](), list[np.ndarray]()
        before = self.images_done
        for arrays, batch_indices in batches:
            while int(batch_indices[0]) not in self._images(due[0]):
                self._write(due.popleft(), rows, indices, skipped)
                before = self.images_done  # others write too
            rows.append(arrays)
            indices.append(batch_indices)
            show(before + sum(map(len, indices)))
        for number in due:
            self._write(number, rows, indices, skipped)

    def _write(self, number: int, rows: list[Arrays], indices: list[np.ndarray], skipped: SkippedImages) -> None:
        """Write a part from the content of the lists, and empty them."""
        readable = np.concatenate(indices) if indices else np.empty(0, np.int64)
        lacking = (self.source.describe(i) for i in self._lacking(number, readable))
        reasons = [skipped.reasons.get(path, "") for path in lacking]
        arrays: dict[str, Any] = {
            name: np.concatenate([each[name] for each in rows]) if rows else np.empty((0, 0), _EMPTY[kind])
            for name, kind in self.kinds.items()
        }
        content = io.BytesIO()
        np.savez(content, indices=readable, **arrays, reasons=np.array(reasons, dtype=str))
        replace_bytes(self._path(number), content.getbuffer())
        rows.clear()
        indices.clear()

    def __iter__(self) -> Iterator[Part]:
        """Yield all parts, in the source's order."""
        for number in self.numbers:
            found = self._read(number, [*self.kinds, REASONS])
            arrays = {name: found[name] for name in self.kinds}
            yield Part(found[INDICES], arrays, self._faults(number, found))

    def count(self) -> int:
        """Return how many images could be read.

        Raises:
            DataFault: none.
        """
        if count := sum(len(self._read(number, ())[INDICES]) for number in self.numbers):
            return count
        raise DataFault(
            f"no image of {self.source.name} can be read; fix or replace them; first: {self.source.describe(0)}"
        )

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def compute_parts(
    parts: Parts,
    about: dict[str, Any],
    model: nn.Layer,
    description: Description,
    output: FeatureKind | Logits,
    arrays_of: Callable[[np.ndarray], Arrays],
    *,
    batch_size: int,
    workers: int | str = "auto",
    threads: int | str = "auto",
    skipped: SkippedImages,
    label: str,
    restart: bool = False,
    quiet: bool = False,
    ranks: Ranks = ALONE,
) -> None:
    """Compute the parts that are missing; when this returns, all are there, and `skipped` knows all faults on rank 0.

    Args:
        about, restart: see `Parts.take`.
        model, description, output, workers, threads: as of `features.embedded`.
        arrays_of: the arrays that are kept of a batch's features or logits [B, D].
        label: of the progress.
        ranks: processes that deal the parts out; all of them see the same files.
    Raises:
        ValueError: parts of another command.
        KeyboardInterrupt: the text says what was kept.
    """
    source = parts.source
    missing = ranks.from_first(lambda: parts.take(about, restart=restart))
    due = missing[ranks.rank :: ranks.world]
    parts.recall(sorted(set(parts.numbers) - set(missing)), skipped)
    batches = embedded(
        model,
        description,
        source,
        kind=output,
        batch_size=batch_size,
        chosen=parts.batches(due, batch_size),
        workers=workers,
        threads=threads,
        on_skip=skipped,
    )
    with progress(label, len(source), parts.images_done, show=not quiet) as show, closing(batches):
        try:
            parts.fill(due, ((arrays_of(outputs), indices) for outputs, indices in batches), skipped, show)
            ranks.wait()
        except KeyboardInterrupt as stop:
            done = f"{parts.images_done} of {len(source)} images in {parts.folder}"
            raise KeyboardInterrupt(f"stopped with {done}; rerun the same command to resume") from stop
        show(len(source))
    if ranks.is_first:
        parts.recall(parts.numbers, skipped)  # those of other processes too
