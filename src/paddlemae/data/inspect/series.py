"""Find series: images whose names count and whose neighbours in that order look alike.

Frames of a film, exposures of one part, slices of one scan and crops of one slide are not independent. If some of them
are held out and their neighbours are trained on, a model is measured on what it has seen. Duplicates do not show this,
as the images differ, but the numbers in the names do.

A candidate order sorts the images of a class by one of the numbers in their names, either whatever the other numbers
are (the same part under exposures 1 to 6) or for each value of the others (frames of several films); or the folders
that they are in are the order. Neighbours are compared with images drawn at random from the same class or film. The
order counts if that separates the two as a classifier with an area under the ROC curve of `LEAST_AREA` would.

Shapes: N images, P values of a thumbnail, C pairs that are compared.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.inspect.stored_channels import read_forms
from paddlemae.data.inspect.survey import COLUMNS, ENOUGH, ROWS, decode_stored, make_thumbnail
from paddlemae.data.sources.source import Source
from paddlemae.data.sources.splits import note, split_of
from paddlemae.data.sources.subsets import spread_over

LEAST_AREA = 0.65  # of neighbours against random pairs, where 0.5 is no difference; two standard errors are added
MOST_IMAGES = 200_000  # of a source whose names are looked through
PAIRS = (48, 192)  # neighbours that are compared, and as many random pairs: at first, and where that shows something
FEWEST_PAIRS = 20
MOST_NUMBERS = 6  # in a name that are tried, from its end
MOST_DIGITS = 15  # of a number, the last ones, which a float holds exactly
FEWEST_IN_CLASS = 6  # images from which neighbours and random pairs can differ
LARGEST_SHARE = 0.25  # of a class's images in one series; a longer one is cut into blocks, so that parts can be made
BLOCKS = 10  # that a class would have if it were one series
LEAST_RATIO = 10  # of the gaps between series to those within
LEAST_WITHIN = 1 / 3  # of all gaps are within series
LEAST_EXPLAINED = 0.8  # of the variance of the logarithms of the gaps, by two kinds of gaps

_Numbers = NDArray[np.int64]
Look = Callable[[_Numbers], NDArray[np.uint8]]  # numbers of images -> thumbnails [len, P]; a constant one if unreadable


@dataclass(frozen=True, eq=False)
class Series:
    """Images in series.

    Args:
        groups_N: int64 [N], equal for images of one series, or of one block of a long series.
        before_N: int64 [N], the image before each one in its series; -1 for the first.
        area: how well likeness tells neighbours from random pairs: area under the ROC curve.
    """

    groups_N: _Numbers
    before_N: _Numbers
    area: float

    @property
    def count(self) -> int:
        """Return the number of series or blocks."""
        return int(self.groups_N.max()) + 1


@dataclass(frozen=True, eq=False)
class _Order:
    """A candidate: images sorted by class, then by a number.

    Args:
        order_N: the images.
        is_next_N: whether the image at a place is a neighbour of the one before it there.
        is_compared_N: the same, for classes that have images enough for random pairs.
        gap_N: difference of their numbers.
        within_N: of each image (not place) the class, or part of it, that random pairs are drawn from.
    """

    order_N: _Numbers
    is_next_N: NDArray[np.bool_]
    is_compared_N: NDArray[np.bool_]
    gap_N: NDArray[np.float64]
    within_N: _Numbers


def find_series(names: Iterable[str], classes_N: _Numbers | None, look: Look) -> Series | None:
    """Return the series of images; None where neighbours look no more alike than others of their class.

    Args:
        names: of the images: paths.
        classes_N: int64 [N], their classes, which no series crosses; None: one class.
        look: gives thumbnails of some images. It is called several times, with at most some hundreds of them.
    """
    parsed = [_parse(name) for name in names]
    if len(parsed) < FEWEST_PAIRS:
        return None
    classes_N = np.zeros(len(parsed), np.int64) if classes_N is None else classes_N
    random = np.random.default_rng(0)
    found: list[tuple[float, _Order]] = []
    for order in _orders(parsed, classes_N):
        area = _area(order, look, random)
        if area is not None:
            found.append((area, order))
    if not found:
        return None
    area, order = max(found, key=lambda each: each[0])
    return _series(order, classes_N, area)


def with_series(source: Source) -> Source:
    """Return a source whose groups are its series, and note how many there are; as it is if it has groups, or none.

    It reads about 150 images for each number in their names, and up to 600 more where that shows something.
    """
    if source.groups is not None or len(source) > MOST_IMAGES:
        return source
    channels = read_forms(source, spread_over(len(source), 8).tolist())[0]
    seen: dict[int, NDArray[np.uint8]] = {}

    def look(numbers: _Numbers) -> NDArray[np.uint8]:
        seen.update((i, _thumbnail(source, i, channels)) for i in numbers.tolist() if i not in seen)
        return np.stack([seen[i] for i in numbers.tolist()])

    found = find_series(map(source.describe, range(len(source))), source.labels, look)
    if found is None:
        return source
    note(
        f"{source.name!r}: images that follow each other by name look alike, as frames or exposures do; "
        f"{found.count:,} series stay whole where a part is held back (keep_series=false: images are drawn one by one)"
    )
    return replace(source, groups=found.groups_N)


def _thumbnail(source: Source, i: int, channels: int) -> NDArray[np.uint8]:
    """Return the thumbnail of an image, uint8 [P]; zeros where it can't be read."""
    try:
        stored = source.stored(i)
        picture = decode_stored(stored, source.describe(i), channels, ENOUGH, source.room(i))
    except UnreadableImage:
        return np.zeros(ROWS * COLUMNS, np.uint8)
    return make_thumbnail(picture.pixels_hwC).ravel()


