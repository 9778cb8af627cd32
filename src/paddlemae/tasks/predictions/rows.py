"""Predictions of single images, and the columns of a table of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from paddlemae.data.sources import Source
from paddlemae.system.display_names import escape_surrogates
from paddlemae.tasks.models.feature_file import path_of
from paddlemae.tasks.models.parts import Parts
from paddlemae.tasks.predictions.table_file import Columns, Value

CLASSES, PROBABILITIES = "classes", "probabilities"  # arrays of a part
KINDS = {CLASSES: "iu", PROBABILITIES: "f"}


class Prediction(NamedTuple):
    """The prediction of a classifier for one image.

    Args:
        image: its number in the source.
        classes, probabilities: the likeliest classes as numbers, the likeliest first; none of an unreadable image.
        error: why the image could not be read; None of a readable one.
    """

    image: int
    classes: Sequence[int]
    probabilities: Sequence[float]
    error: str | None = None


def predictions_in(parts: Parts) -> Iterator[Prediction]:
    """Yield the prediction of each image, in the source's order."""
    for part in parts:
        columns = (part.indices, part.arrays[CLASSES], part.arrays[PROBABILITIES])
        found = [Prediction(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
        found += [Prediction(i, (), (), reason) for i, reason in part.faults.items()]
        yield from sorted(found, key=lambda prediction: prediction.image)


@dataclass(frozen=True)
class Layout:
    """The columns of a table of predictions.

    Args:
        classes: names of the classifier's classes.
        top: how many classes of each image are listed.
        unsure: probability below which an image is unsure; None leaves the column out.
        thresholds: of a multi-label classifier, whose images get a column of the classes that reach them.
    """

    source: Source
    classes: Sequence[str]
    top: int
    unsure: float | None = None
    thresholds: Sequence[float] | None = None

    @property
    def columns(self) -> Columns:
        """Return the names of the columns and the types of their values."""
        columns: dict[str, type] = {"path": str, "class": str, "probability": float}
        for place in range(2, self.top + 1):
            columns |= {f"class_{place}": str, f"probability_{place}": float}
        if self.thresholds is not None:
            columns["labels"] = str
        if self.unsure is not None:
            columns["unsure"] = bool
        if self.source.targets is not None:
            columns["label"] = str
        return {**columns, "error": str}

    def is_unsure(self, prediction: Prediction) -> bool:
        """Return whether a readable image's likeliest class has a probability below the threshold."""
        return self.unsure is not None and prediction.error is None and prediction.probabilities[0] < self.unsure

    def said(self, prediction: Prediction) -> list[int]:
        """Return the classes that a readable image is said to have: the likeliest, or those that reach thresholds."""
        if self.thresholds is None:
            return [prediction.classes[0]]
        pairs = sorted(zip(prediction.classes, prediction.probabilities))
        return [number for number, probability in pairs if probability >= self.thresholds[number]]

    def label_of(self, image: int) -> str | None:
        """Return the class that an image has in its source, or its classes with a "|" in between; None if unknown."""
        targets = self.source.targets
        if targets is None or not targets.known[image]:
            return None
        return "|".join(map(escape_surrogates, targets.names(image)))

    def row(self, prediction: Prediction) -> list[Value]:
        """Return the values of an image's row."""
        values: list[Value] = [path_of(self.source, prediction.image)]
        if prediction.error is None:
            for number, probability in zip(prediction.classes[: self.top], prediction.probabilities):
                values += [escape_surrogates(self.classes[number]), probability]
        else:
            values += [None] * (2 * self.top)
        if self.thresholds is not None:
            names = (escape_surrogates(self.classes[number]) for number in self.said(prediction))
            values.append("|".join(names) if prediction.error is None else None)
        if self.unsure is not None:
            values.append(self.is_unsure(prediction) if prediction.error is None else None)
        if self.source.targets is not None:
            values.append(self.label_of(prediction.image))
        return [*values, None if prediction.error is None else escape_surrogates(prediction.error)]
