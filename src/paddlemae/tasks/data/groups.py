"""Describe the groups of a source's images, such as patients, and those that leak, for `paddlemae data check`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from paddlemae.data.sources import Source


class SharedGroup(NamedTuple):
    """A group that has images on both sides of a split, and how many there are on each."""

    name: str
    train: int
    test: int


def describe_groups(source: Source) -> dict[str, Any] | None:
    """Return how many groups a source has, and the largest of them with its images; None without groups."""
    if source.groups is None:
        return None
    numbers, counts = np.unique(source.groups, return_counts=True)
    largest = int(np.argmax(counts))
    number = int(numbers[largest])
    name = str(number) if source.group_names is None else source.group_names[number]
    return {"groups": len(numbers), "largest": {"group": name, "images": int(counts[largest])}}


def shared_groups(train: Source, test: Source) -> list[SharedGroup]:
    """Return the groups of the same name in both, in the order of the first; none where one has no names."""
    counts = [_counts(source) for source in (train, test)]
    return [SharedGroup(name, count, counts[1][name]) for name, count in counts[0].items() if name in counts[1]]


def _counts(source: Source) -> dict[str, int]:
    if source.groups is None or source.group_names is None:
        return {}
    numbers, counts = np.unique(source.groups, return_counts=True)
    return {source.group_names[i]: count for i, count in zip(numbers.tolist(), counts.tolist())}
