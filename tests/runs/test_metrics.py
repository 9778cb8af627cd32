"""Metrics: results of other kinds of targets are reported by their own primary metric."""

from pathlib import Path

import pytest

from paddlemae.recipe.settings import PRIMARY_METRICS
from paddlemae.report.collect import collect
from paddlemae.report.page import render
from paddlemae.runs import metrics
from paddlemae.runs.metrics import CLASSIFICATION, MULTI_LABEL, Metrics, metrics_of, primary_metric, primary_of
from paddlemae.runs.runlog import log_result
from tests.support.run_folders import make_run, result


@pytest.fixture
def segmentation(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    kind = Metrics("mean IoU", {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"})
    monkeypatch.setattr(metrics, "ALL_METRICS", (CLASSIFICATION, kind))
    return kind


def test_a_result_s_metrics_are_those_of_its_primary_one(segmentation: Metrics) -> None:
    assert metrics_of({"top1": 0.5, "top5": 1.0}) is CLASSIFICATION
    assert metrics_of({"miou": 0.25}) is segmentation
    assert metrics_of({"miou": "0.25"}) is metrics_of({"top5": 0.5}) is None
    assert segmentation.text({"miou": 0.25, "pixel_accuracy": 0.5}, 1) == "mIoU 25.0%, pixel accuracy 50.0%"


def test_results_without_top_1_are_reported(segmentation: Metrics, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    masks = {key: value for key, value in result("segment", 0.0).items() if key != "top1"}
    log_result(run, [result("finetune", 0.75), {**masks, "miou": 0.25, "pixel_accuracy": 0.5}])
    found = collect([run])
    (content,) = found["runs"]
    assert not content["problems"] and [row["metric"] for row in content["results"]] == ["top1", "miou"]
    assert content["results"][1]["starts"]["pretrained"]["miou"] == [0.25]
    assert "| accuracy, mIoU | pretrained |" in found["markdown"] and "25.0%" in found["markdown"]
    page = render(found, [run])
    assert "Accuracy, mean IoU" in page and "pixel accuracy 50.0%" in page


def test_accuracy_is_primary_where_classes_are_balanced() -> None:
    assert primary_metric([10, 15]) == primary_metric([10, 15, 0]) == "top1"
    assert primary_metric([10, 16]) == "balanced_accuracy"


def test_a_result_names_its_primary_metric() -> None:
    assert primary_of({"top1": 0.5, "macro_f1": 0.25, "primary": "macro_f1"}) == "macro_f1"
    for other in ({}, {"primary": "macro_f1"}, {"primary": ["top1"]}, {"primary": "step", "step": 3}):
        assert primary_of({"top1": 0.5, **other}) == "top1"


def test_a_recipe_can_name_each_metric_of_which_more_is_better() -> None:
    named = set(CLASSIFICATION.titles) - set(CLASSIFICATION.errors) - {"top5"}
    assert set(PRIMARY_METRICS) == named | {MULTI_LABEL.primary}
