"""Encode one image for a pack: its own bytes where possible, else its pixels in a new file.

Its own bytes are kept of an image that is small enough, if it is a JPEG, PNG, WebP or `.npy` that other programs, which
turn nothing upright and composite nothing, read as we do. A new file loses nothing (PNG, or `.npy` where a
PNG can't hold it), but for what is made smaller and has 8 bits of gray or RGB: a JPEG.

Shapes: H height, W width, C channels; h, w of a smaller copy.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from paddlemae.data.cache import shrink_picture
from paddlemae.data.decode.multichannel import ARRAY_START
from paddlemae.data.decode.orientation import read_orientation
from paddlemae.data.decode.pillow import open_with_pillow
from paddlemae.data.decode.pixel_format import CHANNEL_NAMES, Pixels, convert_depth, largest_value
from paddlemae.data.decode.png import PNG_START
from paddlemae.data.decode.stored_format import JPEG_START
from paddlemae.data.inspect.survey import decode_stored
from paddlemae.data.views.augment import View

_RIFF, _WEBP = b"RIFF", b"WEBP"  # the size of the file is between them
_PLAIN_MODES = ("L", "RGB", "I;16")  # Pillow's
_LONGEST_JPEG_SIDE = 65535
SUBSAMPLING = "420"  # colours have half the height and width, as in a camera's files: they decode in less time


@dataclass(frozen=True)
class Encoding:
    """Settings of the images of a pack.

    Args:
        size: largest short side, pixels; images whose short side is longer are made smaller.
        channels: as images are read for a model.
        bits: 8 or 16 of a value; None keeps each image's.
        quality: of JPEGs, 1 to 100.
        lossless: no JPEG is written.
    """

    size: int
    channels: int = 3
    bits: Literal[8, 16] | None = None
    quality: int = 95
    lossless: bool = False


@dataclass(frozen=True)
class EncodedImage:
    """An image file.

    Args:
        ending: of its name, without the dot.
        content: its bytes.
        bytes_before: how many bytes the image took before.
        size: (h, w) of the file, pixels.
        mask: the bytes of its mask, a PNG of that size; None without masks.
    """

    ending: str
    content: bytes
    bytes_before: int
    size: tuple[int, int]
    mask: bytes | None = None


def encode_image(stored: bytes | NDArray[Any], name: str, settings: Encoding, room: int) -> EncodedImage:
    """Encode an image for a pack, from what `Source.stored` returns.

    Every pixel of what is kept is looked at, so that no unreadable image gets into a pack.

    Args:
        name: for errors.
        room: as `Source.room` gives it.
    Raises:
        UnreadableImage: as `Source.read` does.
    """
    picture = decode_stored(stored, name, settings.channels, settings.size, room)
    pixels_hwC = picture.pixels_hwC
    before = len(stored) if isinstance(stored, bytes) else stored.nbytes
    if min(picture.size) > settings.size:
        bits = settings.bits or (16 if pixels_hwC.dtype == np.uint16 else 8)
        view = View((settings.size, settings.size), settings.channels, bits=bits)
        pixels_hwC = shrink_picture(picture, settings.size, view)
        return EncodedImage(
            *_encode_pixels(pixels_hwC, settings, lossless=settings.lossless), before, _size(pixels_hwC)
        )
    if settings.bits == 8:
        pixels_hwC = convert_depth(pixels_hwC, 8)
    is_as_asked = pixels_hwC.dtype == picture.pixels_hwC.dtype
    if isinstance(stored, bytes) and is_as_asked and (ending := _ending_if_portable(stored, settings.channels)):
        return EncodedImage(ending, stored, before, _size(pixels_hwC))
    return EncodedImage(*_encode_pixels(pixels_hwC, settings, lossless=True), before, _size(pixels_hwC))


def _size(pixels_hwC: Pixels) -> tuple[int, int]:
    return pixels_hwC.shape[0], pixels_hwC.shape[1]


def _ending_if_portable(content: bytes, channels: int) -> str | None:
    """Return the file's ending if other programs read the same pixels from it as PaddleMAE, else None."""
    if content.startswith(ARRAY_START):
        return "npy"
    ending = _ending(content)
    if ending is None:
        return None
    with open_with_pillow(io.BytesIO(content)) as image:
        if ending != "jpg":
            image.load()  # its orientation may be stored after the pixels
        plain = image.mode in _PLAIN_MODES and not image.has_transparency_data
        plain |= image.mode == "RGBA" and channels == 4
        is_still = ending == "jpg" or getattr(image, "n_frames", 1) == 1
        return ending if plain and is_still and read_orientation(image) == 1 else None


def _ending(content: bytes) -> str | None:
    if content.startswith(JPEG_START):
        return "jpg"
    if content.startswith(PNG_START):
        return "png"
    return "webp" if content.startswith(_RIFF) and content[8:12] == _WEBP else None


def _encode_pixels(pixels_HWC: Pixels, settings: Encoding, *, lossless: bool) -> tuple[str, bytes]:
    """Encode pixels as an image file; return (ending, bytes)."""
    pixels_HWC = np.ascontiguousarray(
        _drop_redundant_channels(pixels_HWC) if settings.channels in CHANNEL_NAMES else pixels_HWC
    )
    channels, is_deep = pixels_HWC.shape[2], pixels_HWC.dtype == np.uint16
    can_be_jpeg = channels in (1, 3) and not is_deep and max(pixels_HWC.shape) <= _LONGEST_JPEG_SIDE
    if can_be_jpeg and not lossless:
        colours, sampling = ("GRAY", "Gray") if channels == 1 else ("RGB", SUBSAMPLING)
        return "jpg", simplejpeg.encode_jpeg(pixels_HWC, settings.quality, colours, sampling)
    file = io.BytesIO()
    if channels == 1 or (channels in (3, 4) and not is_deep):
        Image.fromarray(pixels_HWC[..., 0] if channels == 1 else pixels_HWC).save(file, "PNG")
        return "png", file.getvalue()
    np.save(file, pixels_HWC, allow_pickle=False)
    return "npy", file.getvalue()


def _drop_redundant_channels(pixels_HWC: Pixels) -> Pixels:
    """Return the pixels without channels that reading restores: colours that are all gray, alpha that is all opaque."""
    if pixels_HWC.shape[2] == 4 and (pixels_HWC[..., 3] == largest_value(pixels_HWC)).all():
        pixels_HWC = pixels_HWC[..., :3]
    if pixels_HWC.shape[2] == 3 and (pixels_HWC == pixels_HWC[..., :1]).all():
        pixels_HWC = pixels_HWC[..., :1]
    return pixels_HWC
