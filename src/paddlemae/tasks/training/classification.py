"""Evaluation of a classifier: metrics, confusion and mistakes on held-out images."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import Source
from paddlemae.data.views.augment import View
from paddlemae.engine.safe_import import F
from paddlemae.engine.tensors import tensor_of
from paddlemae.runs.bootstrap import Intervals, bootstrap
from paddlemae.runs.class_metrics import MOST_PROBABILITIES, TOP, Answers, metrics_of_answers, rank_of
from paddlemae.runs.class_results import class_result
from paddlemae.runs.confusion import Confusion
from paddlemae.runs.figures import draw_confusion
from paddlemae.runs.metrics import CLASSIFICATION, Metrics
from paddlemae.runs.runlog import FIGURES
from paddlemae.tasks.training.exhibits import Mistake, show_mistakes
from paddlemae.tasks.training.optional_output import optional
from paddlemae.train.parallel.ranks import ALONE, Ranks
from paddlemae.weights.model_folder import Description

# what a classifier or its features started from
PRETRAINED, RANDOM = "pretrained", "random"
SHOWN_MISTAKES = 24


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A classifier's answers on labelled images.

    Attributes:
        answers: what was predicted of each image.
        loss: mean cross-entropy.
        mistakes: the surest ones, the surest first.
    """

    answers: Answers
    loss: float
    mistakes: list[Mistake] = field(default_factory=list)

    kind: ClassVar[Metrics] = CLASSIFICATION
    picture: ClassVar[str] = "confusion.png"

    @property
    def images(self) -> int:
        """Return the number of images."""
        return len(self.answers.labels)

    @cached_property
    def confusion(self) -> Confusion:
        """Return how often each class was taken for which."""
        return Confusion.of(self.answers.labels, self.answers.predicted, self.answers.classes)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Return the metrics and the loss, as in `metrics.jsonl`."""
        return {**metrics_of_answers(self.answers), "eval_loss": self.loss}

    @cached_property
    def intervals(self) -> Intervals:
        """Return the bootstrap intervals of the metrics."""
        return bootstrap(self.answers, metrics_of_answers(self.answers))

    def describe(self, description: Description) -> Description:
        """Return a model's description as it is."""
        return description

    def result(self, classes: Sequence[str], primary: str) -> dict[str, Any]:
        """Return the metrics with their intervals and the loss, as in `result.json`; arguments as of `class_result`."""
        return {**class_result(self.answers, classes, primary, self.intervals), "eval_loss": self.loss}

    def show(self, run: Path, source: Source, view: View, title: str, caption: str) -> None:
        """Draw the mistakes and the confusion matrix of a run.

        Args:
            source, view: the held-out images, and how the classifier saw them.
            title, caption: of the mistakes, of the matrix.
        """
        with optional("the mistakes"):
            show_mistakes(run, source, view, self.confusion, self.mistakes, title, self.intervals)
        with optional("the confusion matrix"):
            draw_confusion(run / FIGURES / self.picture, self.confusion, source.classes, caption)


_KINDS = (np.int64, np.int64, np.int64, np.float64, np.bool_, np.float64)  # types of the columns, one row per image
Predictions = Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]


def evaluation_of(predictions: Predictions, num_classes: int, ranks: Ranks = ALONE) -> Evaluation:
    """Evaluate batches of (indices int64 [B], labels int64 [B], logits float32 [B, classes]).

    The lowest class wins a tie. The probabilities of all classes are kept up to `MOST_PROBABILITIES` numbers.

    Args:
        ranks: processes that each have other images; all get the evaluation of all.
    Raises:
        DataFault: no image at all.
    """
    columns: list[list[np.ndarray]] = [[np.empty(0, kind)] for kind in _KINDS]
    kept: list[np.ndarray] | None = [np.empty((0, num_classes), np.float32)]
    for indices, labels, logits in predictions:
        losses = F.cross_entropy(tensor_of(logits), tensor_of(labels), reduction="none").numpy().ravel()
        known = np.where(np.isnan(logits), -np.inf, logits)
        likelihood = np.exp(logits - logits.max(axis=1, keepdims=True))
        total = likelihood.sum(axis=1)
        rows = (indices, labels, known.argmax(axis=1), likelihood.max(axis=1) / total, rank_of(known, labels) < TOP)
        for column, values in zip(columns, (*rows, losses)):
            column.append(values)
        if kept is not None:
            kept.append(np.nan_to_num(likelihood / total[:, None]))
            kept = kept if sum(part.size for part in kept) <= MOST_PROBABILITIES else None
    return _evaluation(columns, kept, num_classes, ranks)


def _evaluation(
    parts: list[list[np.ndarray]], kept: list[np.ndarray] | None, num_classes: int, ranks: Ranks
) -> Evaluation:
    own = [np.concatenate(column) for column in parts]
    columns = _gather(own, ranks)
    order = np.lexsort(columns[::-1])
    indices, labels, predicted, confidence, in_top, losses = (column[order] for column in columns)
    if not len(indices):
        raise DataFault("no image to evaluate on can be read; fix them")
    probabilities = _gather_probabilities(kept, num_classes, ranks)
    probabilities = None if probabilities is None else probabilities[order]
    answers = Answers(num_classes, labels, predicted, confidence, in_top, probabilities)
    mistakes = surest_mistakes(indices, labels, predicted, confidence)
    return Evaluation(answers, math.fsum(losses) / len(losses), mistakes)


def _gather(columns: Sequence[np.ndarray], ranks: Ranks) -> list[np.ndarray]:
    """Return the columns of all processes' images."""
    if not ranks.lines:
        return list(columns)
    gathered = ranks.gather([column.tolist() for column in columns])
    return [
        np.concatenate([np.array(values, kind) for values in column]) for column, kind in zip(zip(*gathered), _KINDS)
    ]


def _gather_probabilities(kept: list[np.ndarray] | None, num_classes: int, ranks: Ranks) -> np.ndarray | None:
    """Return the probabilities [N, K] of all processes' images; None where they are too many."""
    sizes = ranks.gather(None if kept is None else sum(part.size for part in kept))
    if kept is None or None in sizes or sum(sizes) > MOST_PROBABILITIES:
        return None
    own = np.concatenate(kept)
    if not ranks.lines:
        return own
    texts = ranks.gather(base64.b64encode(own.tobytes()).decode())
    return np.concatenate([np.frombuffer(base64.b64decode(text), np.float32) for text in texts]).reshape(
        -1, num_classes
    )


def surest_mistakes(
    indices: np.ndarray, labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray
) -> list[Mistake]:
    """Return the wrong predictions of highest confidence, the surest first."""
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")[:SHOWN_MISTAKES]]
    return [Mistake(int(indices[i]), int(labels[i]), int(predicted[i]), float(confidence[i])) for i in surest]
