"""The logistic regression of baselines: its regularisation is chosen without the images that it predicts."""

import numpy as np
import pytest

from paddlemae.tasks.baselines import logistic
from paddlemae.tasks.baselines.logistic import STRENGTHS, Table, fit_and_predict


def table(counts: list[int], width: int = 6, noise: float = 0.3, seed: int = 0) -> Table:
    """Features around one corner per class; every image is a group of its own."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = np.eye(len(counts), width)[labels] + noise * rng.normal(size=(len(labels), width))
    return Table(rows.astype(np.float32), labels, np.arange(len(labels)))


def test_separable_classes_are_told_apart() -> None:
    held_out = table([10, 10, 10], seed=1)
    fit = fit_and_predict(table([20, 20, 20]), held_out.features_ND, 3, primary="top1", seed=0)
    assert (fit.probabilities.argmax(axis=1) == held_out.labels).mean() > 0.9
    np.testing.assert_allclose(fit.probabilities.sum(axis=1), 1)
    assert fit.strength in STRENGTHS


def test_more_features_than_images_are_fitted_in_the_space_of_the_images() -> None:
    train = table([12, 12], width=300)
    scaled, others = logistic._scale(train, table([5, 5], width=300, seed=2).features_ND)
    assert scaled.features_ND.shape[1] <= 24 and others.shape == (10, scaled.features_ND.shape[1])
    centred = train.features_ND - train.features_ND.mean(axis=0)
    before, after = centred @ centred.T, scaled.features_ND @ scaled.features_ND.T
    np.testing.assert_allclose(after, before * after.trace() / before.trace(), atol=1e-3 * after.max())


def test_balanced_accuracy_raises_the_probability_of_rare_classes() -> None:
    train, held_out = table([90, 10], noise=1.0), table([50, 50], noise=1.0, seed=3)
    plain, balanced = (
        fit_and_predict(train, held_out.features_ND, 2, primary=primary, seed=0).probabilities[:, 1].mean()
        for primary in ("top1", "balanced_accuracy")
    )
    assert balanced > plain + 0.1


def test_a_group_is_never_on_both_sides_of_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    train = table([30, 30])
    copies = Table(np.repeat(train.features_ND, 2, axis=0), np.repeat(train.labels, 2), np.repeat(train.groups, 2))
    seen = []
    model = logistic._model

    class Watched:
        def __init__(self, balanced: bool):
            self.model = model(balanced)

        def set_params(self, **settings: float) -> "Watched":
            self.model.set_params(**settings)
            return self

        def fit(self, rows: np.ndarray, labels: np.ndarray) -> "Watched":
            seen.append(rows)
            self.model.fit(rows, labels)
            return self

        def __getattr__(self, name: str) -> object:
            return getattr(self.model, name)

    monkeypatch.setattr(logistic, "_model", Watched)
    fit_and_predict(copies, copies.features_ND, 2, primary="top1", seed=0)
    for rows in seen:
        assert (np.unique(rows, axis=0, return_counts=True)[1] == 2).all()


def test_a_class_without_training_images_has_no_probability() -> None:
    train = table([10, 10])
    fit = fit_and_predict(
        Table(train.features_ND, train.labels * 2, train.groups), train.features_ND, 3, primary="top1", seed=0
    )
    assert (fit.probabilities[:, 1] == 0).all()


def test_a_class_with_one_image_leaves_the_usual_regularisation() -> None:
    assert fit_and_predict(table([10, 1]), np.zeros((1, 6), np.float32), 2, primary="top1", seed=0).strength == 1


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="two classes"):
        fit_and_predict(table([10]), np.zeros((1, 6), np.float32), 1, primary="top1", seed=0)
