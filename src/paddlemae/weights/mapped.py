"""A file as memory that is read where it is touched."""

from __future__ import annotations

import mmap
from pathlib import Path


def map_file(path: Path) -> memoryview:
    """The whole file, read-only; it must not be empty. It stays mapped as long as a view of it lives."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
