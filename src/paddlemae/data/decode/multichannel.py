"""Read images in NumPy's files, of any number of channels.

Shapes: H height, W width, C channels.
"""

import math
from typing import IO

import numpy as np
from numpy.lib import format as npy

from paddlemae.data.decode.limits import check_room, check_size
from paddlemae.data.decode.pixel_format import Pixels, as_HWC

ARRAY_START = b"\x93NUMPY"


def read_array(file: IO[bytes], channels: int, room: int) -> Pixels:
    """Return the image in a `.npy` file that takes at most `room` bytes of memory.

    Raises:
        ValueError: cut short, too large, no image's shape or values, or objects (which are pickled).
    """
    shape, fortran, dtype = read_array_header(file)
    check_size(shape)
    size = dtype.itemsize * math.prod(shape)
    check_room(size, room)
    values = np.frombuffer(file.read(size), dtype)
    if values.size < math.prod(shape):
        raise ValueError(f"the file is cut short: {values.size} of {math.prod(shape)} values are there")
    return as_HWC(values.reshape(shape, order="F" if fortran else "C"), channels)


def read_array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return (shape, whether in Fortran's order, type) of a `.npy` file; its values come next.

    Raises:
        ValueError: no such file, one of objects, or of a shape that no array has.
    """
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which are not loaded; save numbers")
    if min(shape, default=1) < 0:
        raise ValueError(f"a shape of {shape}, which is damaged")
    return shape, fortran, dtype