def _parse(name: str) -> tuple[str, str, tuple[int, ...]]:
    """Return (folders without the names of splits, the name with its numbers left out, the numbers, last one first)."""
    folder, _, file = name.replace(os.sep, "/").rpartition("/")
    stem = file.rpartition(".")[0] or file
    folders = "/".join(part for part in folder.split("/") if split_of(part) is None)
    numbers = re.findall(r"\d+", stem)
    return folders, re.sub(r"\d+", "#", stem), tuple(int(number[-MOST_DIGITS:]) for number in numbers[::-1])


def _orders(parsed: Sequence[tuple[str, str, tuple[int, ...]]], classes_N: _Numbers) -> Iterable[_Order]:
    folders_N = _number([folder for folder, _, _ in parsed])
    forms_N = _number([(folder, form) for folder, form, _ in parsed])
    yield from _order(folders_N.astype(np.float64), classes_N)
    numbers = [numbers[:MOST_NUMBERS] for _, _, numbers in parsed]
    for place in range(max(map(len, numbers))):
        values_N = np.array([float(each[place]) if place < len(each) else -1.0 for each in numbers])
        yield from _order(values_N, _number(list(zip(classes_N.tolist(), forms_N.tolist()))))
        others = [each[:place] + each[place + 1 :] for each in numbers]
        if any(others):
            yield from _order(values_N, _number(list(zip(classes_N.tolist(), forms_N.tolist(), others))))


