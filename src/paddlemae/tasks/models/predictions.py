"""A classifier's probabilities of its classes, from its logits.

Shapes: N images, K classes, k of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def probabilities_of(logits_NK: np.ndarray) -> np.ndarray:
    """Return the softmax of logits, float64 [N, K]."""
    logits_NK = logits_NK.astype(np.float64)
    exponents = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def likeliest(scores_NK: np.ndarray, k: int) -> np.ndarray:
    """Return the k classes of the highest scores, int64 [N, k]; of equal ones the lowest class comes first."""
    return np.argsort(-scores_NK, axis=1, kind="stable")[:, :k]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a classifier: probabilities float64 [N, K] of the classes, in their order."""

    classes: tuple[str, ...]
    probabilities: np.ndarray

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
