"""Decode one image file to a uint8 array, or say in one line why it can't be.

Shapes: H height, W width, C channels.

How pixels become 8-bit gray (C = 1) or RGB (C = 3):
    orientation      turned upright as the EXIF tag says; damaged EXIF data is ignored
    animation        the first frame
    palette, CMYK    to RGB by Pillow's plain formulas; colour profiles are not applied
    transparency     composited on white
    colour to gray   ITU-R 601-2 luma; gray to RGB repeats the channel
    integers > 8 bit values up to 65535, shifted right by 8; larger or negative ones are refused
    floating point   refused: such a file does not say which value is white
"""

import os
import threading
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# Only what the extensions promise, whatever a file's name: Pillow would hand an EPS to Ghostscript.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
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
    check_channels(channels)
    try:
        with _FILTERS_LOCK, warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if os.fstat(file.fileno()).st_size == 0:
                raise ValueError("the file is empty")
            with Image.open(file, formats=_FORMATS) as image:
                image.load()
                return _to_uint8(_upright(image), channels)
    except Exception as error:  # Pillow raises nearly anything on damaged bytes
        raise UnreadableImage(os.fspath(path), _reason(error)) from error


def _reason(error: Exception) -> str:
    """Why decoding failed, on one line and without the path, which the message already has."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that is read here"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels; cut it into tiles"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    """Turn a loaded image as its EXIF orientation says."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged metadata is no reason to lose good pixels
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


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
