"""Find images that are the same: exactly, by a digest of what is stored; nearly, by their thumbnails.

Two images are near duplicates if the values of their thumbnails correlate by `LEAST_CORRELATION` or more, so brightness
and contrast don't matter, and at most `MOST_BITS` of the 64 bits of a hash differ: whether each mean of 2 x 2 values is
above its left neighbour's (a "difference hash"). Candidates are pairs whose hashes have two of eight bands of 8 bits in
common, found by sorting 28 times. All pairs that differ in 6 bits are among them, and nine of ten that differ in 8.

Shapes: N images, P values of a thumbnail.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.inspect.disjoint_sets import DisjointSets
from paddlemae.data.inspect.survey import COLUMNS, ROWS

LEAST_CORRELATION = 0.97
MOST_BITS = 12  # of 64
FLAT_LEVELS = 2.0  # of 255: a smaller standard deviation is noise; flat images are alike if their means are so close
# Where more images have two bands in common, each is compared with at most this many next ones in the hash's order.
MOST_COMPARED = 256

_BANDS = tuple(range(first, first + 8) for first in range(0, 64, 8))
_BLOCK = 1 << 14  # pairs whose thumbnails are compared at a time
_SET_BITS = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)

Firsts = NDArray[np.int64]  # [N]: of each image the first image of its group, itself if it is alone


def hash_thumbnails(thumbnails_NP: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the hash of each thumbnail, uint64 [N], its first difference in the highest bit."""
    sums = thumbnails_NP.reshape(-1, ROWS // 2, 2, COLUMNS // 2, 2).sum(axis=(2, 4), dtype=np.uint16)
    bits = (sums[..., 1:] > sums[..., :-1]).reshape(len(sums), 64)
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).ravel()


def find_exact_groups(digests_N2: NDArray[np.uint64], among_N: NDArray[np.bool_]) -> Firsts:
    """Group images of equal digests; images that are not in `among_N` are alone."""
    firsts = np.arange(len(digests_N2))
    chosen = np.flatnonzero(among_N)
    firsts[chosen] = chosen[_equal_rows(digests_N2[chosen])]
    return firsts


def find_near_groups(
    thumbnails_NP: NDArray[np.uint8], exact: Firsts, among_N: NDArray[np.bool_], on_step: Callable[[int], None]
) -> Firsts:
    """Group images that are linked by near duplicates, exact ones included.

    Args:
        exact: as `find_exact_groups` gives them.
        among_N: the others are alone.
        on_step: called with the number of steps done, of `NEAR_STEPS`.
    """
    firsts = exact.copy()
    chosen = np.flatnonzero(among_N & (exact == np.arange(len(exact))))
    hashes = hash_thumbnails(thumbnails_NP)[chosen]
    # else a million black images would be compared each with each
    same = _equal_rows(np.stack([hashes, _sums(thumbnails_NP)[chosen]], axis=1))
    firsts[chosen] = chosen[same]
    alone = same == np.arange(len(same))
    chosen, hashes = chosen[alone], hashes[alone]
    groups = DisjointSets(len(chosen))
    for step, mask in enumerate(_masks(), start=1):
        for a, b in _candidate_pairs(hashes, mask):
            close = _count_bits(hashes[a] ^ hashes[b]) <= MOST_BITS
            a, b = a[close], b[close]
            apart = groups.roots(a) != groups.roots(b)
            a, b = a[apart], b[apart]
            for start in range(0, len(a), _BLOCK):
                some_a, some_b = a[start : start + _BLOCK], b[start : start + _BLOCK]
                alike = are_similar(thumbnails_NP[chosen[some_a]], thumbnails_NP[chosen[some_b]])
                groups.join(some_a[alike], some_b[alike])
        on_step(step)
    firsts[chosen] = chosen[groups.roots(np.arange(len(chosen)))]
    return firsts[firsts[exact]]  # an exact duplicate's first may have found another; a thumbnail's twin as well


def iterate_groups(firsts: Firsts) -> Iterator[NDArray[np.int64]]:
    """Yield the images of each group of two or more, ascending, in the order of their first images."""
    sizes = np.bincount(firsts, minlength=len(firsts))
    grouped = np.flatnonzero(sizes[firsts] > 1)
    if grouped.size:
        ordered = grouped[np.argsort(firsts[grouped], kind="stable")]
        yield from np.split(ordered, np.flatnonzero(np.diff(firsts[ordered])) + 1)


def _equal_rows(rows: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each row the index of the first row that equals it."""
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


def _candidate_pairs(
    hashes: NDArray[np.uint64], mask: np.uint64
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of images whose hashes agree under the mask."""
    order = np.lexsort((hashes, hashes & mask))
    keys = hashes[order] & mask
    places = np.arange(len(keys))
    for apart in range(1, MOST_COMPARED + 1):
        places = places[places + apart < len(keys)]
        places = places[keys[places + apart] == keys[places]]
        if not places.size:
            return
        yield order[places], order[places + apart]


def _count_bits(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return how many bits of each value are set."""
    return _SET_BITS[values.view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.int64)


def _sums(thumbnails_NP: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a checksum of each thumbnail, uint64 [N], which different thumbnails share by chance only."""
    words = thumbnails_NP.view(np.uint64)
    return words @ np.random.default_rng(0).integers(0, 1 << 64, words.shape[1], np.uint64)  # modulo 2**64


def are_similar(a_NP: NDArray[np.uint8], b_NP: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return for each pair of thumbnails whether they correlate as near duplicates do."""
    a, b = (each.astype(np.float32) for each in (a_NP, b_NP))
    means = a.mean(axis=1, keepdims=True), b.mean(axis=1, keepdims=True)
    a, b = a - means[0], b - means[1]
    spread_a, spread_b = (np.sqrt(np.square(each).mean(axis=1)) for each in (a, b))
    flat = (spread_a < FLAT_LEVELS) & (spread_b < FLAT_LEVELS)
    correlated = (a * b).mean(axis=1) >= LEAST_CORRELATION * spread_a * spread_b
    return np.where(flat, np.abs(means[0] - means[1])[:, 0] <= FLAT_LEVELS, correlated)
