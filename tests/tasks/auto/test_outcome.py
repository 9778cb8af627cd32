"""What an `auto` run says of its results: whether pretraining helped, and which method is best."""

import pytest

from paddlemae.tasks.auto.outcome import (
    FINETUNED,
    KNN,
    KNN_UNTRAINED,
    MAJORITY,
    SCRATCH,
    compare,
    method_row,
    outcome,
    table,
)


def row(key: str, value: float, width: float = 0.02) -> dict:
    result = {"top1": value, "primary": "top1", "intervals": {"top1": [value - width, value + width]}, "eval_images": 9}
    return method_row(key, result, **({} if key in (FINETUNED, SCRATCH, KNN, KNN_UNTRAINED) else {"title": key}))


@pytest.mark.parametrize(("ours", "helped"), [(0.6, True), (0.4, False), (0.51, None)])
def test_the_verdict_compares_features_with_untrained_ones(ours: float, helped: bool | None) -> None:
    found = outcome([row(KNN_UNTRAINED, 0.5), row(KNN, ours)], "top1")
    assert found["helped"] is helped
    assert f"{ours:.1%}" in found["verdict"] and "50.0%" in found["verdict"]


def test_a_training_from_scratch_is_the_better_judge() -> None:
    rows = [row(KNN_UNTRAINED, 0.3), row(KNN, 0.6), row(SCRATCH, 0.9), row(FINETUNED, 0.8)]
    found = outcome(rows, "top1")
    assert found["helped"] is False and "90.0%" in found["verdict"]


def test_the_best_baseline_is_named_also_if_it_wins() -> None:
    rows = [row(MAJORITY, 0.6), row("gradients", 0.7), row("colour", 0.2), row(FINETUNED, 0.5)]
    (remark,) = outcome(rows, "top1")["remarks"]
    assert "gradients" in remark and "not better" in remark
    (remark,) = outcome([*rows[:3], row(FINETUNED, 0.9)], "top1")["remarks"]
    assert "is better" in remark


def test_without_labels_nothing_is_claimed() -> None:
    found = outcome([], "top1")
    assert found["helped"] is None and found["rows"] == [] and found["remarks"] == []


def test_a_difference_within_an_interval_is_none() -> None:
    assert compare(row(KNN, 0.51), row(SCRATCH, 0.5), "top1") is None
    assert compare(row(KNN, 0.51, width=0.001), row(SCRATCH, 0.5), "top1") is None
    assert compare(row(KNN, 0.51, width=0.001), row(SCRATCH, 0.5, width=0.001), "top1") is True
    assert compare({"top1": 0.4}, {"top1": 0.5}, "top1") is False  # without intervals


def test_rows_begin_with_the_commonest_class_and_end_with_the_best() -> None:
    rows = [row(FINETUNED, 0.8), row("colour", 0.1), row(MAJORITY, 0.6), row(KNN, 0.7)]
    found = outcome(rows, "top1")
    assert [one["key"] for one in found["rows"]] == [MAJORITY, "colour", KNN, FINETUNED]
    lines = table(found).splitlines()
    assert len(lines) == 5 and "60.0%" in lines[1] and "58.0 to 62.0%" in lines[1]


def test_the_primary_metric_comes_first() -> None:
    both = {"top1": 0.9, "balanced_accuracy": 0.4, "primary": "balanced_accuracy", "intervals": {}}
    found = outcome([method_row(KNN, both), method_row(MAJORITY, both, title="m")], "balanced_accuracy")
    assert list(found["columns"]) == ["balanced_accuracy", "top1"]
