"""What a result says of predicted label maps."""

import numpy as np
import pytest

from paddlemae.runs.class_results import class_table, result_table
from paddlemae.runs.metrics import metrics_of, primary_of
from paddlemae.runs.segmentation_metrics import MapCounts, count_boundaries, count_pairs
from paddlemae.runs.segmentation_results import segmentation_result

CLASSES = ("road", "car", "sky")


def answers_of(truth: np.ndarray, predicted: np.ndarray, **more: int) -> MapCounts:
    confusion = count_pairs(truth, predicted, 3)
    rows = [np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)]
    counts = np.vstack([*rows, count_boundaries(truth, predicted, 3)])
    return MapCounts(counts[None], confusion, np.zeros(1, np.int64), **more)


def test_a_result_names_metrics_classes_and_what_was_ignored() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, -1]], np.int16)
    predicted = np.array([[0, 0, 0, 1], [0, 0, 1, 1]])
    result = segmentation_result(answers_of(truth, predicted, ignored=1, empty=2), CLASSES, "miou")
    assert result["miou"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert result["ignored_pixels"] == pytest.approx(1 / 8) and result["empty_images"] == 2
    assert result["per_class"]["car"]["iou"] == pytest.approx(2 / 3) and result["per_class"]["car"]["pixels"] == 3
    assert result["per_class"]["sky"]["iou"] is None and result["per_class"]["sky"]["intervals"]["iou"] is None
    assert result["majority"]["class"] == "road" and "only" not in result
    assert primary_of(result) == "miou" and metrics_of(result).name == "mean IoU"


def test_tables_show_each_class_by_its_iou() -> None:
    truth = np.array([[0, 0, 1, 1]], np.int16)
    result = segmentation_result(answers_of(truth, np.array([[0, 0, 0, 1]])), CLASSES, "dice")
    assert "mean Dice (primary)" in result_table(result)
    lines = class_table(result).splitlines()
    assert lines[0].split()[:3] == ["class", "pixels", "IoU"] and "66.7%" in lines[1] and "50.0%" in lines[2]


def test_one_class_everywhere_is_named() -> None:
    result = segmentation_result(answers_of(np.array([[0, 1]], np.int16), np.array([[1, 1]])), CLASSES, "miou")
    assert result["only"] == "car"
