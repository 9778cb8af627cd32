"""Predict the class of every image of a source, and write a table of them; sort the images, draw the least sure ones.

The parts of the work are those of `parts`: a stopped command is resumed by the same command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np

from paddlemae.data.sources import MultiLabelTargets, Source
from paddlemae.engine import device
from paddlemae.tasks.models.build import load_classifier
from paddlemae.tasks.models.inference import Logits, unusual_precision
from paddlemae.tasks.models.open_images import open_images
from paddlemae.tasks.models.parts import Arrays, Parts, about_source, compute_parts, hold_output, part_size
from paddlemae.tasks.models.predictions import class_probabilities, likeliest
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.predictions.measure import classes_needed
from paddlemae.tasks.predictions.outputs import Outputs, Predicted, write_outputs
from paddlemae.tasks.predictions.rows import CLASSES, KINDS, PROBABILITIES
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.train.parallel.ranks import ALONE, Ranks, check_same

ALL = 1.0  # share of the images that may be unreadable: they are listed


def predict(
    run: str,
    images: Sequence[str],
    outputs: Outputs,
    *,
    split: str | None = None,
    batch_size: int = 64,
    workers: int | str = "auto",
    threads: int | str = "auto",
    precision: str = "float32",
    overwrite: bool = False,
    quiet: bool = False,
    ranks: Ranks = ALONE,
    trust: bool = False,
) -> Predicted:
    """Predict the class of every image; unreadable ones are listed with the reason.

    Args:
        run: a fine-tuning run, a checkpoint of it, or anyone's classifier weights, see `read_checkpoint`.
        images, split: see `open_images`.
        outputs: what to write; unfinished parts are in a folder named as the table, and `.parts`.
        workers, threads: as in `embed`.
        precision: see `engine.precision`.
        overwrite: replace a table that is there.
        ranks: processes that deal the parts out; all of them see the same files.
        trust: see `read_checkpoint`.
    Returns:
        what was found, on every rank.
    Raises:
        ValueError, FileNotFoundError: images, weights, settings or files that can't be used.
        DataFault: no image can be read.
        KeyboardInterrupt: the text says what was kept.
    """
    outputs.check(images)
    with hold_output(outputs.table, images, overwrite=overwrite, ranks=ranks):
        device.prepare("auto", threads, precision)
        checkpoint = read_checkpoint(run, trust=trust)
        if checkpoint.description.kind == "segmenter":
            raise ValueError(
                f"{checkpoint.folder} holds a segmenter, whose masks need a folder; name one with --out, not "
                f"{outputs.table}"
            )
        model = load_classifier(checkpoint)
        description = checkpoint.description
        several = description.thresholds is not None
        source = _with_known_labels(open_images(images, split, multi_label=several), description.classes, several)
        kept = count = len(description.classes)
        if not several:
            kept = min(max(outputs.top, classes_needed(source, count)), count)
        about = {**about_source(checkpoint, list(images), split, source), "batch_size": batch_size, "top": kept}
        about |= unusual_precision(precision)
        check_same(ranks, about)  # a run that is still trained may have another checkpoint for each
        folder = outputs.table.with_name(f"{outputs.table.name}.parts")
        parts = Parts(folder, source, part_size(len(source), batch_size), KINDS, "predictions")
        compute_parts(
            parts,
            about,
            model,
            description,
            Logits(precision),
            partial(_likeliest, kept=kept, thresholds=description.thresholds),
            batch_size=batch_size,
            workers=workers,
            threads=threads,
            skipped=SkippedImages(source, ALL),
            label="predicting",
            restart=True,
            quiet=quiet,
            ranks=ranks,
        )
        return Predicted(**ranks.from_first(lambda: asdict(write_outputs(parts, outputs, description, about))))


def _likeliest(logits_BK: np.ndarray, kept: int, thresholds: Sequence[float] | None) -> Arrays:
    """Return the classes and probabilities that a part keeps of a batch, [B, kept]."""
    classes_Bk = likeliest(logits_BK, kept)
    probabilities_Bk = np.take_along_axis(class_probabilities(logits_BK, thresholds), classes_Bk, axis=1)
    return {CLASSES: classes_Bk.astype(np.int32), PROBABILITIES: probabilities_Bk.astype(np.float32)}


def _with_known_labels(source: Source, classes: Sequence[str], several: bool) -> Source:
    """Return a source without labels where they are none of the classes: names of folders that mean something else.

    Args:
        several: whether the classifier gives an image several classes; the labels of another kind are left out.
    """
    if source.targets is None:
        return source
    present = {name for name, count in zip(source.classes, source.targets.counts().tolist()) if count}
    is_known = isinstance(source.targets, MultiLabelTargets) == several and present & set(classes)
    return source if is_known else replace(source, targets=None)
