"""Read arrays of our NumPy archives; each one's size, type and checksum are checked before it takes memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

LARGEST_RATIO = 1032  # of what deflate unpacks to what it packs
MAX_ROW_BYTES = 2**20  # of a text
BLOCK_BYTES = 2**22
FAULTS: tuple[type[Exception], ...] = (
    ValueError,
    KeyError,
    TypeError,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
)
FAULTS += (zipfile.BadZipFile, zlib.error, SyntaxError, MemoryError)


@contextmanager
def damage_in(path: Path, advice: str) -> Iterator[None]:
    """Make whatever reading a damaged file raises a ValueError of one line that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except FAULTS as fault:
        reason = " ".join(str(fault).split())[:100]
        raise ValueError(f"{path} is damaged, or {advice} ({reason})") from fault


def read_arrays(path: Path, kinds: dict[str, str], optional: Collection[str] = ()) -> dict[str, Any]:
    """Return arrays of an archive: numbers as arrays, text as a list of strings.

    Args:
        kinds: name -> the types that it may have, as letters of NumPy's kinds: "f", "iu", "U" ...
        optional: those that may be missing.
    Raises:
        ValueError, OSError, zipfile.BadZipFile ...: damage of any sort, one of `FAULTS`.
    """
    with zipfile.ZipFile(path) as archive:
        held = {info.filename: info for info in archive.infolist()}
        names = [name for name in kinds if name not in optional or f"{name}.npy" in held]
        return {name: _read(archive, held[f"{name}.npy"], kinds[name]) for name in names}


def names_of(path: Path) -> list[str]:
    """Return the names of an archive's arrays. Errors as `read_arrays`."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def check_entry(path: Path, name: str) -> None:
    """Raise a ValueError or `zipfile.BadZipFile` unless an entry's bytes have their checksum; takes no memory."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        while file.read(BLOCK_BYTES):
            pass


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, kinds: str) -> Any:
    if info.file_size > LARGEST_RATIO * max(info.compress_size, 1):
        raise ValueError(f"{info.filename} claims more bytes than it can hold")
    with archive.open(info) as file:
        shape, fortran, dtype = _header(file)
        if dtype.kind not in kinds or fortran or dtype.hasobject:
            raise ValueError(f"{info.filename} is of type {dtype}")
        count = 1
        for side in shape:
            count *= side
        size = count * dtype.itemsize
        if size > info.file_size:
            raise ValueError(f"{info.filename} claims {size:,} bytes and has {info.file_size:,}")
        if dtype.kind == "U":
            texts = list(_texts(file, count, dtype))
            return texts if shape else texts[0]
        raw = file.read(size)
        if len(raw) != size or file.read(1):
            raise ValueError(f"{info.filename} has another length than it claims")
    return np.ndarray(shape, dtype, raw)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
    return read(file)


def _texts(file: IO[bytes], count: int, dtype: np.dtype) -> Iterator[str]:
    """Yield the texts of an entry, a block of rows at a time: padded, all may take a thousand times the memory."""
    if not 0 < dtype.itemsize <= MAX_ROW_BYTES:
        if dtype.itemsize or count > 1:
            raise ValueError(f"texts of {dtype.itemsize:,} bytes")
        yield ""
        return
    rows = max(1, BLOCK_BYTES // dtype.itemsize)
    for start in range(0, count, rows):
        size = min(rows, count - start) * dtype.itemsize
        raw = file.read(size)
        if len(raw) != size:
            raise ValueError("its texts are cut short")
        yield from np.frombuffer(raw, dtype).tolist()
    if file.read(1):
        raise ValueError("more texts than it claims")
