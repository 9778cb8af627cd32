"""Describe the groups of a source's images, such as patients, and those that leak, for `paddlemae data check`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from paddlemae.data.sources import Source


class SharedGroup(NamedTuple):
    """A group that has images in several splits, and how many there are in each."""

    name: str
    counts: tuple[int, ...]


def describe_groups(source: Source) -> dict[str, Any] | None:
    """Return how many groups a source has, and the largest of them with its images; None without groups."""
    if source.groups is None:
        return None
    numbers, counts = np.unique(source.groups, return_counts=True)
    largest = int(np.argmax(counts))
    number = int(numbers[largest])
    name = str(number) if source.group_names is None else source.group_names[number]
    return {"groups": len(numbers), "largest": {"group": name, "images": int(counts[largest])}}


def shared_groups(sources: Sequence[Source]) -> list[SharedGroup]:
    """Return the groups of the same name in several splits, in their order; a source without names has none."""
    counts = [_counts(source) for source in sources]
    names = dict.fromkeys(name for each in counts for name in each)
    groups = [SharedGroup(name, tuple(each.get(name, 0) for each in counts)) for name in names]
    return [group for group in groups if sum(count > 0 for count in group.counts) > 1]


def _counts(source: Source) -> dict[str, int]:
    if source.groups is None or source.group_names is None:
        return {}
    numbers, counts = np.unique(source.groups, return_counts=True)
    return {source.group_names[i]: count for i, count in zip(numbers.tolist(), counts.tolist())}
