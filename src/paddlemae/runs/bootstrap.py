"""Compute bootstrap intervals of a classifier's metrics: images are drawn again with replacement, and all are measured.

Shapes: N images, K classes, D draws, B draws at a time, G classes that have images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paddlemae.runs.class_metrics import BINS, TOP, Answers, bin_of

LEVEL = 0.95
MOST_DRAWS, FEWEST_DRAWS = 1000, 100
WORK = 1e8  # images x classes x draws, above which there are fewer draws: some seconds
AT_ONCE = 1 << 17  # counts of images at a time, which stay in the processor's cache
LISTED_CLASSES = 1000  # up to which each class has an interval

Interval = tuple[float, float]
_Floats = NDArray[np.float64]
_Counts = NDArray[np.int32]


class Intervals(NamedTuple):
    """The ends of intervals: metric -> (low, high); and of each class [K, 2] its precision and recall, or None."""

    metrics: dict[str, Interval]
    precision: _Floats | None
    recall: _Floats | None

    def of_classes(self) -> dict[str, list[list[float] | None]] | None:
        """Return `precision` and `recall` as an exhibit has them, None where a class has no interval."""
        if self.precision is None or self.recall is None:
            return None
        return {
            key: list(map(listed, ends)) for key, ends in zip(("precision", "recall"), (self.precision, self.recall))
        }


def listed(ends: np.ndarray) -> list[float] | None:
    """Return an interval as JSON has it; None for NaN."""
    return [round(float(end), 6) for end in ends] if np.isfinite(ends).all() else None


def bootstrap(answers: Answers, metrics: dict[str, float], seed: int = 0) -> Intervals:
    """Return percentile intervals of 95% over images that are drawn again, the same for the same answers.

    Args:
        metrics: of the answers, as `metrics_of_answers` gives them. An interval always holds its metric: the
            calibration error of a draw tends to be larger than that of all images.
    """
    ranked = len(answers.ranked_classes)
    rng, count = np.random.default_rng(seed), _draws(len(answers.labels), ranked)
    plan = _Plan.of(answers)
    drawn: dict[str, list[_Floats]] = {}
    for counts_BN in resamples(rng, count, len(answers.labels), answers.classes):
        for name, values in plan.measure(counts_BN).items():
            drawn.setdefault(name, []).append(values)
    values_D = {name: np.concatenate(values) for name, values in drawn.items()}
    of_classes = {
        name: _ends_of_classes(values_D.pop(name), plan.present, answers.classes)
        for name in ("precision", "recall")
        if name in values_D
    }
    ends = {name: _ends(values_D[name]) for name in metrics if name in values_D}
    held = {name: (min(low, metrics[name]), max(high, metrics[name])) for name, (low, high) in ends.items()}
    return Intervals(held, of_classes.get("precision"), of_classes.get("recall"))


def _draws(images: int, ranked_classes: int) -> int:
    return int(np.clip(WORK / (max(1, images) * max(1, ranked_classes)), FEWEST_DRAWS, MOST_DRAWS))


def resamples(rng: np.random.Generator, draws: int, images: int, classes: int) -> Iterator[_Counts]:
    """Yield how often each image is drawn: [B, N], in blocks of B draws."""
    most = max(1, AT_ONCE // max(images, classes))
    for start in range(0, draws, most):
        block = min(most, draws - start)
        chosen = rng.integers(0, images, (block, images)) + images * np.arange(block)[:, None]
        yield np.bincount(chosen.ravel(), minlength=block * images).reshape(block, images).astype(np.int32)


@dataclass(frozen=True, eq=False)
class _Order:
    """Images sorted by a group, and where each group begins."""

    groups: NDArray[np.int64]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, group_N: np.ndarray) -> _Order:
        groups, starts = np.unique(np.sort(group_N), return_index=True)
        return cls(groups, np.argsort(group_N, kind="stable"), starts)

    def sums(self, counts_BN: _Counts) -> _Floats:
        """Return the sum of each group's counts: [B, groups]."""
        return np.add.reduceat(np.take(counts_BN, self.order, axis=1), self.starts, axis=1).astype(np.float64)


