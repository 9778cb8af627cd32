"""Set how many CPU threads a matrix product uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from paddlemae.engine import private
from paddlemae.engine.safe_import import matrix_library

_last_product_threads: int | None = None  # that were set here


def current_product_threads() -> int:
    """Return how many CPU threads a matrix product uses; Paddle doesn't say, MKL does."""
    if mkl := matrix_library():
        return int(mkl.MKL_Get_Max_Threads())
    begun_with = os.environ.get("OMP_NUM_THREADS", "")  # Paddle's import sets it to 1 if it is not set
    return _last_product_threads or (int(begun_with) if begun_with.isdigit() else 1)


def wanted_product_threads() -> int:
    """Return how many CPU threads a matrix product outside of MKL is to use."""
    return _last_product_threads or current_product_threads()


def set_product_threads(count: int) -> None:
    """Let each matrix product use this many CPU threads, in all of this process's threads."""
    global _last_product_threads
    _last_product_threads = count
    private.set_num_threads(count)


@contextmanager
def product_threads(count: int) -> Iterator[None]:
    """Set the CPU threads of each matrix product inside the context, in all of this process's threads."""
    before = current_product_threads()
    set_product_threads(count)
    try:
        yield
    finally:
        set_product_threads(before)
