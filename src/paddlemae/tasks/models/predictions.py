"""A classifier's probabilities of its classes, from its logits.

Shapes: N images, K classes, k of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def probabilities_of(logits_NK: np.ndarray) -> np.ndarray:
    """Return the softmax of logits, float64 [N, K]."""
    logits_NK = logits_NK.astype(np.float64)
    exponents = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def likeliest(scores_NK: np.ndarray, k: int) -> np.ndarray:
    """Return the k classes of the highest scores, int64 [N, k]; of equal ones the lowest class comes first."""
    return np.argsort(-scores_NK, axis=1, kind="stable")[:, :k]


def class_probabilities(logits_NK: np.ndarray, thresholds: Sequence[float] | None) -> np.ndarray:
    """Return the probabilities of classes, float64 [N, K]; those of a multi-label classifier are independent.

    Args:
        thresholds: those of the classifier's description; None of a classifier that gives an image one class.
    """
    return probabilities_of(logits_NK) if thresholds is None else sigmoid(logits_NK)


def sigmoid(logits: np.ndarray) -> NDArray[np.float64]:
    """Return the probabilities of classes that are independent of each other, from their logits."""
    half: NDArray[np.float64] = np.tanh(np.nan_to_num(logits).astype(np.float64) / 2)
    return (1 + half) / 2


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a classifier: probabilities float64 [N, K] of the classes, in their order.

    `thresholds` are those of a multi-label classifier, one per class; None of others.
    """

    classes: tuple[str, ...]
    probabilities: np.ndarray
    thresholds: tuple[float, ...] | None = None

    @property
    def label_sets(self) -> list[tuple[str, ...]]:
        """Return the classes of each image: those that reach their thresholds, or the likeliest one without these."""
        if self.thresholds is None:
            return [(label,) for label in self.labels]
        reached = self.probabilities >= np.array(self.thresholds)
        return [tuple(name for name, has in zip(self.classes, row) if has) for row in reached.tolist()]

    @property
    def labels(self) -> list[str]:
        """Return the likeliest class of each image."""
        return [self.classes[number] for number in self.probabilities.argmax(axis=1)]

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return the k likeliest classes of each image with their probabilities."""
        return [
            [(self.classes[number], float(row[number])) for number in best]
            for best, row in zip(likeliest(self.probabilities, k).tolist(), self.probabilities)
        ]
