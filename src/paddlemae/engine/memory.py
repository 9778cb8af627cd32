"""The C library's allocator: which buffers it keeps and which it gives back. Knows no Paddle."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

# glibc's mallopt parameters (malloc.h) and values that keep a step's buffers instead of giving them back, in one place
# for all threads: with an arena each, what one thread frees is of no use to the others (5.3 against 4.5 GB, ViT-Base)
ARENAS = -8
MALLOC_SETTINGS = {
    -1: 1 << 30,  # trim threshold
    -2: 64 << 20,  # top pad
    -3: 16 << 20,  # mmap threshold: holes of larger buffers would stay unused (3.45 against 3.65 GB, ViT-Base)
    ARENAS: 1,
}
# what glibc itself takes once a program has given back blocks of 32 MB; what it began with can't be had again
HOST_MALLOC_SETTINGS = {-1: 64 << 20, -2: 128 << 10, -3: 32 << 20}
# giving back smaller buffers would cost too many page faults (2 MB: 2.5 times the time of 8 MB)
FRUGAL_MALLOC_SETTINGS = {-2: 1 << 20, -3: 3 << 20}

_shares_process = False  # with a program that called the library: the number of arenas can't be put back


def keep_freed_memory() -> None:
    """Stop glibc from returning every step's buffers to the system: page faults, not arithmetic, cost then.

    Without effect on other C libraries. The number of arenas can't be put back, so only commands choose it.
    """
    _set_malloc({name: value for name, value in MALLOC_SETTINGS.items() if name != ARENAS or not _shares_process})


@contextmanager
def little_memory(wanted: bool) -> Iterator[None]:
    """Inside, where memory is what matters, large buffers are given back when they are freed."""
    if wanted:
        _set_malloc(FRUGAL_MALLOC_SETTINGS)
    try:
        yield
    finally:
        if wanted:
            keep_freed_memory()


def share_process(is_shared: bool) -> None:
    """Say whether this process is another program's, whose arenas stay as they are; when no longer, thresholds go back.

    glibc can't be asked for its thresholds: they become the largest ones that it takes by itself.
    """
    global _shares_process
    _shares_process = is_shared
    if not is_shared:
        _set_malloc(HOST_MALLOC_SETTINGS)


def _set_malloc(settings: dict[int, int]) -> None:
    if libc := _glibc():
        for parameter, value in settings.items():
            libc.mallopt(parameter, value)


def give_back_memory() -> None:
    """Return what is free now, such as the remains of building a model, which a step's buffers would lie beside."""
    if libc := _glibc():
        libc.malloc_trim(0)


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None
