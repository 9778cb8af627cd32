"""Images of any number of channels: TIFFs that Pillow can't read as they are, and NumPy arrays.

A TIFF is left to Pillow where 8-bit gray or RGB is wanted of it; bands, and 16 bits of colour, are read by tifffile,
which is an extra. Without it, 16-bit colour comes in Pillow's 8 bits, and bands not at all.
"""

import importlib.util
import math
from typing import IO

import numpy as np
from numpy.lib import format as npy
from PIL import Image, UnidentifiedImageError

from paddlemae.data.channels import NAMES, Pixels, as_HWC

ARRAY_START = b"\x93NUMPY"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF

_BITS, _SAMPLES = 258, 277  # tags
_MIN_IS_BLACK, _RGB = 1, 2  # photometric interpretations whose values are plain
_HAS_TIFFFILE = importlib.util.find_spec("tifffile") is not None


def is_for_tifffile(file: IO[bytes], channels: int) -> bool:
    """Whether Pillow can't read this TIFF, or would lose bands or bits of it."""
    try:
        with Image.open(file, formats=["TIFF"]) as image:
            tags = image.tag_v2  # type: ignore[attr-defined]
            samples, bits = tags.get(_SAMPLES, 1), max(tags.get(_BITS, (1,)))
            if samples == 1 and channels not in NAMES:
                return image.n_frames == channels  # type: ignore[attr-defined]
        loses = samples > 4 or (samples > 1 and (bits > 8 or channels not in (1, 3)))
        return bool(loses and (_HAS_TIFFFILE or samples > 4))
    except UnidentifiedImageError:
        return _samples(file) > 4 or _HAS_TIFFFILE
    except Exception:  # Pillow will say what is wrong with it
        return False
    finally:
        file.seek(0)


def _samples(file: IO[bytes]) -> int:
    """Bands that the header of a TIFF tells of; 0 if it can't be read."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        file.seek(0)
        head = file.read(8)
        directory = ImageFileDirectory_v2(head)
        file.seek(directory.next)
        directory.load(file)
        return int(directory.get(_SAMPLES, 0))
    except Exception:  # Pillow raises nearly anything on damaged bytes
        return 0


def read_tiff(file: IO[bytes], channels: int) -> tuple[Pixels, int]:
    """(pixels [H, W, C], the orientation tag) of a TIFF's first image, or of its first pages if each is one channel.

    Raises:
        ImportError: tifffile is missing.
        ValueError: too large, or values that are no plain pixels.
    """
    if not _HAS_TIFFFILE:
        raise ImportError("a TIFF of bands, which tifffile reads: pip install 'paddlemae[tiff]'")
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        if page.photometric not in (_MIN_IS_BLACK, _RGB):
            raise ValueError("a TIFF whose values are no plain brightness (palette, CMYK, white is zero ...)")
        orientation = page.tags.valueof("Orientation", 1)
        series = tiff.series[0]
        pages_are_channels = page.samplesperpixel == 1 and series.ndim == 3 and series.shape[0] == channels > 1
        shape = series.shape if pages_are_channels else page.shape
        check_size(shape)
        values = series.asarray() if pages_are_channels else page.asarray()
        if values.ndim == 3 and (pages_are_channels or page.axes.startswith("S")):  # plane after plane
            values = np.moveaxis(values, 0, -1)
    return as_HWC(values, values.shape[-1]), int(orientation)


def read_array(file: IO[bytes], channels: int) -> Pixels:
    """The image in a `.npy` file.

    Raises:
        ValueError: cut short, too large, no image's shape or values, or objects (which are pickled).
    """
    shape, fortran, dtype = read_array_header(file)
    check_size(shape)
    values = np.frombuffer(file.read(dtype.itemsize * math.prod(shape)), dtype)
    if values.size < math.prod(shape):
        raise ValueError(f"the file is cut short: {values.size} of {math.prod(shape)} values are there")
    return as_HWC(values.reshape(shape, order="F" if fortran else "C"), channels)


def read_array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran's order, type) of a `.npy` file; its values come next.

    Raises:
        ValueError: no such file, or one of objects.
    """
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("an array of objects, which only running its code would give; save numbers")
    return shape, fortran, dtype


def check_size(shape: tuple[int, ...]) -> None:
    """Refuse to decode what would fill the memory: more values than Pillow allows an RGBA image."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit and math.prod(shape) > 4 * limit:
        raise ValueError(f"more than {4 * limit} values; cut it into tiles")
