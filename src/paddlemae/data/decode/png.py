"""Read what Pillow loses of PNGs: 16 bits of colour, and transparency of gray with 2 or 4 bits.

Shapes: H height, W width, C channels.
"""

import math
from typing import IO

import numpy as np
from PIL import Image

from paddlemae.data.decode.limits import check_room
from paddlemae.data.decode.orientation import read_orientation, turn_upright
from paddlemae.data.decode.pillow import without_pillow_warnings
from paddlemae.data.decode.pillow_16bit import read_16_bits
from paddlemae.data.decode.pixel_format import Pixels, apply_alpha, as_channels

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_COLOURS = {0: "gray", 2: "RGB", 3: "palette", 4: "gray and alpha", 6: "RGBA"}

_DEPTH, _COLOURS, _HEADER = 24, 25, 26  # where a PNG's header has its bits, the kind of its colours, and ends
_GRAY, _RGB, _GRAY_ALPHA = 0, 2, 4
_SCALES = {"L;2": 85, "L;4": 17}  # by how Pillow says that it decodes them


def read_png_form(start: bytes) -> tuple[int, int]:
    """Return (kind of colours, bits) as a PNG's first bytes say them; zeros where they are cut off."""
    return (start[_COLOURS], start[_DEPTH]) if len(start) >= _HEADER else (0, 0)


def read_deep_png(file: IO[bytes], channels: int, room: int) -> Pixels | None:
    """Return the pixels of a PNG with 16 bits of colour, upright; None for any other.

    Raise a ValueError for other channels or more than `room` bytes of memory; Pillow raises any of a damaged file.
    """
    colours, bits = read_png_form(file.read(_HEADER))
    file.seek(0)
    return _read_deep(file, colours, channels, room) if bits == 16 and colours != _GRAY else None


@without_pillow_warnings
def _read_deep(file: IO[bytes], colours: int, channels: int, room: int) -> Pixels:
    with Image.open(file, formats=["PNG"]) as image:
        check_room(math.prod(image.size) * (4 + 3 * 8), room)
        pixels = _gray_alpha(image) if colours == _GRAY_ALPHA else None
        image.load()  # the orientation may be stored after the pixels
        orientation, key = read_orientation(image), image.info.get("transparency")
    if pixels is None:
        pixels = read_16_bits(file, "RGB" if colours == _RGB else "RGBA")
    if colours == _RGB and isinstance(key, tuple):
        alpha = np.where((pixels == np.array(key, np.uint16)).all(axis=2, keepdims=True), 0, 65535).astype(np.uint16)
        pixels = np.concatenate([pixels, alpha], axis=2)
    pixels = as_channels(pixels, channels) if pixels.shape[2] == 3 else apply_alpha(pixels, channels)
    return turn_upright(pixels, orientation)


def _gray_alpha(image: Image.Image) -> Pixels:
    """Return [H, W, 2]: gray and alpha of 16 bits are as many bytes as RGBA of 8."""
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args="RGBA") if hasattr(tile, "_replace") else (*tile[:3], "RGBA")
        for tile in image.tile  # type: ignore[attr-defined]
    ]
    image.load()
    return np.asarray(image).view(">u2").astype(np.uint16)


def scale_transparent_gray(image: Image.Image) -> None:
    """Bring the value that means transparent to 8 bits, as Pillow does with the pixels of 2 and 4 bits."""
    key, tiles = image.info.get("transparency"), image.tile  # type: ignore[attr-defined]
    if isinstance(key, int) and tiles and tiles[0][3] in _SCALES:
        image.info["transparency"] = key * _SCALES[tiles[0][3]]
