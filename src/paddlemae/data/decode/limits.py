"""Limit the memory that reading images may take, before it is taken.

What a file, archive entry, row group or header states is compared with the bytes that are at hand: reading may take
`max_image_bytes` and twice as many bytes as are stored. So a few kilobytes that claim to be gigabytes are refused, and
a file that is large itself is read.
"""

import math
import re
from typing import Protocol

from PIL import Image

MAX_IMAGE_BYTES = 500_000_000
LIMIT_OPTION = "max_image_bytes"  # of a source: PATH::max_image_bytes=2GB
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_BYTES = re.compile(r"(\d+) *([KMG]B|)", re.IGNORECASE)


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def room_for(stored: int, max_image_bytes: int) -> int:
    """Return the bytes of memory that reading `stored` bytes may take."""
    return max_image_bytes + 2 * stored


def check_room(needed: int, room: int) -> None:
    """Raise a ValueError that says how to allow more, if `needed` bytes are more than `room`."""
    if needed > room:
        raise ValueError(
            f"reading it takes {_megabytes(needed)} of memory, and {_megabytes(room)} are allowed; cut it into tiles, "
            f"or allow more with PATH::{LIMIT_OPTION}=2GB"
        )


def check_size(shape: tuple[int, ...]) -> None:
    """Raise a ValueError for more values than Pillow allows an RGBA image."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit and math.prod(shape) > 4 * limit:
        raise ValueError(f"more than {4 * limit} values; cut it into tiles")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def parse_bytes(text: str) -> int:
    """Return the number of bytes that "2GB", "500 MB" or "1000000" mean; anything else is a ValueError."""
    match = _BYTES.fullmatch(text.strip())
    number = int(match[1]) * _UNITS[match[2].upper()] if match else 0
    if not number:
        raise ValueError(f"expected {LIMIT_OPTION} as bytes, such as 2GB or 500MB, got {text!r}")
    return number


class LimitedReader:
    """A file that is read from the start once, and refuses to give more than `room` bytes in all."""

    def __init__(self, file: Readable, room: int) -> None:
        self._file, self._room, self._given = file, room, 0

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self._given += len(content)
        check_room(self._given, self._room)
        return content
