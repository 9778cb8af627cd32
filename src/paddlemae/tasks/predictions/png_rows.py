"""Write a PNG row by row, so that it may be larger than the memory."""

from __future__ import annotations

import struct
import zlib
from typing import IO

import numpy as np
from numpy.typing import NDArray

_START = b"\x89PNG\r\n\x1a\n"
_GRAY, _PALETTE = 0, 3  # colour types
_LARGEST = 2**31 - 1  # side in pixels
_LEVEL = 6  # of compression


class PngRows:
    """A PNG of one channel that is being written.

    Args:
        file: open for writing, at its start.
        size: (height, width).
        palette: uint8 [n, 3], n <= 256, colours of the values, which are uint8; None writes 16-bit gray.
    Raises:
        ValueError: a size that no PNG can have.
    """

    def __init__(self, file: IO[bytes], size: tuple[int, int], palette: NDArray[np.uint8] | None):
        height, width = size
        if not (0 < height <= _LARGEST and 0 < width <= _LARGEST):
            raise ValueError(f"a PNG has 1 to {_LARGEST} pixels a side; got {height} x {width}")
        self.file, self.size, self.dtype = file, size, ">u2" if palette is None else "u1"
        self.rows_left = height
        self.compressor = zlib.compressobj(_LEVEL)
        file.write(_START)
        form = (16, _GRAY) if palette is None else (8, _PALETTE)
        self._write(b"IHDR", struct.pack(">IIBBBBB", width, height, *form, 0, 0, 0))
        if palette is not None:
            self._write(b"PLTE", palette.astype(np.uint8).tobytes())

    def add(self, rows_hW: NDArray[np.integer]) -> None:
        """Write the next rows."""
        assert rows_hW.shape[1] == self.size[1] and len(rows_hW) <= self.rows_left
        self.rows_left -= len(rows_hW)
        values = np.ascontiguousarray(rows_hW.astype(self.dtype)).view(np.uint8).reshape(len(rows_hW), -1)
        plain = np.pad(values, ((0, 0), (1, 0)))  # each row begins with its filter: none
        self._write_data(self.compressor.compress(plain.tobytes()))

    def finish(self) -> None:
        """Write the end; the file stays open."""
        assert self.rows_left == 0
        self._write_data(self.compressor.flush())
        self._write(b"IEND", b"")

    def _write_data(self, content: bytes) -> None:
        if content:
            self._write(b"IDAT", content)

    def _write(self, kind: bytes, content: bytes) -> None:
        self.file.write(struct.pack(">I", len(content)) + kind + content)
        self.file.write(struct.pack(">I", zlib.crc32(kind + content)))
