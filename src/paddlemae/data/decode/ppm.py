"""Read PPMs of more than 8 bits, of which Pillow keeps 8.

Shapes: H height, W width.
"""

import re
from typing import IO

import numpy as np

from paddlemae.data.decode.limits import check_room, check_size
from paddlemae.data.decode.pixel_format import Pixels

PPM_STARTS = (b"P3", b"P6")

_MOST_HEADER = 4096  # bytes, with its comments
_NUMBER = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,9})")


def read_ppm_header(start: bytes) -> tuple[int, int, int, int] | None:
    """Return (width, height, largest value, where the values begin) of a PPM; None if it begins otherwise."""
    numbers, place = [], 2
    for _ in range(3):
        match = _NUMBER.match(start, place)
        if not match:
            return None
        numbers.append(int(match[1]))
        place = match.end()
    return numbers[0], numbers[1], numbers[2], place + 1


def read_deep_ppm(file: IO[bytes], room: int) -> Pixels | None:
    """Return uint16 [H, W, 3] of a PPM whose largest value is above 255; None for any other.

    Raise a ValueError if it is cut short, or takes more than `room` bytes of memory.
    """
    start = file.read(_MOST_HEADER)
    file.seek(0)
    header = read_ppm_header(start)
    if header is None or not 255 < header[2] < 65536:
        return None
    width, height, largest, place = header
    check_size((height, width, 3))
    count = height * width * 3
    check_room(12 * count, room)
    file.seek(place)
    if start.startswith(b"P6"):
        values = np.frombuffer(file.read(2 * count), ">u2")
    else:
        values = np.array(re.sub(rb"#[^\r\n]*", b"", file.read()).split()[:count], np.int64)
    if len(values) < count:
        raise ValueError(f"the file is cut short: {len(values)} of {count} values are there")
    values = np.minimum(values.astype(np.uint32), largest)
    values = (values * 65535 + largest // 2) // largest if largest < 65535 else values
    return values.astype(np.uint16).reshape(height, width, 3)
