"""Write the features of a whole source to a file, which `parts` computes so that a stopped command can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.engine import device
from paddlemae.recipe import MAX_BAD_IMAGES
from paddlemae.system.display_names import escape_surrogates
from paddlemae.tasks.models.build import load_encoder
from paddlemae.tasks.models.feature_file import Rows, check_format, path_of, scaled, write_file
from paddlemae.tasks.models.features import DEFAULT_KIND
from paddlemae.tasks.models.inference import FeatureKind
from paddlemae.tasks.models.open_images import labelled_if_possible
from paddlemae.tasks.models.parts import Parts, about_source, compute_parts, hold_output, part_size
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.train.parallel.ranks import ALONE, Ranks, check_same

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
    if kind.norm == "whiten":
        raise ValueError("whitened features depend on what they are compared with; embed takes layer, batch or none")
    with hold_output(out, [data], overwrite=overwrite, ranks=ranks):
        device.prepare("auto", threads, kind.precision)
        checkpoint = read_checkpoint(run, trust=trust)
        model = load_encoder(checkpoint)
        source = labelled_if_possible(data, split)
        about = {**about_source(checkpoint, data, split, source), **kind.settings(), "batch_size": batch_size}
        check_same(ranks, about)  # a run that is still trained may have another checkpoint for each
        size = part_size(len(source), batch_size)
        parts = Parts(out.with_name(f"{out.name}.parts"), source, size, {"vectors": "f"}, "features")
        skipped = SkippedImages(source, max_bad_images)
        compute_parts(
            parts,
            about,
            model,
            checkpoint.description,
            kind,
            lambda vectors_BD: {"vectors": vectors_BD},
            batch_size=batch_size,
            workers=workers,
            threads=threads,
            skipped=skipped,
            label="embedding",
            restart=overwrite,
            quiet=quiet,
            ranks=ranks,
        )
        images, width = ranks.from_first(lambda: _join(parts, out, about, standardised=kind.norm == "batch"))
        return Written(out, images, width, len(source) - images)


def _join(parts: Parts, out: Path, about: dict[str, Any], *, standardised: bool) -> tuple[int, int]:
    """Make one file of the parts, and remove them; return its images and their width."""
    count = parts.count()
    scale = _scale(parts) if standardised else None
    if scale is not None:
        about = {**about, "mean": scale[0].tolist(), "deviation": scale[1].tolist()}
    write_file(out, partial(_rows, parts, scale), about)
    width = next(_rows(parts, scale)).vectors.shape[1]
    parts.remove()
    return count, width


def _rows(parts: Parts, scale: tuple[np.ndarray, np.ndarray] | None) -> Iterator[Rows]:
    source = parts.source
    for part in parts:
        indices, vectors = part.indices, part.arrays["vectors"]
        if not len(indices):
            continue
        paths = [path_of(source, i) for i in indices.tolist()]
        labels = None
        if source.labels is not None:
            labels = [escape_surrogates(source.classes[label]) for label in source.labels[indices].tolist()]
        yield Rows(indices, paths, labels, vectors if scale is None else scaled(vectors, *scale))


def _scale(parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """Return (mean, deviation) of each feature, float64 [D]."""
    count, total, squares = 0, 0.0, 0.0
    for rows in _rows(parts, None):
        count, total = count + len(rows.ids), total + rows.vectors.sum(axis=0, dtype=np.float64)
    mean = np.asarray(total / count)
    for rows in _rows(parts, None):
        squares = squares + np.square(rows.vectors - mean).sum(axis=0)
    return mean, np.maximum(np.sqrt(np.asarray(squares) / count), SMALLEST_DEVIATION)
