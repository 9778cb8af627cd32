"""Metrics: results of other kinds of targets are reported by their own primary metric."""

from pathlib import Path

import pytest

from paddlemae.report.collect import collect
from paddlemae.report.page import render
from paddlemae.runs import metrics
from paddlemae.runs.metrics import CLASSIFICATION, Metrics, metrics_of
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
    assert "| top-1, mIoU | pretrained |" in found["markdown"] and "25.0%" in found["markdown"]
    page = render(found, [run])
    assert "Top-1 accuracy, mean IoU" in page and "pixel accuracy 50.0%" in page
