"""Metrics, thresholds and intervals of images of several classes."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from paddlemae.runs.class_results import class_table, result_table
from paddlemae.runs.metrics import MULTI_LABEL, metrics_of, primary_of
from paddlemae.runs.multi_label_metrics import (
    MultiLabelAnswers,
    _average_precision,
    choose_thresholds,
    intervals_of,
    multi_label_metrics,
)
from paddlemae.runs.multi_label_results import multi_label_result


@pytest.fixture
def answers() -> MultiLabelAnswers:
    rng = np.random.default_rng(0)
    labels = rng.random((200, 3)) < (0.5, 0.2, 0.1)
    scores = np.clip(0.3 * labels + 0.7 * rng.random((200, 3)), 0, 1)
    return MultiLabelAnswers(labels, scores, np.array([0.5, 0.6, 0.7]))


def test_metrics_are_those_of_scikit_learn(answers: MultiLabelAnswers) -> None:
    found = multi_label_metrics(answers)
    labels, scores, predicted = answers.labels, answers.probabilities, answers.predicted
    assert found["mean_average_precision"] == pytest.approx(average_precision_score(labels, scores, average="macro"))
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, scores, average="macro"))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(labels, predicted, average="micro"))
    assert found["exact_match"] == pytest.approx((labels == predicted).all(axis=1).mean())


def test_classes_without_images_do_not_count(answers: MultiLabelAnswers) -> None:
    labels = np.hstack([answers.labels, np.zeros((200, 1), bool)])
    scores = np.hstack([answers.probabilities, np.zeros((200, 1))])
    more = MultiLabelAnswers(labels, scores, np.array([0.5, 0.6, 0.7, 0.5]))
    assert multi_label_metrics(more) == pytest.approx(multi_label_metrics(answers))
    nothing = MultiLabelAnswers(np.zeros((5, 2), bool), np.zeros((5, 2)), np.full(2, 0.5))
    assert multi_label_metrics(nothing) == {"exact_match": 1.0, "mean_average_precision": 0.0}


def test_a_threshold_has_the_highest_f1(answers: MultiLabelAnswers) -> None:
    chosen = choose_thresholds(answers.labels, answers.probabilities)
    for k, threshold in enumerate(chosen):
        labels, scores = answers.labels[:, k], answers.probabilities[:, k]
        tried = [f1_score(labels, scores >= value) for value in scores]
        assert f1_score(labels, scores >= threshold) == pytest.approx(max(tried))
        assert threshold not in scores


def test_a_threshold_is_between_probabilities_and_0_5_where_nothing_is_known() -> None:
    labels = np.array([[1, 0, 1, 1], [1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 0]], bool)
    scores = np.array([[0.9, 0.4, 0.1, 0.3], [0.7, 0.2, 0.2, 0.3], [0.1, 0.9, 0.1, 0.3], [0.2, 0.1, 0.2, 0.1]])
    assert choose_thresholds(labels, scores) == pytest.approx([0.45, 0.5, 0.5, 0.2])


def test_a_draw_weighs_images_as_scikit_learn_does(answers: MultiLabelAnswers) -> None:
    counts = np.random.default_rng(1).integers(0, 4, (5, 200)).astype(np.float32)
    labels, scores = answers.labels[:, 1], answers.probabilities[:, 1]
    order = np.argsort(-scores)
    wanted = [average_precision_score(labels, scores, sample_weight=row) for row in counts]
    assert _average_precision(labels[order], counts[:, order]) == pytest.approx(wanted)


def test_intervals_hold_their_metrics_and_are_the_same_again(answers: MultiLabelAnswers) -> None:
    metrics = multi_label_metrics(answers)
    found = intervals_of(answers, metrics)
    assert found == intervals_of(answers, metrics)
    for name, (low, high) in found.items():
        assert low <= metrics[name] <= high and 0.01 < high - low < 0.3
    assert set(found) == {"mean_average_precision", "macro_f1", "micro_f1", "exact_match"}


def test_a_result_has_its_tables(answers: MultiLabelAnswers) -> None:
    result = multi_label_result(answers, ["a", "b", "c"], "mean_average_precision")
    assert metrics_of(result) is MULTI_LABEL and primary_of(result) == "mean_average_precision"
    shares = answers.labels.mean(axis=0)
    assert result["majority"]["mean_average_precision"] == pytest.approx(shares.mean())
    assert result["per_class"]["b"]["threshold"] == 0.6
    assert "mean average precision (primary)" in result_table(result) and "chance" in result_table(result)
    assert class_table(result).count("\n") == 3 and "threshold" in class_table(result)
