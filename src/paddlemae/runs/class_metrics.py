"""Compute the metrics of a classifier's answers on labelled images.

Averages over classes are over those that have images; others are left out.

Shapes: N images, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paddlemae.runs.confusion import Confusion

TOP = 5  # classes among which the true one counts for `top5`, which says something only where there are more
BINS = 15  # of the calibration error: equal widths of the top probability, (0, 1/15], (1/15, 2/15] ...
# Probabilities [N, K] that an evaluation keeps, 17 MB in float32. Beyond, what needs all of them is left out.
MOST_PROBABILITIES = 1 << 22
RANKED = ("auroc", "average_precision")  # metrics that need the probabilities of all classes


@dataclass(frozen=True, eq=False)
class Answers:
    """A classifier's answers on labelled images.

    Attributes:
        classes: how many there are.
        labels, predicted: int64 [N].
        confidence: float64 [N], the probability of the predicted class; None where there are no probabilities.
        in_top: bool [N], whether the true class is among the `TOP` likeliest; None where that is not known.
        probabilities: float32 [N, K]; None where there are none, or more than `MOST_PROBABILITIES`.
    """

    classes: int
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64] | None = None
    in_top: NDArray[np.bool_] | None = None
    probabilities: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, labels: np.ndarray, probabilities: np.ndarray) -> Answers:
        """Return the answers that probabilities [N, K] are: the likeliest class, of equals the lowest."""
        labels = labels.astype(np.int64)
        kept = probabilities.astype(np.float32) if probabilities.size <= MOST_PROBABILITIES else None
        confidence = probabilities.max(axis=1).astype(np.float64)
        predicted = probabilities.argmax(axis=1)
        return cls(probabilities.shape[1], labels, predicted, confidence, rank_of(probabilities, labels) < TOP, kept)

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Return which images were recognised: bool [N]."""
        return self.labels == self.predicted

    @property
    def ranked_classes(self) -> list[int]:
        """Return the classes whose AUROC and average precision are averaged; none where they are not defined.

        Of two classes the second; of more, each that has images. Without probabilities, or with images of one class
        only, there are none.
        """
        present = np.unique(self.labels)
        if self.probabilities is None or len(present) < 2:
            return []
        return [1] if self.classes == 2 else present.tolist()


def rank_of(scores: np.ndarray, labels: np.ndarray) -> NDArray[np.int64]:
    """Return how many classes are likelier than each image's own, int64 [N]; of equals the lowest comes first.

    Args:
        scores: [N, K], logits or probabilities.
    """
    true = np.take_along_axis(scores, labels[:, None], axis=1)
    equal = (scores == true) & (np.arange(scores.shape[1]) < labels[:, None])
    ranks: NDArray[np.int64] = ((scores > true) | equal).sum(axis=1)
    return ranks


class OfClasses(NamedTuple):
    """Images, precision, recall and F1 of each class, [K]; NaN where a class has no image or was never predicted."""

    images: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


def class_scores(confusion: Confusion) -> OfClasses:
    """Return precision, recall and F1 of each class."""
    from sklearn.metrics import precision_recall_fscore_support  # slow to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on classes without images or predictions, which are NaN here
        precision, recall, f1, images = precision_recall_fscore_support(
            confusion.true,
            confusion.predicted,
            labels=np.arange(confusion.classes),
            sample_weight=confusion.count,
            zero_division=np.nan,
        )
    images = confusion.images_of_class()
    return OfClasses(images, precision, np.where(images > 0, recall, np.nan), f1)


def metrics_of_answers(answers: Answers) -> dict[str, float]:
    """Return every metric that answers have, by its key in `runs.metrics.CLASSIFICATION`; all are in 0..1."""
    found = {"top1": float(answers.hits.mean())}
    if answers.in_top is not None and answers.classes > TOP:
        found["top5"] = float(answers.in_top.mean())
    scores = class_scores(Confusion.of(answers.labels, answers.predicted, answers.classes))
    present = scores.images > 0
    found |= {"balanced_accuracy": float(scores.recall[present].mean()), "macro_f1": float(scores.f1[present].mean())}
    found |= _ranking_metrics(answers)
    if answers.confidence is not None:
        found["ece"] = calibration_error(answers.confidence, answers.hits)
    return found


def _ranking_metrics(answers: Answers) -> dict[str, float]:
    """Return AUROC and average precision, one class against the rest; nothing where they are not defined."""
    if not answers.ranked_classes:
        return {}
    from sklearn.metrics import average_precision_score, roc_auc_score

    assert answers.probabilities is not None
    pairs = [(answers.labels == number, answers.probabilities[:, number]) for number in answers.ranked_classes]
    measures = {"auroc": roc_auc_score, "average_precision": average_precision_score}
    return {key: float(np.mean([measure(*pair) for pair in pairs])) for key, measure in measures.items()}


def calibration_error(confidence: np.ndarray, hits: np.ndarray) -> float:
    """Return the expected calibration error: the mean distance of accuracy and confidence over bins of confidence.

    Source: Guo et al., "On Calibration of Modern Neural Networks", sec. 2, with `BINS` bins of equal width.
    """
    gaps = np.bincount(bin_of(confidence), hits - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(hits))


def bin_of(confidence: np.ndarray) -> NDArray[np.int64]:
    """Return the bin of each confidence, int64 [N] in 0..BINS-1."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def left_out(answers: Answers) -> dict[str, str]:
    """Return metric -> why it is not among an evaluation's, of those that answers with probabilities usually have."""
    if answers.confidence is None or answers.ranked_classes:
        return {}
    number = len(answers.labels) * answers.classes
    reason = "the images are of one class only"
    if answers.probabilities is None:
        reason = f"{number:,} probabilities (images x classes) are more than the {MOST_PROBABILITIES:,} that are kept"
    return dict.fromkeys(RANKED, reason)


def majority_of(labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return what naming the commonest class of images for all of them gives: class, `top1`, `balanced_accuracy`."""
    counts = np.bincount(labels, minlength=len(classes))
    share = float(counts.max() / counts.sum())
    return {"class": classes[int(counts.argmax())], "top1": share, "balanced_accuracy": 1 / int((counts > 0).sum())}
