"""Metrics of label maps, against scikit-learn and scipy."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score

from paddlemae.runs.segmentation_metrics import (
    COUNTED,
    MapCounts,
    class_scores,
    commonest_class,
    count_boundaries,
    count_pairs,
    map_intervals,
    map_metrics,
    mean_over_classes,
    tolerance_of,
)

CLASSES = 6  # of which the last is never there


def maps(seed: int, ignored: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return (truth, prediction): patches of classes, the prediction shifted and noisy, a tenth ignored."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES - 1, (7, 9)).repeat(6, axis=0).repeat(5, axis=1).astype(np.int16)
    predicted = np.roll(truth, rng.integers(-3, 4, 2), (0, 1))
    noisy = rng.random(truth.shape) < 0.1
    predicted = np.where(noisy, rng.integers(0, CLASSES - 1, truth.shape), predicted)
    if ignored:
        truth = np.where(rng.random(truth.shape) < 0.1, -1, truth).astype(np.int16)
        truth[:5] = -1
    return truth, predicted


def counts_of(pairs: list[tuple[np.ndarray, np.ndarray]]) -> MapCounts:
    confusions = [count_pairs(*pair, CLASSES) for pair in pairs]
    rows = [
        np.vstack([np.diag(one), one.sum(axis=1), one.sum(axis=0), count_boundaries(*pair, CLASSES)])
        for one, pair in zip(confusions, pairs)
    ]
    return MapCounts(np.stack(rows), np.sum(confusions, axis=0), np.arange(len(rows)))


def flat(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    return truth[truth >= 0], predicted[truth >= 0]


@pytest.mark.parametrize("ignored", [True, False])
def test_metrics_over_a_set_are_those_of_scikit_learn(ignored: bool) -> None:
    pairs = [maps(seed, ignored) for seed in range(4)]
    answers, (truth, predicted) = counts_of(pairs), flat(pairs)
    metrics = map_metrics(answers)
    assert metrics["miou"] == pytest.approx(jaccard_score(truth, predicted, average="macro"), abs=1e-12)
    assert metrics["dice"] == pytest.approx(f1_score(truth, predicted, average="macro"), abs=1e-12)
    assert metrics["pixel_accuracy"] == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)
    per_image = [jaccard_score(*flat([pair]), average="macro") for pair in pairs]
    assert metrics["image_miou"] == pytest.approx(np.mean(per_image), abs=1e-12)
    assert (answers.confusion == confusion_matrix(truth, predicted, labels=range(CLASSES))).all()


def test_a_class_that_is_only_predicted_counts_and_an_absent_one_does_not() -> None:
    truth, predicted = np.zeros((4, 4), np.int16), np.zeros((4, 4), np.int64)
    predicted[0, 0] = 2
    answers = counts_of([(truth, predicted)])
    assert map_metrics(answers)["miou"] == pytest.approx((15 / 16 + 0) / 2)


def by_distance_maps(truth: np.ndarray, predicted: np.ndarray, tolerance: float) -> np.ndarray:
    """Return what `count_boundaries` counts, by morphology and distance transforms."""
    cross, ignored = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool), truth < 0
    found = np.zeros((4, CLASSES), np.int64)
    for number in range(CLASSES):
        edges = []
        for labels in (truth, predicted):
            inside = (labels == number) & ~ignored
            edges.append(inside & ~binary_erosion(inside | ignored, cross, border_value=1))
        true, said = edges
        found[0, number], found[2, number] = true.sum(), said.sum()
        if true.any() and said.any():
            found[1, number] = (distance_transform_edt(~said)[true] <= tolerance).sum()
            found[3, number] = (distance_transform_edt(~true)[said] <= tolerance).sum()
    return found


@pytest.mark.parametrize("tolerance", [1.0, 2.0, 2**0.5, 3.7])
@pytest.mark.parametrize("seed", range(3))
def test_boundaries_are_those_of_morphology_and_distance_transforms(seed: int, tolerance: float) -> None:
    truth, predicted = maps(seed)
    expected = by_distance_maps(truth, predicted, tolerance)
    assert (count_boundaries(truth, predicted, CLASSES, tolerance) == expected).all()


def test_boundary_f1_is_the_harmonic_mean_of_both_shares() -> None:
    truth, predicted = maps(5)
    answers, shares = counts_of([(truth, predicted)]), by_distance_maps(truth, predicted, 1.0)
    assert tolerance_of(truth.shape) == 1.0
    recall, precision = shares[1, :5] / shares[0, :5], shares[3, :5] / shares[2, :5]
    expected = np.mean(2 * recall * precision / (recall + precision))
    assert map_metrics(answers)["boundary_f1"] == pytest.approx(expected, abs=1e-12)


def test_the_tolerance_grows_with_the_image() -> None:
    assert tolerance_of((600, 800)) == pytest.approx(7.5)


def test_a_missed_boundary_counts_as_nothing_and_no_boundary_is_left_out() -> None:
    half = np.zeros((8, 8), np.int16)
    half[:, 4:] = 1
    missed = counts_of([(half, np.zeros((8, 8), np.int64))])
    assert map_metrics(missed)["boundary_f1"] == 0
    plain = counts_of([(np.zeros((8, 8), np.int16), np.zeros((8, 8), np.int64))])
    assert "boundary_f1" not in map_metrics(plain)


def test_ignored_pixels_count_nowhere() -> None:
    truth, predicted = maps(2)
    other = np.where(truth < 0, (predicted + 1) % CLASSES, predicted)
    assert (count_pairs(truth, predicted, CLASSES) == count_pairs(truth, other, CLASSES)).all()
    assert (count_boundaries(truth, predicted, CLASSES) == count_boundaries(truth, other, CLASSES)).all()
    nothing = np.full((5, 5), -1, np.int16)
    assert not count_pairs(nothing, np.zeros((5, 5), np.int64), CLASSES).any()


def test_intervals_hold_the_metrics_and_come_from_resampled_images() -> None:
    answers = counts_of([maps(seed) for seed in range(6)])
    metrics = map_metrics(answers)
    ends, of_classes = map_intervals(answers, metrics)
    assert ends.keys() == metrics.keys()
    assert all(low <= metrics[name] <= high and low < high for name, (low, high) in ends.items())
    rng = np.random.default_rng(1)
    drawn = [answers.counts[rng.integers(0, 6, 6)].sum(axis=0) for _ in range(2000)]
    values = mean_over_classes(np.stack([class_scores(one)["iou"] for one in drawn]))
    assert ends["miou"] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.01)
    assert np.isnan(of_classes[-1]).all() and np.isfinite(of_classes[:-1]).all()


def test_the_commonest_class_everywhere_gives_what_is_said() -> None:
    pairs = [maps(seed) for seed in range(3)]
    answers = counts_of(pairs)
    said = commonest_class(answers, [f"class {number}" for number in range(CLASSES)])
    number = int(said["class"].split()[1])
    alone = map_metrics(counts_of([(truth, np.full(truth.shape, number)) for truth, _ in pairs]))
    assert {key: alone[key] for key in ("miou", "dice", "pixel_accuracy")} == pytest.approx(
        {key: said[key] for key in ("miou", "dice", "pixel_accuracy")}
    )
    assert len(COUNTED) == answers.counts.shape[1]
