"""Fit a logistic regression whose regularisation is chosen on a part of the training images.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # C of scikit-learn: the larger, the less regularisation
FOLDS, FEW_IMAGES = 5, 1500  # up to this number three folds of a fifth choose C, above it one
MOST_STEPS = 100


class Table(NamedTuple):
    """Features float32 [N, D], labels int64 [N], and groups [N] of images that stay on one side of a split."""

    features_ND: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]


class Fitted(NamedTuple):
    """Probabilities float64 [N, K] of the images to classify, and the C that was chosen."""

    probabilities: NDArray[np.float64]
    strength: float


def fit_and_predict(train: Table, features_ND: np.ndarray, num_classes: int, *, primary: str, seed: int) -> Fitted:
    """Fit a logistic regression to `train` and predict other images.

    The loss is balanced over classes when the primary metric is the balanced accuracy. A final fit with the chosen C
    uses all of `train`.

    Args:
        features_ND: of the images to classify.
        primary: the metric that chooses C: `balanced_accuracy` or, for any other one, accuracy.
    Raises:
        ValueError: images of one class only.
    """
    from threadpoolctl import threadpool_limits

    if len(np.unique(train.labels)) < 2:
        raise ValueError("a logistic regression needs images of two classes")
    train, features_ND = _scale(train, features_ND)
    balanced = primary == "balanced_accuracy"
    with threadpool_limits(1), warnings.catch_warnings():  # on a busy machine several threads take ten times as long
        warnings.simplefilter("ignore")  # that it did not converge
        strength = _choose_strength(train, balanced, seed)
        model = _model(balanced)
        for each in STRENGTHS[: STRENGTHS.index(strength) + 1]:  # each starts from the weights of the one before
            model.set_params(C=each).fit(train.features_ND, train.labels)
        found = model.predict_proba(features_ND)
    probabilities = np.zeros((len(features_ND), num_classes))
    probabilities[:, model.classes_] = found
    return Fitted(probabilities, strength)


def _scale(train: Table, features_ND: np.ndarray) -> tuple[Table, np.ndarray]:
    """Return features with mean 0 and a common scale, rotated to as many columns as images where they have more.

    A rotation changes neither the loss nor its penalty, so the fit is the same and takes less time.
    """
    mean = train.features_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows, others = train.features_ND - mean, features_ND - mean
    scale = float(np.sqrt(np.square(rows).sum(axis=1).mean())) or 1.0
    rows, others = rows / scale, others / scale
    if rows.shape[1] > len(rows):
        variances, vectors = np.linalg.eigh(rows.astype(np.float64) @ rows.T)
        used = variances > 1e-6 * max(variances.max(), 1e-12)
        axes = rows.T @ (vectors[:, used] / np.sqrt(variances[used]))
        rows, others = rows @ axes, others @ axes
    return train._replace(features_ND=rows), others


def _model(balanced: bool) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(class_weight="balanced" if balanced else None, max_iter=MOST_STEPS, warm_start=True)


def _choose_strength(train: Table, balanced: bool, seed: int) -> float:
    """Return the C with the best metric on held-out parts; 1 where a class is too small to hold images out."""
    from sklearn.metrics import accuracy_score, balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold

    counts = np.bincount(train.labels)
    folds = min(FOLDS, int(counts[counts > 0].min()), len(np.unique(train.groups)))
    if folds < 2:
        return 1.0
    score = balanced_accuracy_score if balanced else accuracy_score
    parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(*train)
    sums = np.zeros(len(STRENGTHS))
    for fitted, held_out in itertools.islice(parts, 3 if len(train.labels) <= FEW_IMAGES else 1):
        if len(np.unique(train.labels[fitted])) < 2 or not len(held_out):  # where groups are as large as classes
            continue
        model = _model(balanced)
        for place, strength in enumerate(STRENGTHS):
            model.set_params(C=strength).fit(train.features_ND[fitted], train.labels[fitted])
            sums[place] += score(train.labels[held_out], model.predict(train.features_ND[held_out]))
    return STRENGTHS[int(sums.argmax())]
