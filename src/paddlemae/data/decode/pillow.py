"""Open images with Pillow, and make pixels of what it opened.

Shapes: H height, W width, C channels.
"""

import contextlib
import functools
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import IO, ParamSpec, TypeVar

import numpy as np
from PIL import Image

from paddlemae.data.decode.limits import check_room
from paddlemae.data.decode.orientation import read_orientation, turn_upright
from paddlemae.data.decode.pixel_format import Pixels, apply_alpha, as_channels, as_pixels

# Only what the extensions promise, whatever a file's name: Pillow would hand an EPS to Ghostscript.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Warning filters belong to the whole process: two threads that change them at once would leave them changed.
_FILTERS_LOCK = threading.RLock()

_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # of a pixel; of other modes 4
_COLOUR_MAP = 320  # a tag of a TIFF
_DEEP_BYTES = 6  # of a pixel on its way out of Pillow, which makes three copies of the whole
_WEBP_BYTES = 12  # of a pixel in its decoder, in addition
_BLOCK = 1 << 20  # pixels that are converted at a time


_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with _FILTERS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def without_pillow_warnings(read: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Make a function that reads with Pillow do so without its warnings; too large an image is an error."""

    @functools.wraps(read)
    def reading(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with _without_warnings():
            return read(*args, **kwargs)

    return reading


@contextlib.contextmanager
def open_with_pillow(file: IO[bytes]) -> Iterator[Image.Image]:
    """Open one of the formats that are read here, without Pillow's warnings; too large an image is an error."""
    with _FILTERS_LOCK, warnings.catch_warnings():  # not by `_without_warnings`, which takes longer than this
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=_FORMATS) as image:
            yield image


def read_pixels(image: Image.Image, channels: int, room: int | None = None) -> Pixels:
    """Return every pixel of an image that Pillow opened or made, by the rules of `data.decode.images`.

    Args:
        room: bytes of memory that it may take; None: any.
    Raises:
        ValueError: of other channels, too large, or values that are no pixels.
        Exception: nearly any, of Pillow's, if its file is damaged.
    """
    is_deep = image.mode.startswith(("F", "I"))
    if room is not None:
        each = _MODE_BYTES.get(image.mode, 4) + channels * (2 if is_deep else 1) + _DEEP_BYTES * is_deep
        check_room(math.prod(image.size) * (each + _WEBP_BYTES * (image.format == "WEBP")), room)
    image.load()  # some formats have their metadata behind the pixels
    if image.format == "TIFF":
        _fix_colour_map(image)
    elif image.format == "BMP":
        image = _drop_blank_alpha(image)
    pixels = _convert_deep(image, channels) if is_deep else _convert_in_rows(image, channels)
    return turn_upright(pixels, read_orientation(image))


def _fix_colour_map(image: Image.Image) -> None:
    """Take the colours of a TIFF's palette as 8 bits where none needs more, as some programs write them."""
    if image.mode == "P":
        colours = image.tag_v2.get(_COLOUR_MAP, ())  # type: ignore[attr-defined]
        if colours and max(colours) < 256:
            image.putpalette(bytes(np.array(colours, np.uint8).reshape(3, -1).T))


def _drop_blank_alpha(image: Image.Image) -> Image.Image:
    """Return the image without the transparency of a BMP that is transparent all over, as other programs show it."""
    is_blank = image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)
    return image.convert("RGB") if is_blank else image


def _convert_deep(image: Image.Image, channels: int) -> Pixels:
    stored = np.asarray(image)
    pixels_HW = as_pixels(stored)
    if isinstance(key := image.info.get("transparency"), int):  # Pillow can't composite these
        alpha_HW = np.where(stored == key, 0, 65535).astype(np.uint16)
        return apply_alpha(np.stack([pixels_HW, alpha_HW], axis=-1), channels)
    return as_channels(pixels_HW[..., None], channels)


def _convert_in_rows(image: Image.Image, channels: int) -> Pixels:
    """Convert 8 bits, by blocks of rows where the image is large, since conversions take several times its memory."""
    width, height = image.size
    rows = max(1, _BLOCK // max(1, width))
    if rows >= height:
        return _convert(image, channels)
    tops = range(0, height, rows)
    blocks = (_convert(image.crop((0, top, width, min(height, top + rows))), channels) for top in tops)
    first = next(blocks)
    pixels = np.empty((height, *first.shape[1:]), first.dtype)
    pixels[:rows] = first
    for top, block in zip(tops[1:], blocks, strict=True):
        pixels[top : top + rows] = block
    return pixels


def _convert(image: Image.Image, channels: int) -> Pixels:
    if image.mode == "La":  # which Pillow converts to nothing else
        image = image.convert("LA")
    if channels != 4 and image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    pixels = np.asarray(image.convert({1: "L", 4: "RGBA"}.get(channels, "RGB")))
    return as_channels(pixels.reshape(*pixels.shape[:2], -1), channels)
