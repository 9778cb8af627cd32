"""Assign images to the parts of a split (train, test, val) so that images which belong together stay together.

A unit is what may not be divided: images that are linked by duplicates and by groups such as patients. Units are
assigned whole, the largest first, each to the part that lacks its classes most.

Shapes: N images, U units, S parts, K classes, E pairs of an image and one of its classes.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.inspect.disjoint_sets import DisjointSets

_Numbers = NDArray[np.int64]


def group_firsts(groups_N: _Numbers) -> _Numbers:
    """Return for each image the first one of its group, int64 [N]."""
    _, firsts, inverse = np.unique(groups_N, return_index=True, return_inverse=True)
    return firsts[inverse].astype(np.int64)


def join_units(links: Sequence[_Numbers]) -> _Numbers:
    """Return the unit of each image, int64 [N], numbered 0 .. U-1 in the order of their first images.

    Args:
        links: kinds of links; each is int64 [N], the first image that an image belongs together with.
    """
    everything = np.arange(len(links[0]))
    sets = DisjointSets(len(everything))
    for firsts_N in links:
        members = np.flatnonzero(firsts_N != everything)
        sets.join(members, firsts_N[members])
    _, units_N = np.unique(sets.roots(everything), return_inverse=True)
    return units_N.astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Units:
    """Units with the classes of their images.

    Args:
        sizes_U: images in each.
        classes, counts: of each unit the classes that it has images of, and how many.
        num_classes: K.
    """

    sizes_U: _Numbers
    classes: list[_Numbers]
    counts: list[_Numbers]
    num_classes: int

    @classmethod
    def of(cls, units_N: _Numbers, images_E: _Numbers, classes_E: _Numbers, num_classes: int) -> "_Units":
        sizes_U = np.bincount(units_N)
        pairs, counts = np.unique(units_N[images_E] * max(1, num_classes) + classes_E, return_counts=True)
        unit, class_ = np.divmod(pairs, max(1, num_classes))
        borders = np.searchsorted(unit, np.arange(1, len(sizes_U)))
        return cls(sizes_U, np.split(class_, borders), np.split(counts, borders), num_classes)

    def units_by_class(self) -> dict[int, list[int]]:
        """Return class -> its units, in their order."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for unit, classes in enumerate(self.classes):
            for number in classes.tolist():
                found[number].append(unit)
        return found


class _Parts:
    """Parts while they are filled; `part_of_U` is -1 for a unit that is not assigned."""

    def __init__(self, units: _Units, shares_S: NDArray[np.float64]) -> None:
        totals_K = np.zeros(units.num_classes)
        for classes, counts in zip(units.classes, units.counts):
            totals_K[classes] += counts
        self.units = units
        self.part_of_U = np.full(len(units.sizes_U), -1)
        self.target_SK = np.outer(shares_S, np.maximum(totals_K, 1))
        self.target_S = shares_S * units.sizes_U.sum()
        self.lack_SK, self.lack_S = self.target_SK.copy(), self.target_S.copy()  # images that a part is still to get
        self.has_SK = np.zeros(self.lack_SK.shape, np.bool_)

    def assign(self, unit: int, part: int) -> None:
        classes, counts = self.units.classes[unit], self.units.counts[unit]
        self.part_of_U[unit] = part
        self.lack_SK[part, classes] -= counts
        self.lack_S[part] -= self.units.sizes_U[unit]
        self.has_SK[part, classes] = True

    def neediest(self, unit: int) -> int:
        """Return the part for a unit: that which leaves the least sum of (images - target)^2 / target.

        The sum is over parts, and over classes and all images. So a part gets its share of large units too.
        """
        classes, counts, size = self.units.classes[unit], self.units.counts[unit], self.units.sizes_U[unit]
        gain_SK = (2 * self.lack_SK[:, classes] - counts) * counts / self.target_SK[:, classes]
        return int(np.argmax(gain_SK.sum(axis=1) + (2 * self.lack_S - size) * size / self.target_S))


def assign_units(
    units_N: _Numbers,
    images_E: _Numbers,
    classes_E: _Numbers,
    num_classes: int,
    shares: Sequence[float],
    rng: np.random.Generator,
) -> _Numbers:
    """Return the part of each image, int64 [N], so that each class's shares come close to those requested.

    A class gets at least one image in each part if it has as many separate units; if it has fewer, the parts of larger
    shares come first.

    Args:
        units_N: as `join_units` returns them.
        images_E, classes_E: the classes of images: one pair an image, none for an image without a class.
        shares: of each part, above 0; they sum to 1.
    """
    units = _Units.of(units_N, images_E, classes_E, num_classes)
    parts = _Parts(units, np.array(shares))
    shuffled = rng.permutation(len(units.sizes_U))
    order = shuffled[np.argsort(-units.sizes_U[shuffled], kind="stable")]
    rank_U = np.argsort(order)
    by_share = sorted(range(len(shares)), key=lambda part: -shares[part])
    by_class = units.units_by_class()
    for number in sorted(by_class, key=lambda number: (len(by_class[number]), number)):
        _seed_class(parts, number, sorted(by_class[number], key=rank_U.__getitem__), by_share)
    for unit in order[parts.part_of_U[order] < 0].tolist():
        parts.assign(unit, parts.neediest(unit))
    return parts.part_of_U[units_N]


def _seed_class(parts: _Parts, number: int, units: list[int], by_share: list[int]) -> None:
    """Give each part a unit of a class: the part of the largest share the largest, the others the smallest ones.

    Args:
        units: of the class, the largest first.
        by_share: parts, that of the largest share first.
    """
    for place, part in enumerate(by_share[: len(units)]):
        if parts.has_SK[part, number]:
            continue
        free = [unit for unit in units if parts.part_of_U[unit] < 0]
        if free:
            parts.assign(free[0] if place == 0 else free[-1], part)
