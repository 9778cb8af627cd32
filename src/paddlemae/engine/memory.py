"""Set the C library's allocator: which freed buffers it keeps and which it returns. Knows no Paddle."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

# glibc's mallopt parameters (malloc.h), with values that keep a step's buffers, in one arena for all threads: with an
# arena per thread, what one thread frees is of no use to the others (5.3 against 4.5 GB, ViT-Base)
ARENAS = -8
MALLOC_SETTINGS = {
    -1: 1 << 30,  # trim threshold
    -2: 64 << 20,  # top pad
    -3: 16 << 20,  # mmap threshold: holes of larger buffers would stay unused (3.45 against 3.65 GB, ViT-Base)
    ARENAS: 1,
}
# the thresholds that glibc sets itself once a program has freed blocks of 32 MB; its first ones can't be restored
HOST_MALLOC_SETTINGS = {-1: 64 << 20, -2: 128 << 10, -3: 32 << 20}
# returning smaller buffers too would cost many page faults (2 MB take 2.5 times as long as 8 MB)
FRUGAL_MALLOC_SETTINGS = {-2: 1 << 20, -3: 3 << 20}

_shares_process = False  # with a program that uses the library: the number of arenas can't be restored


def keep_freed_memory() -> None:
    """Stop glibc from returning every step's buffers to the system: the page faults would cost more than arithmetic.

    Other C libraries are left alone. The number of arenas can't be restored, so only commands set it.
    """
    _set_malloc({name: value for name, value in MALLOC_SETTINGS.items() if name != ARENAS or not _shares_process})


@contextmanager
def little_memory(wanted: bool) -> Iterator[None]:
    """Return large buffers to the system as soon as they are freed, within this context."""
    if wanted:
        _set_malloc(FRUGAL_MALLOC_SETTINGS)
    try:
        yield
    finally:
        if wanted:
            keep_freed_memory()


def share_process(is_shared: bool) -> None:
    """Set whether this process is another program's: then arenas stay as they are, and thresholds are restored at last.

    glibc does not report its thresholds, so they are set to the largest ones that it chooses itself.
    """
    global _shares_process
    _shares_process = is_shared
    if not is_shared:
        _set_malloc(HOST_MALLOC_SETTINGS)


def _set_malloc(settings: dict[int, int]) -> None:
    if libc := _glibc():
        for parameter, value in settings.items():
            libc.mallopt(parameter, value)


def release_free_memory() -> None:
    """Return memory that is free now, such as what building a model left, before a step allocates its buffers."""
    if libc := _glibc():
        libc.malloc_trim(0)


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None
