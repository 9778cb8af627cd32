"""Which images are the same: exactly, by a digest of what is stored; nearly, by a hash of what is seen.

The hash has 64 bits: whether each gray value of an 8 x 9 thumbnail is above its left neighbour (a "difference hash").
Two images are near duplicates if at most `MOST_BITS` of them differ and the thumbnails' values by at most `MOST_LEVELS`
of 255 on average. Pairs are found by sorting: of five bands of bits, two that differ in three bits have at least two in
common, whichever they are (Manku, Jain, Sarma 2007, "Detecting near-duplicates for web crawling").

Shapes: N images, P values of a thumbnail.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.looks import COLUMNS, ROWS

MOST_BITS = 3  # of 64
MOST_LEVELS = 4.0  # of 255
# Where more images have two bands in common, each is compared with so many that come next in the hash's order only.
MOST_COMPARED = 256

_BANDS = (range(0, 13), range(13, 26), range(26, 39), range(39, 52), range(52, 64))
_BLOCK = 1 << 16  # pairs whose thumbnails are compared at a time

Firsts = NDArray[np.int64]  # [N]: of each image the first image of its group, itself if it is alone


def hashes_of(thumbnails_NP: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """[N]: of each thumbnail the hash, its first difference in the highest bit."""
    values = thumbnails_NP.reshape(-1, ROWS, COLUMNS)
    bits = (values[..., 1:] > values[..., :-1]).reshape(-1, ROWS * (COLUMNS - 1))
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).ravel()


def exact_groups(digests_N2: NDArray[np.uint64], among_N: NDArray[np.bool_]) -> Firsts:
    """Groups of images with one digest.

    Args:
        among_N: the others are alone.
    """
    firsts = np.arange(len(digests_N2))
    chosen = np.flatnonzero(among_N)
    firsts[chosen] = chosen[_equal_rows(digests_N2[chosen])]
    return firsts


def near_groups(
    thumbnails_NP: NDArray[np.uint8], exact: Firsts, among_N: NDArray[np.bool_], on_step: Callable[[int], None]
) -> Firsts:
    """Groups of images that are linked by near duplicates, exact ones included.

    Args:
        exact: as `exact_groups` gives them.
        among_N: the others are alone.
        on_step: called with the number of steps done, of `NEAR_STEPS`.
    """
    firsts = exact.copy()
    chosen = np.flatnonzero(among_N & (exact == np.arange(len(exact))))
    words = np.ascontiguousarray(thumbnails_NP[chosen]).view(np.uint64)
    same = _equal_rows(words)  # a million black images would be compared each with each
    firsts[chosen] = chosen[same]
    chosen = chosen[same == np.arange(len(same))]
    thumbnails = thumbnails_NP[chosen]
    hashes = hashes_of(thumbnails)
    groups = _Groups(len(chosen))
    for step, mask in enumerate(_masks(), start=1):
        for a, b in _candidates(hashes, mask):
            apart = groups.roots(a) != groups.roots(b)
            a, b = a[apart], b[apart]
            near = _bits_of(hashes[a] ^ hashes[b]) <= MOST_BITS
            a, b = a[near], b[near]
            for start in range(0, len(a), _BLOCK):
                pair = a[start : start + _BLOCK], b[start : start + _BLOCK]
                groups.join(*(each[_look_alike(thumbnails, *pair)] for each in pair))
        on_step(step)
    firsts[chosen] = chosen[groups.roots(np.arange(len(chosen)))]
    return firsts[firsts[exact]]  # an exact duplicate's first may have found another; a thumbnail's twin as well


def members(firsts: Firsts) -> Iterator[NDArray[np.int64]]:
    """The images of each group of two or more, ascending, in the order of their first images."""
    sizes = np.bincount(firsts, minlength=len(firsts))
    grouped = np.flatnonzero(sizes[firsts] > 1)
    if grouped.size:
        ordered = grouped[np.argsort(firsts[grouped], kind="stable")]
        yield from np.split(ordered, np.flatnonzero(np.diff(firsts[ordered])) + 1)


def _equal_rows(rows: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Of each row the first that equals it."""
    order = np.lexsort(rows.T)  # stable: of equal rows the first comes first
    ordered = rows[order]
    begins = np.ones(len(rows), np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    firsts = np.empty(len(rows), np.int64)
    firsts[order] = order[np.flatnonzero(begins)[np.cumsum(begins) - 1]]
    return firsts


def _masks() -> list[np.uint64]:
    return [np.uint64(sum(1 << bit for band in two for bit in band)) for two in itertools.combinations(_BANDS, 2)]


NEAR_STEPS = len(_masks())


def _candidates(hashes: NDArray[np.uint64], mask: np.uint64) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs whose hashes agree under the mask."""
    order = np.lexsort((hashes, hashes & mask))
    keys = hashes[order] & mask
    places = np.arange(len(keys))
    for apart in range(1, MOST_COMPARED + 1):
        places = places[places + apart < len(keys)]
        places = places[keys[places + apart] == keys[places]]
        if not places.size:
            return
        yield order[places], order[places + apart]


def _bits_of(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many bits are set."""
    return np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1, dtype=np.int64)


def _look_alike(thumbnails_NP: NDArray[np.uint8], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
    apart = np.abs(thumbnails_NP[a].astype(np.int16) - thumbnails_NP[b])
    return apart.mean(axis=1) <= MOST_LEVELS


class _Groups:
    """Sets that are joined until they stay: each member leads to an earlier one of its set, the first to itself."""

    def __init__(self, count: int) -> None:
        self.towards = np.arange(count)

    def roots(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first member of the set of each."""
        roots = self.towards[members]
        while not np.array_equal(roots, further := self.towards[roots]):
            roots = further
        self.towards[members] = roots
        return roots

    def join(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """Make one set of those of a and of b, pair by pair."""
        for one, other in zip(a.tolist(), b.tolist()):
            one, other = self._root(one), self._root(other)
            self.towards[max(one, other)] = min(one, other)

    def _root(self, member: int) -> int:
        while (next_one := int(self.towards[member])) != member:
            self.towards[member] = member = int(self.towards[next_one])
        return member
