"""Evaluation of a classifier: metrics, confusion and mistakes on held-out images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import Source
from paddlemae.data.views.augment import View
from paddlemae.engine.safe_import import F
from paddlemae.engine.tensors import tensor_of
from paddlemae.runs.confusion import Confusion
from paddlemae.runs.figures import draw_confusion
from paddlemae.runs.metrics import CLASSIFICATION, Metrics
from paddlemae.runs.runlog import FIGURES
from paddlemae.tasks.training.exhibits import Mistake, show_mistakes
from paddlemae.tasks.training.optional_output import optional
from paddlemae.train.parallel.ranks import ALONE, Ranks

# what a classifier or its features started from
PRETRAINED, RANDOM = "pretrained", "random"
SHOWN_MISTAKES = 24


@dataclass(frozen=True)
class Evaluation:
    """Predictions on held-out images.

    Attributes:
        confusion: how often each class was taken for which.
        top5: share of the images whose class is among the five likeliest.
        loss: mean cross-entropy.
        mistakes: the surest ones, the surest first.
    """

    confusion: Confusion
    top5: float
    loss: float
    mistakes: list[Mistake] = field(default_factory=list)

    kind: ClassVar[Metrics] = CLASSIFICATION
    picture: ClassVar[str] = "confusion.png"

    @property
    def images(self) -> int:
        """Return the number of images."""
        return self.confusion.images

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics and the loss, as in `metrics.jsonl`."""
        top1 = self.confusion.right / max(1, self.confusion.images)
        return {"top1": top1, "top5": self.top5, "eval_loss": self.loss}

    def show(self, run: Path, source: Source, view: View, title: str, caption: str) -> None:
        """Draw the mistakes and the confusion matrix of a run.

        Args:
            source, view: the held-out images, and how the classifier saw them.
            title, caption: of the mistakes, of the matrix.
        """
        with optional("the mistakes"):
            show_mistakes(run, source, view, self.confusion, self.mistakes, title)
        with optional("the confusion matrix"):
            draw_confusion(run / FIGURES / self.picture, self.confusion, source.classes, caption)


_KINDS = (np.int64, np.int64, np.int64, np.float64, np.bool_, np.float64)  # types of the columns, one row per image
Predictions = Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]


def evaluation_of(predictions: Predictions, num_classes: int, ranks: Ranks = ALONE) -> Evaluation:
    """Count batches of (indices int64 [B], labels int64 [B], logits float32 [B, classes]).

    The lowest class wins a tie.

    Args:
        ranks: processes that each have other images; all get the evaluation of all.
    Raises:
        DataFault: no image at all.
    """
    columns: list[list[np.ndarray]] = [[np.empty(0, kind)] for kind in _KINDS]
    for indices, labels, logits in predictions:
        losses = F.cross_entropy(tensor_of(logits), tensor_of(labels), reduction="none").numpy().ravel()
        predicted, places = _ranked(logits, labels)
        likelihood = np.exp(logits - logits.max(axis=1, keepdims=True))
        confidence = likelihood.max(axis=1) / likelihood.sum(axis=1)
        for column, values in zip(columns, (indices, labels, predicted, confidence, places < 5, losses)):
            column.append(values)
    indices, labels, predicted, confidence, hits, losses = _gather(columns, ranks)
    if not len(indices):
        raise DataFault("no image to evaluate on can be read; fix them")
    confusion = Confusion.of(labels, predicted, num_classes)
    mistakes = surest_mistakes(indices, labels, predicted, confidence)
    return Evaluation(confusion, float(hits.mean()), math.fsum(losses) / len(losses), mistakes)


def _ranked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (likeliest class of each image, number of classes before its own); of equals the lowest comes first."""
    logits = np.where(np.isnan(logits), -np.inf, logits)
    true = np.take_along_axis(logits, labels[:, None], axis=1)
    equal = (logits == true) & (np.arange(logits.shape[1]) < labels[:, None])
    return logits.argmax(axis=1), ((logits > true) | equal).sum(axis=1)


def _gather(batches: Sequence[Sequence[np.ndarray]], ranks: Ranks) -> list[np.ndarray]:
    """Return the columns of all processes' images, sorted by the first column, then by the next."""
    columns = [np.concatenate(column) for column in batches]
    if ranks.lines:
        gathered = ranks.gather([column.tolist() for column in columns])
        columns = [
            np.concatenate([np.array(values, kind) for values in column])
            for column, kind in zip(zip(*gathered), _KINDS)
        ]
    order = np.lexsort(columns[::-1])
    return [column[order] for column in columns]


def surest_mistakes(
    indices: np.ndarray, labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray
) -> list[Mistake]:
    """Return the wrong predictions of highest confidence, the surest first."""
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")[:SHOWN_MISTAKES]]
    return [Mistake(int(indices[i]), int(labels[i]), int(predicted[i]), float(confidence[i])) for i in surest]
