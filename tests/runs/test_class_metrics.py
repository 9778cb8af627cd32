"""Metrics of classifiers: equal to scikit-learn's, with ties and absent classes, and bootstrap intervals of each."""

from __future__ import annotations

import itertools
import time
import warnings

import numpy as np
import pytest
from sklearn import metrics as theirs

from paddlemae.runs import class_metrics
from paddlemae.runs.bootstrap import _Plan, bootstrap
from paddlemae.runs.class_metrics import Answers, class_scores, left_out, majority_of, metrics_of_answers
from paddlemae.runs.class_results import class_result, class_table, majority_text, result_table
from paddlemae.runs.confusion import Confusion


def random_answers(seed: int, images: int, classes: int, absent: int = 0, steps: int | None = None) -> Answers:
    """Answers that are better than chance; `steps` rounds probabilities so that many are equal."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - absent, images)
    logits = rng.normal(size=(images, classes))
    logits[np.arange(images), labels] += 1
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if steps:
        probabilities = np.round(probabilities * steps) / steps
    return Answers.of(labels, probabilities.astype(np.float32))


CASES = [(300, 2, 0, None), (300, 2, 0, 10), (200, 3, 0, 5), (500, 8, 2, None), (90, 30, 5, None)]


@pytest.mark.parametrize(("images", "classes", "absent", "steps"), CASES)
def test_metrics_equal_scikit_learns(images: int, classes: int, absent: int, steps: int | None) -> None:
    answers = random_answers(images, images, classes, absent, steps)
    labels, predicted, scores = answers.labels, answers.predicted, answers.probabilities
    assert scores is not None and answers.confidence is not None
    found, present = metrics_of_answers(answers), np.unique(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on predictions of absent classes
        expected = {
            "top1": theirs.accuracy_score(labels, predicted),
            "balanced_accuracy": theirs.balanced_accuracy_score(labels, predicted),
            "macro_f1": theirs.f1_score(labels, predicted, labels=present, average="macro"),
        }
    if classes > 5:
        order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        expected["top5"] = (order == labels[:, None]).any(axis=1).mean()
    if classes == 2:
        expected["auroc"] = theirs.roc_auc_score(labels, scores[:, 1])
        expected["average_precision"] = theirs.average_precision_score(labels, scores[:, 1])
    else:
        one_hot = labels[:, None] == present
        expected["auroc"] = theirs.roc_auc_score(one_hot, scores[:, present], average="macro")
        expected["average_precision"] = theirs.average_precision_score(one_hot, scores[:, present], average="macro")
    edges = np.linspace(0, 1, 16)
    expected["ece"] = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (answers.confidence > low) & (answers.confidence <= high)
        if inside.any():
            gap = answers.hits[inside].mean() - answers.confidence[inside].mean()
            expected["ece"] += inside.mean() * abs(gap)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("images", "classes", "absent", "steps"), CASES)
def test_each_draw_is_measured_as_its_images_would_be(images: int, classes: int, absent: int, steps) -> None:
    answers, rng = random_answers(7, images, classes, absent, steps), np.random.default_rng(0)
    assert answers.confidence is not None and answers.in_top is not None and answers.probabilities is not None
    counts = np.stack([np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(5)])
    measured = _Plan.of(answers).measure(counts.astype(np.int32))
    for draw, count in enumerate(counts):
        rows = np.repeat(np.arange(images), count)
        drawn = Answers(
            classes,
            answers.labels[rows],
            answers.predicted[rows],
            answers.confidence[rows],
            answers.in_top[rows],
            answers.probabilities[rows],
        )
        expected = metrics_of_answers(drawn)
        assert {key: measured[key][draw] for key in expected} == pytest.approx(expected, abs=1e-9)
        scores = class_scores(Confusion.of(drawn.labels, drawn.predicted, classes))
        for key, values in (("precision", scores.precision), ("recall", scores.recall)):
            np.testing.assert_allclose(measured[key][draw], values[np.unique(answers.labels)])


def test_intervals_hold_their_metric_and_are_always_the_same() -> None:
    answers = random_answers(0, 400, 4)
    metrics = metrics_of_answers(answers)
    found = bootstrap(answers, metrics)
    assert found.metrics == bootstrap(answers, metrics).metrics and set(found.metrics) == set(metrics)
    assert all(0 <= low <= metrics[key] <= high <= 1 for key, (low, high) in found.metrics.items())
    low, high = found.metrics["top1"]
    deviation = np.sqrt(metrics["top1"] * (1 - metrics["top1"]) / 400)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.1), "that of a binomial distribution"


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng, hits, truth = np.random.default_rng(0), 0, 0.7
    for _ in range(60):
        labels = rng.integers(0, 2, 200)
        predicted = np.where(rng.random(200) < truth, labels, 1 - labels)
        answers = Answers(2, labels, predicted)
        low, high = bootstrap(answers, metrics_of_answers(answers)).metrics["balanced_accuracy"]
        hits += low <= truth <= high
    assert hits >= 51, "95% of 60 are 57"


def test_without_probabilities_there_is_no_ranking() -> None:
    labels = np.array([0, 0, 1, 2])
    found = metrics_of_answers(Answers(3, labels, np.array([0, 1, 1, 1])))
    assert set(found) == {"top1", "balanced_accuracy", "macro_f1"} and found["balanced_accuracy"] == 0.5
    assert left_out(Answers(3, labels, labels)) == {}


def test_what_is_not_defined_is_left_out_with_the_reason() -> None:
    answers = random_answers(0, 20, 3, absent=2)
    result = class_result(answers, "abc", "auroc")
    assert set(result["left_out"]) == {"auroc", "average_precision"} and result["primary"] == "top1"
    assert not {"auroc", "average_precision"} & set(result)
    assert "of one class only" in result_table(result)


def test_too_many_probabilities_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_metrics, "MOST_PROBABILITIES", 999)
    answers = random_answers(0, 100, 10)
    assert answers.probabilities is None and "1,000 probabilities" in left_out(answers)["auroc"]
    assert {"top1", "top5", "ece"} <= set(metrics_of_answers(answers))


def test_classes_that_are_absent_or_never_predicted_have_no_number() -> None:
    answers = Answers(4, np.array([0, 0, 1, 1]), np.array([0, 0, 0, 3]))
    result = class_result(answers, ["a", "b", "c", "d"], "top1")
    assert {name: (one["images"], one["precision"], one["recall"]) for name, one in result["per_class"].items()} == {
        "a": (2, pytest.approx(2 / 3), 1.0),
        "b": (2, None, 0.0),
        "c": (0, None, None),
        "d": (0, 0.0, None),
    }
    assert result["balanced_accuracy"] == 0.5 and result["macro_f1"] == pytest.approx(0.4)
    assert class_table(result).splitlines()[3].split() == ["c", "0", "-", "-"]


def test_the_commonest_class_is_what_a_classifier_must_beat() -> None:
    labels = np.array([1, 1, 1, 0])
    assert majority_of(labels, "abc") == {"class": "b", "top1": 0.75, "balanced_accuracy": 0.5}
    result = class_result(Answers(3, labels, np.ones(4, np.int64)), "abc", "balanced_accuracy")
    assert result["only"] == "b" and result["top1"] == 0.75
    assert majority_text(result) == "always the commonest class ('b'): accuracy 75.00%, balanced accuracy 50.00%"
    assert "balanced accuracy (primary)" in result_table(result)


def test_of_many_classes_the_worst_are_shown() -> None:
    labels = np.arange(100) % 50
    predicted = np.where(labels < 10, 0, labels)
    result = class_result(Answers(50, labels, predicted), [f"class{number}" for number in range(50)], "top1")
    lines = class_table(result).splitlines()
    assert lines[1].startswith("class1 ") and "class9 " in lines[9] and lines[-1].startswith("... and 40 classes")


def test_ten_thousand_images_take_seconds() -> None:
    answers = random_answers(0, 10_000, 10)
    started = time.process_time()
    bootstrap(answers, metrics_of_answers(answers))
    assert time.process_time() - started < 30