class _Ranking(NamedTuple):
    """One class against the rest: images by descending probability.

    Attributes:
        order: int64 [N], the images.
        starts, ends: int64 [R], the first and last place of each run of equal probabilities with an image of the class.
        positives: int64 [P], the images of the class, in that order.
        firsts: int64 [R], where those of each run begin in `positives`.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    positives: NDArray[np.int64]
    firsts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Plan:
    """All that is the same in every draw."""

    answers: Answers
    true: _Order
    predicted: _Order
    rankings: list[_Ranking]

    @classmethod
    def of(cls, answers: Answers) -> _Plan:
        rankings = [_ranking(answers, number) for number in answers.ranked_classes]
        return cls(answers, _Order.of(answers.labels), _Order.of(answers.predicted), rankings)

    @property
    def present(self) -> NDArray[np.int64]:
        return self.true.groups

    def measure(self, counts_BN: _Counts) -> dict[str, _Floats]:
        """Return metric -> its value in each draw, [B]; `precision` and `recall` are of each present class, [B, G]."""
        answers, images = self.answers, counts_BN.shape[1]
        found = {"top1": counts_BN @ answers.hits / images}
        if answers.in_top is not None and answers.classes > TOP:
            found["top5"] = counts_BN @ answers.in_top / images
        found |= self._measure_classes(counts_BN)
        if self.rankings:
            pairs = [_measure_ranking(counts_BN, ranking) for ranking in self.rankings]
            found |= {
                key: _mean_over_classes(np.stack(values, axis=1))
                for key, values in zip(("auroc", "average_precision"), zip(*pairs))
            }
        if answers.confidence is not None:
            bins = np.eye(BINS)[bin_of(answers.confidence)] * (answers.hits - answers.confidence)[:, None]
            found["ece"] = np.abs(counts_BN @ bins).sum(axis=1) / images
        return found

    def _measure_classes(self, counts_BN: _Counts) -> dict[str, _Floats]:
        images_BG, right_BG = self.true.sums(counts_BN), self.true.sums(counts_BN * self.answers.hits)
        predicted_BK = np.zeros((len(counts_BN), self.answers.classes))
        predicted_BK[:, self.predicted.groups] = self.predicted.sums(counts_BN)
        predicted_BG = predicted_BK[:, self.present]
        with np.errstate(invalid="ignore"):  # a class that is in none of the draw's images, or never predicted
            recall, precision = right_BG / images_BG, right_BG / predicted_BG
            f1 = np.where(images_BG > 0, 2 * right_BG / (images_BG + predicted_BG), np.nan)
        found = {"balanced_accuracy": _mean_over_classes(recall), "macro_f1": _mean_over_classes(f1)}
        return found | ({"precision": precision, "recall": recall} if self.answers.classes <= LISTED_CLASSES else {})


def _ranking(answers: Answers, number: int) -> _Ranking:
    assert answers.probabilities is not None
    scores = answers.probabilities[:, number]
    order = np.argsort(-scores, kind="stable")
    run_of = np.cumsum(np.append(0, np.diff(scores[order]) != 0))
    is_positive = answers.labels[order] == number
    runs, firsts = np.unique(run_of[is_positive], return_index=True)
    starts, ends = (np.searchsorted(run_of, runs, side) for side in ("left", "right"))
    return _Ranking(order, starts, ends - 1, order[is_positive], firsts)


def _measure_ranking(counts_BN: _Counts, ranking: _Ranking) -> tuple[_Floats, _Floats]:
    """Return (AUROC, average precision) of each draw, [B]; NaN where all its images are of one side."""
    images = counts_BN.shape[1]
    taken = np.cumsum(np.take(counts_BN, ranking.order, axis=1), axis=1, dtype=np.int32)
    before = np.where(ranking.starts > 0, taken[:, ranking.starts - 1], 0)
    after = taken[:, ranking.ends].astype(np.float64)
    positives = np.add.reduceat(np.take(counts_BN, ranking.positives, axis=1), ranking.firsts, axis=1)
    positives_so_far = np.cumsum(positives, axis=1)
    total = positives_so_far[:, -1].astype(np.float64)
    equal = after - before - positives  # images of other classes with the same probability
    less_likely = images - total[:, None] - (after - positives_so_far)
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc = (positives * (less_likely + equal / 2)).sum(axis=1) / (total * (images - total))
        precision = np.where(positives > 0, positives_so_far / after, 0)
        return auroc, (positives * precision).sum(axis=1) / total


def _mean_over_classes(values_BG: _Floats) -> _Floats:
    """Return the mean over the classes that have a value, [B]; NaN where none has."""
    known = np.isfinite(values_BG)
    with np.errstate(invalid="ignore"):
        means: _Floats = np.where(known, values_BG, 0).sum(axis=1) / known.sum(axis=1)
    return means


def _ends(values_D: _Floats) -> Interval:
    low, high = np.quantile(values_D[np.isfinite(values_D)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _ends_of_classes(values_DG: _Floats, present: NDArray[np.int64], classes: int) -> _Floats:
    """Return the interval of each class, [K, 2]; NaN where it has no value in any draw."""
    ends = np.full((classes, 2), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on classes without any value
        ends[present] = np.nanquantile(values_DG, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).T
    return ends
