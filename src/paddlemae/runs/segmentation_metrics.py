"""Compute the metrics of predicted label maps from counts of pixels: over a whole set, and image by image.

Pixels whose true class is negative are ignored: they count nowhere. A mean over classes is over those that occur in the
truth or in the prediction, each of which has a defined IoU.

A pixel is on the boundary of its class if a neighbour above, below, left or right is of another class; ignored pixels
and what lies outside the image are no neighbours. The boundary F1 of a class (Csurka et al., BMVC 2013) is the harmonic
mean of two shares: of the predicted boundary pixels within a tolerance of a true one, and of the true ones within that
tolerance of a predicted one. Distances are Euclidean, and the tolerance is 0.75% of the image's diagonal, 1 pixel at
the least.

Shapes: N images, K classes, H x W pixels, B draws of images; X any number of axes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.runs.bootstrap import FEWEST_DRAWS, LEVEL, MOST_DRAWS, WORK, resamples
from paddlemae.runs.metrics import SEGMENTATION

TOLERANCE = 0.0075  # of a boundary, as a share of the image's diagonal
SMALLEST_TOLERANCE = 1.0  # pixels
# what is counted of each class in an image, in this order
COUNTED = (
    "hits",  # pixels that are of the class and predicted so
    "truth",  # pixels of the class
    "predicted",  # pixels predicted as the class
    "boundary_truth",  # pixels of its true boundary
    "boundary_recalled",  # of these, pixels that are near a predicted one
    "boundary_predicted",  # pixels of its predicted boundary
    "boundary_precise",  # of these, pixels that are near a true one
)

_Counts = NDArray[np.int64]
_Floats = NDArray[np.float64]


def count_pairs(truth_HW: np.ndarray, predicted_HW: np.ndarray, classes: int) -> _Counts:
    """Return how many pixels of each true class (rows) were predicted as which (columns): int64 [K, K]."""
    counted = truth_HW >= 0
    pairs = truth_HW[counted].astype(np.int64) * classes + predicted_HW[counted]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def boundary_pixels(labels_HW: np.ndarray, counted_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the counted pixels that have a counted neighbour, of four, of another class: bool [H, W]."""
    found = np.zeros(labels_HW.shape, np.bool_)
    for first, second in ((np.s_[1:, :], np.s_[:-1, :]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = (labels_HW[first] != labels_HW[second]) & counted_HW[first] & counted_HW[second]
        found[first] |= differs
        found[second] |= differs
    return found


def tolerance_of(size: tuple[int, ...]) -> float:
    """Return the tolerance of a boundary in an image of (height, width), in pixels."""
    return max(SMALLEST_TOLERANCE, TOLERANCE * math.hypot(*size))


def count_boundaries(
    truth_HW: np.ndarray, predicted_HW: np.ndarray, classes: int, tolerance: float | None = None
) -> _Counts:
    """Return the last four of `COUNTED`, int64 [4, K].

    Args:
        tolerance: in pixels; None is that of the image's size.
    """
    from scipy.spatial import cKDTree  # slow to import

    reach = tolerance_of(truth_HW.shape) if tolerance is None else tolerance
    counted = truth_HW >= 0
    found = np.zeros((4, classes), np.int64)
    points, labels = [], []
    for map_HW in (truth_HW, predicted_HW):
        places = np.argwhere(boundary_pixels(map_HW, counted))
        points.append(places)
        labels.append(map_HW[places[:, 0], places[:, 1]])
    for number in np.union1d(*labels).astype(np.int64).tolist():
        true, predicted = (places[of == number] for places, of in zip(points, labels))
        found[0, number], found[2, number] = len(true), len(predicted)
        if len(true) and len(predicted):
            found[1, number] = (cKDTree(predicted).query(true)[0] <= reach).sum()
            found[3, number] = (cKDTree(true).query(predicted)[0] <= reach).sum()
    return found


@dataclass(frozen=True, eq=False)
class MapCounts:
    """Counts of the pixels of predicted label maps.

    Attributes:
        counts: int64 [N, 7, K], see `COUNTED`, of the images with counted pixels.
        confusion: int64 [K, K], pixels of each true class (rows) by predicted class, over all images.
        indices: int64 [N], which images of their source these are.
        ignored: pixels that were ignored.
        empty: images of which every pixel was.
    """

    counts: _Counts
    confusion: _Counts
    indices: _Counts
    ignored: int = 0
    empty: int = 0

    @property
    def images(self) -> int:
        """Return the number of images, those without a counted pixel included."""
        return len(self.counts) + self.empty

    @property
    def classes(self) -> int:
        return self.counts.shape[2]

    @cached_property
    def totals(self) -> _Counts:
        """Return the counts over the whole set, [7, K]."""
        sums: _Counts = self.counts.sum(axis=0)
        return sums

    @cached_property
    def image_miou(self) -> _Floats:
        """Return each image's own mean IoU, [N]."""
        return mean_over_classes(class_scores(self.counts)["iou"])


def class_scores(counts_X7K: np.ndarray) -> dict[str, _Floats]:
    """Return IoU, Dice, recall, precision and boundary F1 of each class from counts, [..., K]; NaN where undefined."""
    hits, truth, predicted, edge, recalled, edge_predicted, precise = np.moveaxis(
        np.asarray(counts_X7K, np.float64), -2, 0
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        edge_recall = np.where(edge > 0, recalled / edge, 0.0)
        edge_precision = np.where(edge_predicted > 0, precise / edge_predicted, 0.0)
        both = edge_recall + edge_precision
        edge_f1 = np.where(both > 0, 2 * edge_recall * edge_precision / both, 0.0)
        return {
            "iou": hits / (truth + predicted - hits),
            "dice": 2 * hits / (truth + predicted),
            "recall": hits / truth,
            "precision": hits / predicted,
            "boundary_f1": np.where(edge + edge_predicted > 0, edge_f1, np.nan),
        }


def mean_over_classes(values_XK: _Floats) -> _Floats:
    """Return the mean over the classes that have a value, [...]; NaN where none has."""
    known = np.isfinite(values_XK)
    with np.errstate(invalid="ignore"):
        means: _Floats = np.where(known, values_XK, 0).sum(axis=-1) / known.sum(axis=-1)
    return means


def map_metrics(answers: MapCounts) -> dict[str, float]:
    """Return every metric that counts have, by its key in `runs.metrics.SEGMENTATION`; all are in 0..1."""
    found = {key: float(values) for key, values in _set_metrics(answers.totals).items()}
    found["image_miou"] = float(answers.image_miou.mean())
    return {key: found[key] for key in SEGMENTATION.titles if math.isfinite(found[key])}


def _set_metrics(counts_X7K: np.ndarray) -> dict[str, _Floats]:
    """Return the metrics of counts over a set, [...]."""
    scores = class_scores(counts_X7K)
    means = {
        name: mean_over_classes(scores[key])
        for name, key in (("miou", "iou"), ("dice", "dice"), ("boundary_f1", "boundary_f1"))
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = counts_X7K[..., 0, :].sum(axis=-1) / counts_X7K[..., 1, :].sum(axis=-1)
    return {**means, "pixel_accuracy": accuracy}


def map_intervals(answers: MapCounts, metrics: dict[str, float], seed: int = 0) -> tuple[dict[str, Any], _Floats]:
    """Return percentile intervals of 95% over images that are drawn again: of each metric, and of each class's IoU.

    Returns:
        (metric -> [low, high], which always hold the metric; [K, 2] of the IoU, NaN where a class has none).
    """
    images, classes = len(answers.counts), answers.classes
    draws = int(np.clip(WORK / (images * classes), FEWEST_DRAWS, MOST_DRAWS))
    flat_NC = answers.counts.reshape(images, -1).astype(np.float64)
    drawn: dict[str, list[_Floats]] = {}
    for counts_BN in resamples(np.random.default_rng(seed), draws, images, 7 * classes):
        sums_B7K = (counts_BN @ flat_NC).reshape(len(counts_BN), len(COUNTED), classes)
        found = _set_metrics(sums_B7K)
        found |= {"image_miou": counts_BN @ answers.image_miou / images, "iou": class_scores(sums_B7K)["iou"]}
        for name, values in found.items():
            drawn.setdefault(name, []).append(values)
    quantiles = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on classes without any value
        ends = {name: np.nanquantile(np.concatenate(values), quantiles, axis=0) for name, values in drawn.items()}
    held = {
        name: [min(float(ends[name][0]), value), max(float(ends[name][1]), value)] for name, value in metrics.items()
    }
    return held, ends["iou"].T


def commonest_class(answers: MapCounts, classes: Sequence[str]) -> dict[str, Any]:
    """Return what predicting the commonest class for every pixel gives: class, mean IoU, Dice, pixel accuracy."""
    truth = answers.totals[COUNTED.index("truth")]
    share, present = float(truth.max() / truth.sum()), int((truth > 0).sum())
    return {
        "class": classes[int(truth.argmax())],
        "miou": share / present,
        "dice": 2 * share / (1 + share) / present,
        "pixel_accuracy": share,
    }
