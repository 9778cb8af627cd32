"""Evaluation of a multi-label classifier: metrics on held-out images, and the thresholds that suit them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import Source
from paddlemae.data.views.augment import View
from paddlemae.runs.figures import draw_bars
from paddlemae.runs.metrics import MULTI_LABEL, Metrics
from paddlemae.runs.multi_label_metrics import MultiLabelAnswers, choose_thresholds, class_rankings, multi_label_metrics
from paddlemae.runs.multi_label_results import multi_label_result
from paddlemae.runs.runlog import FIGURES
from paddlemae.tasks.models.predictions import sigmoid
from paddlemae.tasks.training.optional_output import optional
from paddlemae.train.parallel.ranks import ALONE, Ranks
from paddlemae.weights.model_folder import Description


@dataclass(frozen=True, eq=False)
class MultiLabelEvaluation:
    """A multi-label classifier's answers on labelled images.

    Attributes:
        answers: what was predicted of each image.
        loss: mean binary cross-entropy over images and classes.
    """

    answers: MultiLabelAnswers
    loss: float

    kind: ClassVar[Metrics] = MULTI_LABEL
    picture: ClassVar[str] = "average_precision.png"

    @property
    def images(self) -> int:
        """Return the number of images."""
        return len(self.answers.labels)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Return the metrics and the loss, as in `metrics.jsonl`."""
        return {**multi_label_metrics(self.answers), "eval_loss": self.loss}

    def with_own_thresholds(self) -> MultiLabelEvaluation:
        """Return the same with the thresholds that suit these images best, of a validation part."""
        thresholds = np.array(choose_thresholds(self.answers.labels, self.answers.probabilities))
        return replace(self, answers=replace(self.answers, thresholds=thresholds))

    def describe(self, description: Description) -> Description:
        """Return a model's description with the thresholds of these answers."""
        return replace(description, thresholds=self.answers.thresholds.tolist())

    def result(self, classes: Sequence[str], primary: str) -> dict[str, Any]:
        """Return the metrics with their intervals and the loss, as in `result.json`."""
        return {**multi_label_result(self.answers, classes, primary), "eval_loss": self.loss}

    def show(self, run: Path, source: Source, view: View, title: str, caption: str) -> None:
        """Draw the average precision of each class."""
        with optional("the average precisions"):
            values = np.nan_to_num(class_rankings(self.answers)[0])
            draw_bars(run / FIGURES / self.picture, source.classes, values.tolist(), "average precision", caption)


def multi_label_evaluation_of(
    predictions: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    thresholds: Sequence[float],
    ranks: Ranks = ALONE,
) -> MultiLabelEvaluation:
    """Evaluate batches of (indices int64 [B], labels 0 or 1 [B, K], logits float32 [B, K]).

    Args:
        ranks: processes that each have other images; all get the evaluation of all.
    Raises:
        DataFault: no image at all.
    """
    width = 2 * len(thresholds) + 1
    parts = [np.empty((0, width))]
    parts += [np.hstack([indices[:, None], labels, logits]) for indices, labels, logits in predictions]
    rows = _gather(np.concatenate(parts), ranks)
    if not len(rows):
        raise DataFault("no image to evaluate on can be read; fix them")
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    labels, logits = np.split(rows[:, 1:], 2, axis=1)
    losses = np.logaddexp(0, logits) - labels * logits
    answers = MultiLabelAnswers(labels > 0, sigmoid(logits), np.array(thresholds))
    return MultiLabelEvaluation(answers, float(losses.mean()))


def _gather(rows: NDArray[np.float64], ranks: Ranks) -> NDArray[np.float64]:
    """Return the rows of all processes."""
    if not ranks.lines:
        return rows
    texts = ranks.gather(base64.b64encode(np.ascontiguousarray(rows).tobytes()).decode())
    return np.concatenate([np.frombuffer(base64.b64decode(text)).reshape(-1, rows.shape[1]) for text in texts])
