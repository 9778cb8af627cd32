"""Count which class was predicted for which: only the pairs that occur, since classes squared are too many.

Shapes: P pairs, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFUSION_COLUMNS = ("true", "predicted", "count")


@dataclass(frozen=True, eq=False)
class Confusion:
    """Counts of (true class, predicted class), ascending by these.

    Attributes:
        classes: how many there are.
        true, predicted, count: int64 [P].
    """

    classes: int
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    count: NDArray[np.int64]

    @classmethod
    def of(cls, labels: np.ndarray, predicted: np.ndarray, classes: int) -> Confusion:
        """Count predictions: both int64 [N]."""
        pairs, count = np.unique(labels.astype(np.int64) * classes + predicted, return_counts=True)
        return cls(classes, *np.divmod(pairs, classes), count.astype(np.int64))

    @property
    def images(self) -> int:
        return int(self.count.sum())

    @property
    def right(self) -> int:
        return int(self.count[self.true == self.predicted].sum())

    def images_of_class(self) -> NDArray[np.int64]:
        """Return how many images each true class has: [K]."""
        return _sum_counts(self.true, self.count, self.classes)

    def right_of_class(self) -> NDArray[np.int64]:
        """Return how many images of each true class were recognised: [K]."""
        hit = self.true == self.predicted
        return _sum_counts(self.true[hit], self.count[hit], self.classes)

    def predicted_as_class(self) -> NDArray[np.int64]:
        """Return how many images were taken for each class: [K]."""
        return _sum_counts(self.predicted, self.count, self.classes)

    def matrix(self, side: int | None = None) -> NDArray[np.int64]:
        """Return the counts as a table [true, predicted].

        Args:
            side: rows and columns, each of several consecutive classes where these are more; one a class unless given.
        """
        side = self.classes if side is None else min(side, self.classes)
        cells = self.true * side // self.classes * side + self.predicted * side // self.classes
        return _sum_counts(cells, self.count, side * side).reshape(side, side)

    def as_json(self) -> dict[str, list[int]]:
        return {name: getattr(self, name).tolist() for name in CONFUSION_COLUMNS}


def _sum_counts(places: NDArray[np.int64], count: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    sums = np.zeros(size, np.int64)
    np.add.at(sums, places, count)
    return sums


def read_confusion(content: Mapping[str, Any]) -> Confusion:
    """Read what an exhibit says: `classes` and `as_json`'s columns, or of older runs `counts`, a row a true class.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: it says something else.
    """
    size = len(content["classes"])
    if "counts" in content:
        columns = _columns_of(content["counts"], size)
    else:
        columns = np.array([_whole(content[name]) for name in CONFUSION_COLUMNS], np.int64).reshape(
            len(CONFUSION_COLUMNS), -1
        )
    true, predicted, count = columns
    if columns.size and (columns.min() < 0 or max(true.max(), predicted.max()) >= size):
        raise ValueError(f"counts of other classes than the {size}, or below 0")
    order = np.lexsort((predicted, true))
    order = order[count[order] > 0]
    return Confusion(size, true[order], predicted[order], count[order])


def _columns_of(rows: Any, size: int) -> NDArray[np.int64]:
    if len(rows) != size or any(len(row) != size for row in rows):
        raise ValueError(f"counts that are not of {size} x {size} classes")
    columns = [np.zeros((3, 0), np.int64)]
    for number, row in enumerate(rows):
        counts = np.array(_whole(row), np.int64)
        places = np.flatnonzero(counts)
        columns.append(np.stack([np.full_like(places, number), places, counts[places]]))
    return np.concatenate(columns, axis=1)


def _whole(numbers: Any) -> list[int]:
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise ValueError("counts that are no whole numbers")
    return numbers
