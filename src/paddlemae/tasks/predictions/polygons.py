"""Trace the regions of a label map exactly, as polygons along the borders of pixels, holes included.

Rows are taken from the top down, and what is kept grows with the length of the borders, not with the number of pixels.
A region is 4-connected: pixels of a class that touch at a corner only are two regions. Corners of pixels are at whole
numbers, x to the right and y down, so that the pixel in column x and row y covers (x, y) to (x + 1, y + 1).

Every border pixel gives directed edges, clockwise as seen in the image, the region on their right:
    0 along the top to the right, 1 down the right side, 2 along the bottom to the left, 3 up the left side
The edge that follows is found by looking at two pixels, one ahead in the region and one ahead outside of it.

Shapes: h rows, W columns, E edges, R rings, n corners of a ring.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

_OUTSIDE = -1  # the label around the map
# For each direction, in (row, column): the neighbour across the edge, the pixel ahead, the pixel ahead across.
_ACROSS = ((-1, 0), (0, 1), (1, 0), (0, -1))
_AHEAD = ((0, 1), (1, 0), (0, -1), (-1, 0))
_ENDS = np.array([(0, 1), (1, 1), (1, 0), (0, 0)])  # of an edge, from its pixel's upper left corner

Ring = NDArray[np.int64]  # [n, 2], (x, y) of the corners, the first one not repeated


@dataclass(frozen=True, eq=False)
class Region:
    """A connected region of a label map.

    Attributes:
        label: of its pixels.
        area: number of pixels, without those of the holes.
        rings: the outer border, clockwise as seen in the image, then the holes, counter-clockwise.
    """

    label: int
    area: int
    rings: list[Ring]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return (left, top, right, bottom)."""
        left, top = self.rings[0].min(axis=0).tolist()
        right, bottom = self.rings[0].max(axis=0).tolist()
        return left, top, right, bottom


@dataclass
class RegionTracer:
    """Collects the borders of a label map that comes row by row.

    Args:
        width: of the map.
        background: a label whose regions are not traced.
    """

    width: int
    background: int | None = None
    edges: list[NDArray[np.int64]] = field(default_factory=list)  # [3, E]: id, id of the next edge, run
    links: list[NDArray[np.int64]] = field(default_factory=list)  # [2, ...]: runs that touch, of one label
    labels: list[NDArray[np.int32]] = field(default_factory=list)  # of the runs
    runs: int = 0
    row: int = 0  # of the first row in `waiting` after its context row
    waiting: NDArray[np.int32] = field(init=False)  # the context row, and rows whose lower neighbour is unknown
    context_runs: NDArray[np.int64] = field(init=False)  # the run of each pixel of the context row

    def __post_init__(self) -> None:
        self.waiting = np.full((1, self.width + 2), _OUTSIDE, np.int32)
        self.context_runs = np.zeros(self.width, np.int64)

    def add(self, rows_hW: NDArray[np.integer]) -> None:
        """Take the next rows of the map, labels of 0 or more."""
        padded = np.pad(rows_hW.astype(np.int32), ((0, 0), (1, 1)), constant_values=_OUTSIDE)
        self._take(np.concatenate([self.waiting, padded]))

    def regions(self, min_area: int = 1) -> Iterator[Region]:
        """Yield the regions of `min_area` pixels or more, by label and, within it, from the top down."""
        self._take(np.pad(self.waiting, ((0, 1), (0, 0)), constant_values=_OUTSIDE))
        if not self.edges:
            return
        ids, following, run_of = np.concatenate(self.edges, axis=1)
        order = np.argsort(ids)
        ids, run_of = ids[order], run_of[order]
        rings, edges = _follow(np.searchsorted(ids, following[order]).tolist())
        component_of = self._components()
        corners = [self._corners(ids[edges[start:end]]) for start, end in rings]
        areas = np.array([_signed_area(ring) for ring in corners])
        runs = run_of[edges[[start for start, _ in rings]]]
        components, labels = component_of[runs], np.concatenate(self.labels)[runs]
        firsts = np.array([ids[edges[start:end]].min() for start, end in rings])
        holes: dict[int, list[int]] = {}
        for number in np.flatnonzero(areas < 0):
            holes.setdefault(int(components[number]), []).append(int(number))
        outer = np.flatnonzero(areas > 0)
        for number in outer[np.lexsort((firsts[outer], labels[outer]))]:
            own = holes.get(int(components[number]), [])
            area = int(areas[number] + areas[own].sum())
            if area >= min_area:
                yield Region(int(labels[number]), area, [corners[number], *(corners[hole] for hole in own)])

    def _components(self) -> NDArray[np.int32]:
        """Return the connected component of each run."""
        above, below = np.concatenate(self.links, axis=1) if self.links else np.zeros((2, 0), np.int64)
        graph = coo_matrix((np.ones(len(above), np.int8), (above, below)), shape=(self.runs, self.runs))
        return connected_components(graph, directed=False)[1]

    def _corners(self, ids: NDArray[np.int64]) -> Ring:
        """Return the corners of a ring of edges, given in their order."""
        pixels, directions = np.divmod(ids, 4)
        is_corner = directions != np.roll(directions, -1)
        rows, columns = np.divmod(pixels[is_corner], self.width)
        down, across = _ENDS[directions[is_corner]].T
        return np.stack([columns + across, rows + down], axis=1)

    def _take(self, block: NDArray[np.int32]) -> None:
        """Collect the borders of all rows of a block but its first and last one."""
        rows = block[1:-1, 1:-1]
        self.waiting = block[-2:]
        if not len(rows):
            return
        is_start = np.ones(rows.shape, bool)
        is_start[:, 1:] = rows[:, 1:] != rows[:, :-1]
        run_of = (np.cumsum(is_start) - 1 + self.runs).reshape(rows.shape)
        self.labels.append(rows[is_start])
        self.runs += int(is_start.sum())
        self._link(block, is_start, run_of)
        for direction in range(4):
            self._collect(block, direction, run_of)
        self.row += len(rows)
        self.context_runs = run_of[-1]

    def _link(self, block: NDArray[np.int32], is_start: NDArray[np.bool_], run_of: NDArray[np.int64]) -> None:
        """Note which runs of one label lie above each other; each pair once, where one of the two begins."""
        above = block[:-2, 1:-1]
        starts_above = np.ones(above.shape, bool)
        starts_above[:, 1:] = above[:, 1:] != above[:, :-1]
        touch = (above == block[1:-1, 1:-1]) & (is_start | starts_above)
        runs_above = np.concatenate([self.context_runs[None], run_of[:-1]])
        if touch.any():
            self.links.append(np.stack([runs_above[touch], run_of[touch]]))

    def _collect(self, block: NDArray[np.int32], direction: int, run_of: NDArray[np.int64]) -> None:
        """Note the edges of one direction, and which edge follows each of them."""
        height, width = run_of.shape
        own = block[1:-1, 1:-1]
        down, right = _ACROSS[direction]
        across = block[1 + down : 1 + down + height, 1 + right : 1 + right + width]
        is_edge = own != across
        if self.background is not None:
            is_edge &= own != self.background
        rows, columns = np.nonzero(is_edge)
        if not len(rows):
            return
        labels = own[rows, columns]
        ahead_row, ahead_column = rows + _AHEAD[direction][0], columns + _AHEAD[direction][1]
        is_straight = block[ahead_row + 1, ahead_column + 1] == labels
        outside_row, outside_column = ahead_row + down, ahead_column + right
        turns_out = is_straight & (block[outside_row + 1, outside_column + 1] == labels)
        place = (self.row + rows) * self.width + columns
        ahead = (self.row + ahead_row) * self.width + ahead_column
        outside = (self.row + outside_row) * self.width + outside_column
        following = np.where(is_straight, 4 * ahead + direction, 4 * place + (direction + 1) % 4)
        following[turns_out] = 4 * outside[turns_out] + (direction - 1) % 4
        self.edges.append(np.stack([4 * place + direction, following, run_of[rows, columns]]))


