"""A segmenter's result: metrics with intervals, those of each class, and what one class everywhere would give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from paddlemae.runs.bootstrap import listed
from paddlemae.runs.metrics import SEGMENTATION
from paddlemae.runs.segmentation_metrics import (
    COUNTED,
    MapCounts,
    class_scores,
    commonest_class,
    map_intervals,
    map_metrics,
)

OF_CLASSES = ("iou", "dice", "boundary_f1", "recall", "precision")


def segmentation_result(answers: MapCounts, classes: Sequence[str], primary: str) -> dict[str, Any]:
    """Return the part of `result.json` about predicted label maps.

    Args:
        answers: of at least one image with a counted pixel.
        classes: names of the classes.
        primary: the key of the primary metric; mean IoU takes its place where it is not defined.
    Returns:
        the metrics in 0..1, and `primary`; `intervals`, metric -> [low, high] of 95%; `majority`, what predicting the
        commonest class for every pixel gives; `only`, the class that every pixel was predicted as, if there is one;
        `ignored_pixels`, the share of pixels that count nowhere; `empty_images`, images of which every pixel was
        ignored, if there are any; `per_class`, name -> pixels, images with the class, and metrics (None: undefined).
    """
    metrics = map_metrics(answers)
    intervals, iou_ends = map_intervals(answers, metrics)
    scores, truth = class_scores(answers.totals), answers.counts[:, COUNTED.index("truth")]
    predicted = np.flatnonzero(answers.totals[COUNTED.index("predicted")])
    counted = int(answers.totals[COUNTED.index("truth")].sum())
    result: dict[str, Any] = {
        **metrics,
        "primary": primary if primary in metrics else SEGMENTATION.primary,
        "intervals": intervals,
        "majority": commonest_class(answers, classes),
        "ignored_pixels": answers.ignored / (answers.ignored + counted),
    }
    if len(predicted) == 1:
        result["only"] = classes[int(predicted[0])]
    if answers.empty:
        result["empty_images"] = answers.empty
    result["per_class"] = {
        name: {
            "pixels": int(truth[:, number].sum()),
            "images": int((truth[:, number] > 0).sum()),
            **{key: _known(scores[key][number]) for key in OF_CLASSES},
            "intervals": {"iou": listed(iou_ends[number])},
        }
        for number, name in enumerate(classes)
    }
    return result


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