def _number(keys: Sequence[Any]) -> _Numbers:
    """Return the number of each key, int64 [N], equal for equal ones, in the order in which they come."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _order(values_N: NDArray[np.float64], within_N: _Numbers) -> Iterable[_Order]:
    """Yield the order by a number; nothing where it is the same number for all, or too few images share a class."""
    order_N = np.lexsort((values_N, within_N))
    is_next_N = np.zeros(len(order_N), np.bool_)
    is_next_N[1:] = within_N[order_N][1:] == within_N[order_N][:-1]
    gap_N = np.diff(values_N[order_N], prepend=0)
    compared_N = is_next_N & (np.bincount(within_N) >= FEWEST_IN_CLASS)[within_N[order_N]]
    if compared_N.sum() >= max(FEWEST_PAIRS, len(order_N) // 2) and (gap_N[compared_N] > 0).any():
        yield _Order(order_N, is_next_N, compared_N, gap_N, within_N)


def _area(order: _Order, look: Look, random: np.random.Generator) -> float | None:
    """Return the area under the ROC curve of likeness between neighbours and random pairs; None if it is too small."""
    places = random.permutation(np.flatnonzero(order.is_compared_N))
    area = 0.0
    for count in PAIRS:
        chosen = places[:count]
        area = _area_of(order, chosen, look, random)
        if area < LEAST_AREA or len(chosen) == len(places):
            break
    return area if area >= LEAST_AREA + 2 * (6 * len(chosen)) ** -0.5 else None


def _area_of(order: _Order, places: _Numbers, look: Look, random: np.random.Generator) -> float:
    """Return the area for the neighbours at some places; 0 where no random pair can be drawn."""
    firsts, seconds = order.order_N[places - 1], order.order_N[places]
    by_class = np.argsort(order.within_N, kind="stable")
    ends = np.cumsum(np.bincount(order.within_N))
    starts = np.concatenate([[0], ends[:-1]])
    within = order.within_N[firsts]
    drawn = by_class[starts[within] + (random.random(len(within)) * (ends - starts)[within]).astype(np.int64)]
    wanted, at = np.unique(np.concatenate([firsts, seconds, drawn]), return_inverse=True)
    thumbnails_CP = _normalized(look(wanted))[at.reshape(3, -1)]
    alike = (thumbnails_CP[0] * thumbnails_CP[1]).sum(axis=1)
    others = np.sort((thumbnails_CP[0] * thumbnails_CP[2]).sum(axis=1)[drawn != firsts])
    if not len(others):
        return 0.0
    below = np.searchsorted(others, alike, "left") + np.searchsorted(others, alike, "right")
    return float(below.mean() / 2 / len(others))


def _normalized(thumbnails_CP: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return thumbnails without mean and of length 1, whose products are correlations; constant ones stay zero."""
    values_CP = thumbnails_CP.astype(np.float32)
    values_CP -= values_CP.mean(axis=1, keepdims=True)
    return values_CP / np.maximum(np.linalg.norm(values_CP, axis=1, keepdims=True), 1e-6)


def _series(order: _Order, classes_N: _Numbers, area: float) -> Series:
    is_next_N = order.is_next_N & (order.gap_N <= _largest_gap(order.gap_N[order.is_next_N]))
    before_N = np.full(len(order.order_N), -1, np.int64)
    places = np.flatnonzero(is_next_N)
    before_N[order.order_N[places]] = order.order_N[places - 1]
    images = np.bincount(classes_N)
    groups_N = np.empty(len(order.order_N), np.int64)
    count = 0
    for members in np.split(order.order_N, np.flatnonzero(~is_next_N)[1:]):
        of_class = images[classes_N[members[0]]]
        length = len(members) if len(members) <= LARGEST_SHARE * of_class else max(2, -(-of_class // BLOCKS))
        blocks = np.arange(len(members)) // length
        groups_N[members] = count + blocks
        count += int(blocks[-1]) + 1
    return Series(groups_N, before_N, area)


def _largest_gap(gaps: NDArray[np.float64]) -> float:
    """Return the largest difference of numbers within a series: where two kinds of gaps part, or any.

    If most neighbours have the same number, such as that of a patient, only these are of one series. Else the
    logarithms of the gaps are divided so that their variance within the two kinds is least (Otsu's method).
    """
    if (gaps == 0).mean() >= 0.5:
        return 0.0
    logs = np.sort(np.log1p(gaps))
    below = np.arange(1, len(logs))
    sums = np.cumsum(logs)
    means = sums[:-1] / below, (sums[-1] - sums[:-1]) / (len(logs) - below)
    between = below * (len(logs) - below) / len(logs) ** 2 * (means[1] - means[0]) ** 2
    between[(logs[1:] == logs[:-1]) | (below < LEAST_WITHIN * len(logs))] = 0
    best = int(np.argmax(between))
    if between[best] < LEAST_EXPLAINED * max(logs.var(), 1e-12):
        return float("inf")
    if means[1][best] - means[0][best] < np.log(LEAST_RATIO):
        return float("inf")
    return float(np.expm1(logs[best : best + 2].mean()))