def trace_regions(labels_HW: NDArray[np.integer], background: int | None = None, min_area: int = 1) -> list[Region]:
    """Return the regions of a label map in memory, see `RegionTracer`."""
    tracer = RegionTracer(labels_HW.shape[1], background)
    tracer.add(labels_HW)
    return list(tracer.regions(min_area))


def run_lengths(region: Region, height: int, width: int) -> list[int]:
    """Return a region of a map of this size as COCO's uncompressed run lengths.

    They count pixels down one column after the other, in turn outside and inside of the region.
    """
    starts, ends = [], []
    for ring in region.rings:
        following = np.roll(ring, -1, axis=0)
        for (x, y), (next_x, _) in zip(ring.tolist(), following.tolist()):
            if next_x > x:
                starts.append(np.arange(x, next_x) * height + y)
            elif next_x < x:
                ends.append(np.arange(next_x, x) * height + y)
    borders = np.stack([np.sort(np.concatenate(starts)), np.sort(np.concatenate(ends))], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], borders, [height * width]]))
    return _without_empty(counts.tolist())


def _without_empty(counts: list[int]) -> list[int]:
    """Join runs that an empty one separates, and leave out an empty one at the end."""
    joined = counts[:1]
    for count in counts[1:]:
        if len(joined) > 1 and joined[-1] == 0:
            joined.pop()
            joined[-1] += count
        else:
            joined.append(count)
    return joined[:-1] if len(joined) > 1 and joined[-1] == 0 else joined


def _follow(following: list[int]) -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
    """Return (start and end of each ring in the order of edges, that order)."""
    order: list[int] = []
    seen = bytearray(len(following))
    rings = []
    for first in range(len(following)):
        if seen[first]:
            continue
        start, edge = len(order), first
        while not seen[edge]:
            seen[edge] = 1
            order.append(edge)
            edge = following[edge]
        rings.append((start, len(order)))
    return rings, np.array(order, np.int64)


def _signed_area(ring: Ring) -> int:
    """Return the area of a ring, negative for one that runs counter-clockwise as seen in the image."""
    x, y = ring.T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() // 2)
