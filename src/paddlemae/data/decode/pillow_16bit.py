"""Decode 16 bits of colour with Pillow, which keeps 8 of them.

Its decoders are asked twice, once for the high bytes of the values and once for the low ones.

Shapes: H height, W width, S samples of a pixel.
"""

import sys
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ORDERS = {"16L": "16B", "16B": "16L"}  # how bytes are stored, and what then gives the low ones
_NATIVE = "16L" if sys.byteorder == "little" else "16B"


def read_16_bits(file: IO[bytes], mode: str) -> NDArray[np.uint16]:
    """Return the values [H, W, S] of a PNG or TIFF with 16 bits a sample, a TIFF turned upright.

    Pillow raises nearly any exception if the file is damaged. `mode` is Pillow's of as many samples of 8 bits.
    """
    values = _bytes(file, mode, high=True).astype(np.uint16)
    values <<= 8
    values |= _bytes(file, mode, high=False)
    return values


def _bytes(file: IO[bytes], mode: str, high: bool) -> NDArray[np.uint8]:
    file.seek(0)
    with Image.open(file, formats=["PNG", "TIFF"]) as image:
        image.tile = [_request_bytes(tile, mode, high) for tile in image.tile]
        image._mode = mode
        image.load()
        return np.asarray(image)


def _request_bytes(tile: Any, mode: str, high: bool) -> Any:
    """Return Pillow's instruction to its decoder, changed to give the high or the low bytes."""
    decoder, extents, offset, arguments = tile
    raw_mode, *others = (arguments,) if isinstance(arguments, str) else arguments
    order = raw_mode.rpartition(";")[2].replace("16N", _NATIVE)
    raw_mode = f"{mode};{order if high else _ORDERS[order]}"
    arguments = raw_mode if isinstance(arguments, str) else (raw_mode, *others)
    # a named tuple since Pillow 11
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (decoder, extents, offset, arguments)
