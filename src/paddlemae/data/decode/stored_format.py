"""Read how an image is stored: its channels and bits, from its header."""

import io
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from paddlemae.data.decode.multichannel import ARRAY_START, read_array_header
from paddlemae.data.decode.pillow import open_with_pillow
from paddlemae.data.decode.pixel_format import CHANNEL_NAMES, is_channels_first
from paddlemae.data.decode.png import PNG_COLOURS, PNG_START, read_png_form
from paddlemae.data.decode.ppm import PPM_STARTS, read_ppm_header
from paddlemae.data.decode.tiff import TIFF_STARTS, read_tiff_form

JPEG_START = b"\xff\xd8\xff"
_JPEG_COLOURS = {"Gray": "gray", "YCbCr": "RGB", "RGB": "RGB", "CMYK": "CMYK", "YCCK": "CMYK"}
_MODES = {  # Pillow's; the others say it themselves, and have 8 bits
    "1": ("gray", 1),
    "L": ("gray", 8),
    "LA": ("gray and alpha", 8),
    "P": ("palette", 8),
    "I": ("gray", 16),  # of a PGM
    "I;16": ("gray", 16),
}
StoredForm = tuple[str, int]  # such as ("RGB", 8): colours, or "13 channels"; bits of a value


def read_form(stored: bytes | NDArray[Any], channels: int) -> StoredForm:
    """Return the form of an image from what `Source.stored` gives; `channels` distinguishes an array's axes."""
    if not isinstance(stored, bytes):
        return _array_form(stored.shape, stored.dtype, channels)
    if stored.startswith(PNG_START):
        kind, bits = read_png_form(stored)
        return PNG_COLOURS[kind], 8 if PNG_COLOURS[kind] == "palette" else bits
    if stored.startswith(PPM_STARTS) and (header := read_ppm_header(stored[:4096])):
        return "RGB", 16 if header[2] > 255 else 8
    if stored.startswith(JPEG_START) and (colours := _jpeg_colours(stored)):
        return colours, 8
    if stored.startswith(ARRAY_START):
        shape, _, dtype = read_array_header(io.BytesIO(stored))
        return _array_form(shape, dtype, channels)
    if stored.startswith(TIFF_STARTS):
        return _tiff_form(stored, channels)
    with open_with_pillow(io.BytesIO(stored)) as image:
        return _MODES.get(image.mode, (image.mode, 8))


def _array_form(shape: tuple[int, ...], dtype: np.dtype, channels: int) -> StoredForm:
    first = len(shape) == 3 and is_channels_first(shape, channels)
    count = 1 if len(shape) == 2 else shape[0] if first else shape[-1]
    return _name(count), 1 if dtype == np.bool_ else 8 * dtype.itemsize


def _jpeg_colours(content: bytes) -> str | None:
    try:
        return _JPEG_COLOURS.get(simplejpeg.decode_jpeg_header(content)[2])
    except ValueError:  # Pillow reads some that this refuses
        return None


def _tiff_form(content: bytes, channels: int) -> StoredForm:
    form = read_tiff_form(io.BytesIO(content))
    kind = "palette" if form.is_palette else _name(form.samples)
    return kind if channels in CHANNEL_NAMES else _name(channels), form.bits  # pages may be channels


def _name(channels: int) -> str:
    return CHANNEL_NAMES.get(channels, f"{channels} channels").replace("RGBA", "4 channels")
