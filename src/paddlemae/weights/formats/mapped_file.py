"""Map files into memory: read on first use, released after use."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def map_file(path: Path) -> memoryview:
    """Map a whole, non-empty file read-only; it stays mapped as long as a view of it lives."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def view_array(
    data: memoryview, dtype: np.dtype, shape: Sequence[int], start: int, strides: Sequence[int] | None = None
) -> np.ndarray:
    """Return a read-only array that is a view of the file; an empty one lies in memory of its own."""
    if 0 not in shape:
        return np.ndarray(shape, dtype, data, start, strides)
    array = np.zeros(shape, dtype)
    array.flags.writeable = False
    return array


def release(used: np.ndarray | memoryview) -> None:
    """Release the memory that reading a view of a mapped file took; the next access reads it again.

    Does nothing for other arrays. Without it, a file of which every tensor is copied into a
    model takes its size in memory twice.
    """
    array = np.frombuffer(used, np.uint8) if isinstance(used, memoryview) else used
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    file = owner.obj if isinstance(owner, memoryview) else owner
    if sys.platform == "win32" or not isinstance(file, mmap.mmap) or not array.size:
        return
    reach = [(count - 1) * step for count, step in zip(array.shape, array.strides)]
    first = _address(array) + sum(step for step in reach if step < 0) - _address(np.frombuffer(file, np.uint8))
    last = first + sum(map(abs, reach)) + array.itemsize
    page = first - first % mmap.PAGESIZE
    file.madvise(mmap.MADV_DONTNEED, page, last - page)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
