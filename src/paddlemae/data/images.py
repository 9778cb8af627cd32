"""Decode one image file to a uint8 array, or say in one line why it can't be.

Shapes: H height, W width of the whole image; h, w of the pixels that were made of it; C channels.

How pixels become 8-bit gray (C = 1) or RGB (C = 3):
    orientation      turned upright as the EXIF tag says; damaged EXIF data is ignored
    animation        the first frame
    palette, CMYK    to RGB by Pillow's plain formulas; colour profiles are not applied
    transparency     composited on white
    colour to gray   ITU-R 601-2 luma; gray to RGB repeats the channel
    integers > 8 bit values up to 65535, shifted right by 8; larger or negative ones are refused
    floating point   refused: such a file does not say which value is white

Pillow opens every file. Ordinary JPEGs are then decoded by simplejpeg, whose libjpeg-turbo gives the same bits in
less time; whatever it complains of is left to Pillow, so the verdict on a damaged file is always Pillow's.
"""

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# Only what the extensions promise, whatever a file's name: Pillow would hand an EPS to Ghostscript.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# MPO is Pillow's name for a JPEG that more pictures follow, as phones write them; only the first is read.
_JPEG_FORMATS = ("JPEG", "MPO")
_JPEG_START = b"\xff\xd8\xff"
# What a JPEG holds, in Pillow's words and in simplejpeg's; the rest (CMYK) is Pillow's to convert.
_JPEG_COLOURS = {"L": "GRAY", "RGB": "RGB"}

# How many times smaller libjpeg decodes in less time than the whole: it transforms fewer coefficients then.
REDUCTIONS = (8, 4, 2, 1)
# simplejpeg is asked for a smallest size, and can't tell these factors apart below so many pixels.
_SMALLEST_REDUCED = 16

_ORIENTATION_TAG = 0x0112
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}

# Warning filters belong to the whole process: two threads that change them at once would leave them changed.
_FILTERS_LOCK = threading.Lock()


class UnreadableImage(Exception):
    """An image that can't be decoded: `path` as it was asked for, `reason` in a few words."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both, because unpickling calls the class with these
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read image {self.path!r}: {self.reason}"


def check_channels(channels: int) -> None:
    """Raise a ValueError for a number of channels that images are not read as."""
    if channels not in (1, 3):
        raise ValueError(f"images are read as 1 (gray) or 3 (RGB) channels, not {channels}")


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, perhaps made smaller than it is.

    Args:
        pixels_hwC: uint8, upright, not necessarily writable.
        size: (H, W) of the whole image, upright.
        scale: (of rows, of columns) pixels here for one pixel of the whole image, at most 1.
    """

    pixels_hwC: NDArray[np.uint8]
    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)


# (H, W) -> how many times smaller the image may be decoded, one of `REDUCTIONS`
Reduce = Callable[[int, int], int]


def whole(height: int, width: int) -> int:
    """The `Reduce` that wants every pixel."""
    return 1


def read_image(path: str | os.PathLike[str], channels: int) -> NDArray[np.uint8]:
    """Decode an image file by the rules at the top of this module.

    Args:
        path: a file in one of the formats of `EXTENSIONS`, judged by its content.
        channels: 1 for gray, 3 for RGB.
    Returns:
        uint8 [H, W, channels], not necessarily writable.
    Raises:
        ValueError: another number of channels.
        UnreadableImage: the file is missing, empty, forbidden, damaged, too large or no image.
    """
    return read_picture(path, channels, whole).pixels_hwC


def read_picture(path: str | os.PathLike[str], channels: int, reduce: Reduce) -> Picture:
    """Decode an image file; smaller if that is allowed and saves time, as it does with JPEGs.

    Args:
        path, channels: as for `read_image`.
        reduce: asked once, with the whole image's size; a JPEG is decoded after it, so it may choose what to show.
    Raises:
        ValueError, UnreadableImage: as `read_image`.
    """
    check_channels(channels)
    with _reported(path):
        opened = _open(path, channels)
    if isinstance(opened, _Jpeg):
        reduction = reduce(*opened.size)
        with _reported(path):
            return _decode(opened, channels, reduction)
    picture = Picture(opened, opened.shape[:2])
    reduce(*picture.size)
    return picture


