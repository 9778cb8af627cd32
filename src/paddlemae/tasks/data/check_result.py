"""The result of `paddlemae data check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.inspect import duplicates
from paddlemae.data.inspect.survey import Survey
from paddlemae.tasks.data.check_masks import MaskPart
from paddlemae.tasks.data.groups import SharedGroup
from paddlemae.tasks.data.splits import OpenedSplit


@dataclass(frozen=True, eq=False)
class CheckResult:
    """Findings of a check; arrays have an entry an image, of all splits one after the other.

    Args:
        exact, near: the first image of each one's group, as `duplicates` gives them.
        leaks: groups of images that are in more than one split, and whether any two of these are exact duplicates.
        shared: the source's own groups, patients say, that are in more than one split.
        series: int64 [pairs, 2], neighbours in a series, frames say, that are in two splits.
        notes: how the source was understood where that is not plain: what is left out, say.
        others: how many files with each ending lie among the images and are not read.
        masks: of images with masks, what these hold in each split.
        findings: how many of each kind there are that should be looked into; empty where nothing was found.
    """

    spec: str
    test: str | None
    channels: int
    splits: list[OpenedSplit]
    looks: Survey
    exact: NDArray[np.int64]
    near: NDArray[np.int64]
    leaks: list[tuple[NDArray[np.int64], bool]]
    shared: list[SharedGroup]
    series: NDArray[np.int64]
    notes: list[str]
    others: Counter[str]
    masks: list[MaskPart] = field(default_factory=list)
    findings: dict[str, int] = field(default_factory=dict)

    def place(self, i: int) -> tuple[OpenedSplit, int]:
        """Return (split, number in its source) of an image."""
        split = next(split for split in reversed(self.splits) if i >= split.start)
        return split, int(i) - split.start

    def describe(self, i: int) -> str:
        split, number = self.place(i)
        return split.source.describe(number)

    def exact_duplicates(self) -> Iterator[NDArray[np.int64]]:
        return duplicates.iterate_groups(self.exact)

    def near_duplicates(self) -> Iterator[NDArray[np.int64]]:
        """Yield groups that are more than copies of one file."""
        return (group for group in duplicates.iterate_groups(self.near) if len(np.unique(self.exact[group])) > 1)


def class_counts(split: OpenedSplit) -> dict[str, int]:
    """Return how many images each class has; empty without labels."""
    targets = split.source.targets
    return {} if targets is None else dict(zip(targets.classes, targets.counts().tolist()))
