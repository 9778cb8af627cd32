"""Draw polygons and COCO's run lengths as masks.

A pixel belongs to a polygon if its centre lies inside, by the even-odd rule. Shapes: H height, W width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FARTHEST = 1e7  # pixels of a corner from the image's


def fill_polygon(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels lie inside a polygon, bool [H, W].

    Args:
        points: [corners, 2], x to the right and y down, in pixels from the image's top left corner.
        size: (H, W).
    Raises:
        ValueError: values that are no numbers, or far outside of any image.
    """
    if not (np.abs(points) < _FARTHEST).all():  # not a number too
        raise ValueError(f"a polygon with a corner at {points[np.abs(points).max(axis=1).argmax()].tolist()}")
    inside = np.zeros(size, np.bool_)
    tops_lefts, ends = np.floor(points.min(axis=0)).astype(int), np.ceil(points.max(axis=0)).astype(int)
    left, top = np.maximum(tops_lefts, 0).tolist()
    right, bottom = np.minimum(ends, size[::-1]).tolist()
    if left < right and top < bottom:
        box = (bottom - top, right - left)
        inside[top:bottom, left:right] = _fill_box(points - (left, top), box)
    return inside


def _fill_box(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Count, to the left of each pixel's centre, the edges that its row crosses."""
    height, width = size
    x, y = points[:, 0], points[:, 1]
    crossings = np.zeros((height, width + 1), np.int32)
    for x0, y0, x1, y1 in zip(x, y, np.roll(x, -1), np.roll(y, -1)):
        low, high = (y0, y1) if y0 < y1 else (y1, y0)
        first, last = max(0, int(np.ceil(low - 0.5))), min(height, int(np.ceil(high - 0.5)))
        if first >= last:
            continue
        rows = np.arange(first, last)
        places = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        np.add.at(crossings, (rows, np.clip(np.ceil(places - 0.5), 0, width).astype(np.int64)), 1)
    return np.cumsum(crossings[:, :width], axis=1) % 2 == 1


def polygon_area(polygon: Sequence[float]) -> float:
    """Return the area of a polygon x, y, x, y ..., square pixels."""
    x, y = np.array(polygon, np.float64).reshape(-1, 2).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def fill_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels lie inside one of several polygons, each x, y, x, y ..., bool [H, W].

    Raises:
        ValueError: an odd number of values, fewer than three corners, or values that are no numbers.
    """
    inside = np.zeros(size, np.bool_)
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon of {len(polygon)} numbers; expected x, y of three corners or more")
        inside |= fill_polygon(np.array(polygon, np.float64).reshape(-1, 2), size)
    return inside


def decode_runs(runs: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of COCO's run lengths, bool [H, W].

    Args:
        runs: {"size": [H, W], "counts": C}: C is a list of lengths, of zeros first, down the columns from left to
            right; or the same as text, COCO's compressed form.
        size: (H, W) that the mask must have.
    Raises:
        ValueError: another size, or lengths that do not fill it.
    """
    if list(runs.get("size", ())) != list(size):
        raise ValueError(f"run lengths of size {runs.get('size')}, and the image is {size[0]} x {size[1]} (H x W)")
    lengths, total = run_lengths(runs), size[0] * size[1]
    if (lengths < 0).any() or lengths.sum() != total:
        raise ValueError(f"run lengths that are {lengths.sum():,} pixels in all, and the image has {total:,}")
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return values.reshape(size[1], size[0]).T


def run_lengths(runs: Any) -> NDArray[np.int64]:
    """Return the lengths of COCO's runs, of zeros first: int64 [runs]; anything else is a ValueError."""
    counts = runs.get("counts")
    lengths = np.array(_decompress(counts) if isinstance(counts, str | bytes) else counts)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or not len(lengths):
        raise ValueError("run lengths that are no whole numbers")
    return lengths.astype(np.int64)


def _decompress(text: str | bytes) -> list[int]:
    """Return the lengths of COCO's compressed form.

    Each number is in groups of 5 bits, lowest first, a character each, 48 added; bit 6 says that more follow, and the
    highest of the 5 bits in the last is the sign. From the third number on, they are differences to the one two before.
    """
    codes = text.encode("ascii") if isinstance(text, str) else text
    lengths: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64:
            raise ValueError("run lengths with a character that COCO's compressed form does not have")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("run lengths that are cut short")
    return lengths