@dataclass(frozen=True, eq=False)
class _Jpeg:
    """A JPEG of one of `_JPEG_COLOURS`, whose header is in order; `size` is (H, W), upright."""

    content: bytes
    mode: str
    size: tuple[int, int]
    orientation: int


@contextlib.contextmanager
def _reported(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Pillow raises nearly anything on damaged bytes
        raise UnreadableImage(os.fspath(path), _reason(error)) from error


@contextlib.contextmanager
def _opened_by_pillow(file: IO[bytes]) -> Iterator[Image.Image]:
    with _FILTERS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=_FORMATS) as image:
            yield image


def _open(path: str | os.PathLike[str], channels: int) -> _Jpeg | NDArray[np.uint8]:
    """The file's JPEG, still to be decoded, or its pixels."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ValueError("the file is empty")
        start = file.read(len(_JPEG_START))
        file.seek(0)
        if start != _JPEG_START:
            with _opened_by_pillow(file) as image:
                return _pixels(image, channels)
        content = file.read()  # at once: Pillow reads a header in dozens of small pieces
    with _opened_by_pillow(io.BytesIO(content)) as image:
        if image.format not in _JPEG_FORMATS or image.mode not in _JPEG_COLOURS:
            return _pixels(image, channels)
        orientation, (width, height) = _orientation(image), image.size
        size = (width, height) if orientation >= 5 else (height, width)
        return _Jpeg(content, image.mode, size, orientation)


def _decode(jpeg: _Jpeg, channels: int, reduction: int) -> Picture:
    while reduction > 1 and not _can_reduce(jpeg, reduction):
        reduction //= 2
    h, w = (-(-side // reduction) for side in (jpeg.size[::-1] if jpeg.orientation >= 5 else jpeg.size))
    try:
        pixels = simplejpeg.decode_jpeg(jpeg.content, _JPEG_COLOURS[jpeg.mode], min_height=h, min_width=w)
        if pixels.shape[:2] != (h, w):
            raise ValueError("another size than the header's that Pillow read")
    except Exception:  # its words for damage are as many as Pillow's, and the verdict is Pillow's
        with _opened_by_pillow(io.BytesIO(jpeg.content)) as image:
            return Picture(_pixels(image, channels), jpeg.size)
    if channels > pixels.shape[2]:
        pixels = np.repeat(pixels, channels, axis=2)
    elif channels < pixels.shape[2]:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    if jpeg.orientation in _UPRIGHT:
        pixels = _UPRIGHT[jpeg.orientation](pixels)
    return Picture(pixels, jpeg.size, (1 / reduction, 1 / reduction))


def _can_reduce(jpeg: _Jpeg, reduction: int) -> bool:
    """The last row and column of a reduced image may stand for fewer pixels; turned, they would not come last."""
    whole_pixels = all(side % reduction == 0 for side in jpeg.size)
    return min(jpeg.size) >= _SMALLEST_REDUCED and (whole_pixels or jpeg.orientation not in _UPRIGHT)


def _reason(error: Exception) -> str:
    """Why decoding failed, on one line and without the path, which the message already has."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that is read here"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels; cut it into tiles"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _orientation(image: Image.Image) -> int:
    """The EXIF tag: 1, or a key of `_UPRIGHT`."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
        return orientation if orientation in _UPRIGHT else 1
    except Exception:  # damaged metadata is no reason to lose good pixels
        return 1


def _pixels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """Every pixel of an opened image, upright."""
    image.load()  # some formats have their metadata behind the pixels
    pixels, orientation = _to_uint8(image, channels), _orientation(image)
    return _UPRIGHT[orientation](pixels) if orientation in _UPRIGHT else pixels


def _to_uint8(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise ValueError("floating-point pixels; save it as 8 or 16 bit")
    if image.mode.startswith("I"):
        return np.repeat(_high_byte(np.asarray(image))[..., None], channels, axis=2)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    pixels: NDArray[np.uint8] = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def _high_byte(values_HW: NDArray[np.integer]) -> NDArray[np.uint8]:
    if values_HW.min() < 0 or values_HW.max() > 65535:
        raise ValueError("integer pixels outside 0..65535; save it as 8 or 16 bit")
    return (values_HW >> 8).astype(np.uint8)
