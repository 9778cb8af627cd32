"""Describe the groups and series of images, such as patients and frames, and which leak: `paddlemae data check`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.inspect.series import find_series
from paddlemae.data.inspect.survey import Survey
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


def series_across(sources: Sequence[Source], looks: Survey) -> NDArray[np.int64]:
    """Return the images next to an image of another split in a series: int64 [pairs, 2], that of the first split first.

    Images are numbered as in the survey, one source after the other. Sources with groups have no pairs.
    """
    if len(sources) < 2 or any(source.groups is not None for source in sources):
        return np.empty((0, 2), np.int64)
    numbers: dict[str, int] = {"": 0}
    classes_N = np.concatenate([_class_numbers(source, numbers) for source in sources])
    names = [source.describe(i) for source in sources for i in range(len(source))]
    series = find_series(names, classes_N, lambda chosen: looks.thumbnails_NP[chosen])
    if series is None:
        return np.empty((0, 2), np.int64)
    split_of_N = np.repeat(np.arange(len(sources)), [len(source) for source in sources])
    later = np.flatnonzero(series.before_N >= 0)
    pairs = np.sort(np.stack([series.before_N[later], later], axis=1), axis=1)
    return pairs[split_of_N[pairs[:, 0]] != split_of_N[pairs[:, 1]]]


def _class_numbers(source: Source, numbers: dict[str, int]) -> NDArray[np.int64]:
    """Return the number of each image's class by its name, 0 where it has none or several: int64 [len]."""
    if source.labels is None:
        return np.zeros(len(source), np.int64)
    number_of = [numbers.setdefault(name, len(numbers)) for name in source.classes]
    return np.array([*number_of, 0], np.int64)[source.labels]
