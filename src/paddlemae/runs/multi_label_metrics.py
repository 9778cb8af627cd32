"""Compute the metrics of a multi-label classifier's answers, and the thresholds of its classes.

Averages over classes are over those that have images; others are left out.

Shapes: N images, K classes, D draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEFAULT_THRESHOLD = 0.5
LEVEL = 0.95
MOST_DRAWS, FEWEST_DRAWS = 1000, 100
WORK = 2e8  # images x classes x draws, above which there are fewer draws: some seconds
AT_ONCE = 1 << 20  # numbers of draws x images

_Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MultiLabelAnswers:
    """A classifier's probabilities of each class, each on its own, on labelled images.

    Attributes:
        labels: bool [N, K], whether an image has a class.
        probabilities: float64 [N, K].
        thresholds: float64 [K]: an image is said to have a class if its probability is at least this.
    """

    labels: NDArray[np.bool_]
    probabilities: _Floats
    thresholds: _Floats

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Return which classes images are said to have: bool [N, K]."""
        return self.probabilities >= self.thresholds

    @property
    def present(self) -> NDArray[np.int64]:
        """Return the classes that have images."""
        return np.flatnonzero(self.labels.any(axis=0))


def choose_thresholds(labels: NDArray[np.bool_], probabilities: _Floats) -> list[float]:
    """Return for each class the threshold of the highest F1 on these images, half way between two probabilities.

    Of equal ones it is the highest threshold. A class without images, or that all images have, gets 0.5.
    """
    return [_best_threshold(labels[:, k], probabilities[:, k]) for k in range(labels.shape[1])]


def _best_threshold(labels_N: NDArray[np.bool_], scores_N: _Floats) -> float:
    if labels_N.all() or not labels_N.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-scores_N, kind="stable")
    scores, hits = scores_N[order], np.cumsum(labels_N[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + hits[-1])
    f1[:-1][scores[:-1] == scores[1:]] = -1  # equal probabilities are on the same side
    best = int(np.argmax(f1))
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + below) / 2)


def multi_label_metrics(answers: MultiLabelAnswers) -> dict[str, float]:
    """Return the metrics by their keys in `runs.metrics.MULTI_LABEL`, all in 0..1; undefined ones are left out.

    Where no class has an image, the mean average precision is 0.
    """
    precision_K, auroc_K = class_rankings(answers)
    _, _, f1_K = class_scores(answers)
    labels, predicted = answers.labels, answers.predicted
    either = labels.sum() + predicted.sum()
    found = {
        "mean_average_precision": _mean(precision_K) if len(answers.present) else 0.0,
        "auroc": _mean(auroc_K),
        "macro_f1": _mean(f1_K[answers.present]),
        "micro_f1": float(2 * (labels & predicted).sum() / either) if either else math.nan,
        "exact_match": float((labels == predicted).all(axis=1).mean()),
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def class_rankings(answers: MultiLabelAnswers) -> tuple[_Floats, _Floats]:
    """Return (average precision, AUROC) of each class, [K]; NaN where a class has no image, or all have it."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    found = np.full((2, answers.labels.shape[1]), np.nan)
    for k in answers.present:
        labels_N, scores_N = answers.labels[:, k], answers.probabilities[:, k]
        found[0, k] = average_precision_score(labels_N, scores_N)
        if not labels_N.all():
            found[1, k] = roc_auc_score(labels_N, scores_N)
    return found[0], found[1]


def class_scores(answers: MultiLabelAnswers) -> tuple[_Floats, _Floats, _Floats]:
    """Return (precision, recall, F1) of each class at its threshold, [K]; NaN where they are not defined."""
    hits_K = (answers.labels & answers.predicted).sum(axis=0)
    images_K, said_K = answers.labels.sum(axis=0), answers.predicted.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return hits_K / said_K, hits_K / images_K, 2 * hits_K / (images_K + said_K)


def chance_of(answers: MultiLabelAnswers) -> dict[str, Any]:
    """Return what is expected of scores that say nothing: average precision is then a class's share of the images."""
    shares_K = answers.labels.mean(axis=0)[answers.present]
    return {"class": None, "auroc": 0.5, "mean_average_precision": _mean(shares_K) if len(shares_K) else 0.0}


def intervals_of(answers: MultiLabelAnswers, metrics: dict[str, float], seed: int = 0) -> dict[str, list[float]]:
    """Return percentile intervals of 95% over images that are drawn again with replacement, each with its metric in."""
    count, classes = answers.labels.shape
    draws = int(np.clip(WORK / max(1, count * classes), FEWEST_DRAWS, MOST_DRAWS))
    rng, rows = np.random.default_rng(seed), max(1, AT_ONCE // count)
    orders = [np.argsort(-answers.probabilities[:, k], kind="stable") for k in answers.present]
    drawn: dict[str, list[_Floats]] = {}
    for start in range(0, draws, rows):
        counts = rng.multinomial(count, np.full(count, 1 / count), size=min(rows, draws - start)).astype(np.float32)
        for name, values in _measure(answers, orders, counts).items():
            drawn.setdefault(name, []).append(values)
    ends: dict[str, list[float]] = {}
    for name in (name for name in metrics if name in drawn):
        low, high = np.nanquantile(np.concatenate(drawn[name]), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
        ends[name] = [min(low, metrics[name]), max(high, metrics[name])]
    return ends


def _measure(
    answers: MultiLabelAnswers, orders: list[NDArray[np.int64]], counts_DN: NDArray[np.float32]
) -> dict[str, _Floats]:
    """Return the metrics of draws, in which image n comes counts_DN[d, n] times: name -> [D]."""
    labels, predicted = answers.labels[:, answers.present], answers.predicted[:, answers.present]
    precision = [_average_precision(labels[order, k], counts_DN[:, order]) for k, order in enumerate(orders)]
    hits, images, said = (
        (counts_DN @ part.astype(np.float32)).astype(np.float64) for part in (labels & predicted, labels, predicted)
    )
    wrong = (answers.labels != answers.predicted).any(axis=1).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        all_said = counts_DN @ answers.predicted.sum(axis=1).astype(np.float32)
        found = {
            "macro_f1": np.nanmean(2 * hits / (images + said), axis=1),
            "micro_f1": 2 * hits.sum(axis=1) / (images.sum(axis=1) + all_said),
            "exact_match": 1 - counts_DN @ wrong / counts_DN.sum(axis=1),
        }
    return {"mean_average_precision": np.nanmean(precision, axis=0), **found} if precision else found


def _average_precision(labels_N: NDArray[np.bool_], counts_DN: NDArray[np.float32]) -> _Floats:
    """Return the average precision of draws of images in the order of their scores, [D]; NaN without the class."""
    hits_DN = np.cumsum(counts_DN * labels_N, axis=1, dtype=np.float64)
    seen_DN = np.cumsum(counts_DN, axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        gains_DN = np.where(labels_N & (counts_DN > 0), counts_DN * hits_DN / seen_DN, 0.0)
        total_D: _Floats = gains_DN.sum(axis=1) / hits_DN[:, -1]
    return total_D


def _mean(values: _Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan
