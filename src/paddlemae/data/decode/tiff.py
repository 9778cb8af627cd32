"""Read TIFFs as their tags say.

Pillow decodes what it decodes rightly; all else, such as bands, 10 or 14 bits, and 16-bit gray with transparency, is
left to tifffile, which is an extra. Which of the two decodes depends on the file alone, so the extra changes no pixel.

What tags mean here:
    white is zero    values are turned over, those of all bands too; transparency is not
    bits             fewer than 8 are scaled to 8, 9 to 15 to 16
    extra samples    transparency, associated or not, as of other images: on white, or the fourth channel of RGBA. One
                     that the file does not explain is left out, unless as many channels are asked for. Four samples of
                     RGB without the tag are RGBA, as other programs have it
    MaxSampleValue   ignored: by the standard it is a statistic, and must not change how an image looks
What says no brightness is refused: floating-point, complex and signed 8-bit values, raw sensors, samples
of different bits.

Shapes: H height, W width, S samples of a pixel, C channels.
"""

import importlib.util
import math
from dataclasses import dataclass, replace
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from paddlemae.data.decode.limits import check_room, check_size
from paddlemae.data.decode.pillow import without_pillow_warnings
from paddlemae.data.decode.pillow_16bit import read_16_bits
from paddlemae.data.decode.pixel_format import (
    CHANNEL_NAMES,
    Pixels,
    apply_alpha,
    as_channels,
    as_pixels,
    largest_value,
    rgb_of_cmyk,
    scale_to_full,
)

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8  # photometric interpretations
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}
_STRANGE = {4: "a mask", 9: "ICCLab", 10: "ITULab", 32803: "raw sensor", 32844: "LogL", 32845: "LogLuv"}
_UNSIGNED, _SIGNED, _FLOAT, _UNSTATED = 1, 2, 3, 4  # sample formats
_UNEXPLAINED, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2  # extra samples
_SEPARATE = 2  # planar configuration
_OLD_JPEG = 6  # compression
_HEIGHT, _WIDTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 257, 256, 258, 259, 262, 277, 284  # tags
_TILE_WIDTH, _TILE_HEIGHT, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 322, 323, 338, 339
_ORIENTATION, _NODATA = 274, 42113  # the second as GDAL writes it
_GEO = (33550, 33922, 34264, 34735)  # pixel scale, tie points, transform, keys of a GeoTIFF
_HAS_TIFFFILE = importlib.util.find_spec("tifffile") is not None

# Pillow's own conversion, its values of one sample, both bytes of its 16-bit colours; or tifffile's samples.
_Decoder = Literal["pillow", "values", "both bytes", "tifffile"]


@dataclass(frozen=True)
class TiffForm:
    """The form in which a TIFF's first page is stored, by its tags.

    Args:
        extras: kinds of the samples that are no colour.
        size: (H, W) as it is stored.
        padded: H * W of all its tiles.
    """

    photometric: int
    samples: int
    bits: int
    sample_format: int
    extras: tuple[int, ...]
    planar: int
    size: tuple[int, int]
    padded: int

    @property
    def is_palette(self) -> bool:
        """Return whether values are numbers of colours."""
        return self.photometric == _PALETTE


@without_pillow_warnings
def read_tiff_form(file: IO[bytes]) -> TiffForm:
    """Return the form of a TIFF's first page.

    Raises:
        ValueError: values that say no brightness, or tags that contradict each other.
        Exception: nearly any, of Pillow's, if the file is damaged.
    """
    tags = _tags(file)
    photometric, compression = _first(tags, _PHOTOMETRIC, 0), _first(tags, _COMPRESSION, 1)
    photometric = _YCBCR if compression == _OLD_JPEG else photometric
    if photometric not in _COLOURS:
        raise ValueError(f"a TIFF of {_STRANGE.get(photometric, f'colours of kind {photometric}')}; save it as RGB")
    samples = _first(tags, _SAMPLES, 3 if compression == _OLD_JPEG else 1)
    formats, bits = set(_all(tags, _SAMPLE_FORMAT, 1)), set(_all(tags, _BITS, 1)[:samples])
    if len(formats) > 1 or len(bits) > 1:
        raise ValueError("a TIFF whose samples have different types; save them with the same bits")
    extras = _all(tags, _EXTRA_SAMPLES)
    if not extras and samples == 4 and photometric == _RGB:
        extras = (_UNASSOCIATED,)
    extras = (extras + (_UNEXPLAINED,) * samples)[: max(0, samples - _COLOURS[photometric])]
    height, width = _first(tags, _HEIGHT, 0), _first(tags, _WIDTH, 0)
    padded = _padded(height, width, _first(tags, _TILE_HEIGHT, 0), _first(tags, _TILE_WIDTH, 0))
    planar = _first(tags, _PLANAR, 1)
    return _check_form(
        TiffForm(photometric, samples, bits.pop(), formats.pop(), extras, planar, (height, width), padded)
    )


def is_geotiff(file: IO[bytes]) -> bool:
    """Return whether a TIFF says where on the earth it is. Raises nearly any exception, of a file that is no TIFF."""
    return any(tag in _tags(file) for tag in _GEO)


def read_tiff_size(file: IO[bytes]) -> tuple[int, int]:
    """Return (H, W) of a TIFF's first page, upright; Pillow raises nearly any error of a damaged file."""
    tags = _tags(file)
    height, width = _first(tags, _HEIGHT, 0), _first(tags, _WIDTH, 0)
    return (width, height) if _first(tags, _ORIENTATION, 1) >= 5 else (height, width)


def read_nodata(file: IO[bytes]) -> int | None:
    """Return the whole number that a GeoTIFF names for "no data"; None without one. Errors as `read_tiff_size`."""
    text = str(_tags(file).get(_NODATA, "")).strip(" \0")
    try:
        return int(float(text))
    except (ValueError, OverflowError):  # "nan" too
        return None


def _tags(file: IO[bytes], after: int | None = None) -> ImageFileDirectory_v2:
    """Return the tags of the first page, or of the page at `after`."""
    file.seek(0)
    head = file.read(8)
    head += file.read(8) if head[2:4] in (b"+\0", b"\0+") else b""
    is_big_endian = head.startswith(b"MM\0+")
    tags = ImageFileDirectory_v2(head[:8] if is_big_endian else head)
    if is_big_endian:  # of BigTIFFs, which Pillow takes for plain ones
        tags._bigtiff, tags.next = True, int.from_bytes(head[8:16], "big")
    file.seek(after or tags.next)
    tags.load(file)
    file.seek(0)
    return tags


def _all(tags: ImageFileDirectory_v2, tag: int, *default: int) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, tuple) else (int(value),)


def _first(tags: ImageFileDirectory_v2, tag: int, default: int) -> int:
    return int((_all(tags, tag) or (default,))[0])


def _padded(height: int, width: int, tile_height: int, tile_width: int) -> int:
    if tile_height < 1 or tile_width < 1:
        return height * width
    return -(-height // tile_height) * tile_height * -(-width // tile_width) * tile_width


def _check_form(form: TiffForm) -> TiffForm:
    """Raise a ValueError if its values say no brightness."""
    is_plain = form.photometric in (_BLACK_IS_ZERO, _RGB)
    if form.sample_format == _FLOAT:
        raise ValueError("floating-point pixels; save it as 8 or 16 bit")
    if form.sample_format not in (_UNSIGNED, _SIGNED, _UNSTATED):
        raise ValueError("complex values, which are not pixel values; save it as 8 or 16 bit")
    if form.sample_format == _SIGNED and (form.bits <= 8 or not is_plain):
        raise ValueError(f"signed {form.bits}-bit values, whose white level is unknown; save it as unsigned")
    if (form.bits > 16 and not is_plain) or (form.bits != 8 and form.photometric in (_YCBCR, _LAB)):
        raise ValueError(f"colours or inverted gray of {form.bits} bits; save it as 8 or 16 bit")
    return form


@without_pillow_warnings
def read_tiff(file: IO[bytes], channels: int, room: int) -> tuple[Pixels, int] | None:
    """Return (pixels [H, W, channels], orientation) of a TIFF's first image; None if Pillow reads it as it is.

    Several pages of one channel are the channels of an image, where that number of channels is asked for.

    Args:
        room: bytes of memory that it may take.
    Raises:
        ValueError: of other channels, too large, or values that say no brightness.
        ImportError: tifffile is missing.
        Exception: nearly any, of Pillow's or tifffile's, if the file is damaged.
    """
    form = read_tiff_form(file)
    check_size((*form.size, form.samples))
    check_room(form.padded * form.samples * -(-form.bits // 8), room)
    decoder = _decoder(file, form, channels)
    if decoder == "pillow":
        return None
    check_room(math.prod(form.size) * (4 + 3 * form.samples * (2 if form.bits > 8 else 1)), room)
    if decoder == "tifffile":
        return _by_tifffile(file, form, channels)
    # Pillow turns it upright
    return _pixels(_values(file) if decoder == "values" else read_16_bits(file, _mode(form)), form, channels), 1


def _mode(form: TiffForm) -> str:
    return "CMYK" if form.photometric == _CMYK else "RGB" if form.samples == 3 else "RGBA"


def _decoder(file: IO[bytes], form: TiffForm, channels: int) -> _Decoder:
    """Return the decoder that loses nothing of the samples, or raise a ValueError for other numbers of channels."""
    if channels not in CHANNEL_NAMES:
        if form.samples != channels and (form.samples > 1 or _num_pages(file, channels + 1) != channels):
            as_channels(np.empty((1, 1, form.samples), np.uint8), channels)
        return "tifffile"
    decoder = _preferred_decoder(form, channels)
    return decoder if decoder == "tifffile" or _opens_in_pillow(file) else "tifffile"


def _preferred_decoder(form: TiffForm, channels: int) -> _Decoder:
    """Return the decoder, if Pillow opens the file."""
    is_signed = form.sample_format == _SIGNED
    if form.samples == 1:
        if form.bits <= 8 or form.bits > 16 or is_signed or (form.photometric, form.bits) == (_BLACK_IS_ZERO, 16):
            return "pillow"
        return "tifffile" if form.photometric == _PALETTE else "values"
    is_planar = form.planar == _SEPARATE
    if is_signed or len(form.extras) > 1 or (is_planar and form.extras):
        return "tifffile"
    if form.bits == 16 and form.samples in (3, 4) and not is_planar:
        return "both bytes"
    keeps_fourth = channels == 4 and form.photometric == _RGB and form.extras == (_UNEXPLAINED,)
    return "pillow" if form.bits == 8 and not keeps_fourth else "tifffile"


def _num_pages(file: IO[bytes], most: int) -> int:
    tags, count = _tags(file), 1
    while tags.next and count < most:
        tags, count = _tags(file, tags.next), count + 1
    return count


def _opens_in_pillow(file: IO[bytes]) -> bool:
    try:
        with Image.open(file, formats=["TIFF"]):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # Pillow will say again what is wrong with it
        return True
    finally:
        file.seek(0)


def _values(file: IO[bytes]) -> NDArray[Any]:
    with Image.open(file, formats=["TIFF"]) as image:
        image.load()
        return as_pixels(np.asarray(image))[..., None]


def _by_tifffile(file: IO[bytes], form: TiffForm, channels: int) -> tuple[Pixels, int]:
    if not _HAS_TIFFFILE:
        raise ImportError("a TIFF that needs tifffile; pip install 'paddlemae[tiff]'")
    if form.photometric in (_YCBCR, _LAB):
        raise ValueError("YCbCr or CIELab in a form that is not read; save it as RGB")
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        orientation = int(page.tags.valueof("Orientation", 1))
        if form.samples == 1 and channels not in CHANNEL_NAMES:
            check_size((*form.size, channels))
            pages = [tiff.pages[number] for number in range(channels)]
            if {(each.shape, each.dtype) for each in pages} != {(page.shape, page.dtype)}:
                raise ValueError("pages of different sizes, which can't be channels of an image")
            values = np.stack([each.asarray() for each in pages], axis=-1)
        else:
            values = page.asarray()
            if values.ndim == 3 and page.axes.startswith("S"):  # plane after plane
                values = np.moveaxis(values, 0, -1)
            values = values[..., None] if values.ndim == 2 else values
        if values.ndim != 3:
            raise ValueError(f"a TIFF of shape {values.shape}; expected [H, W] or [H, W, C]")
        if form.photometric == _PALETTE:
            colours = np.asarray(page.colormap).T >> 8
            values, form = colours[values[..., 0]].astype(np.uint8), replace(form, photometric=_RGB, bits=8)
    return _pixels(values, form, channels), orientation


def _pixels(samples_HWS: NDArray[Any], form: TiffForm, channels: int) -> Pixels:
    """Make pixels of samples as the TIFF's form says."""
    is_signed = form.sample_format == _SIGNED
    pixels = as_pixels(samples_HWS) if is_signed or form.bits > 16 else scale_to_full(samples_HWS, form.bits)
    if form.photometric == _WHITE_IS_ZERO:
        count = pixels.shape[2] - sum(kind != _UNEXPLAINED for kind in form.extras)
        pixels = np.concatenate([largest_value(pixels) - pixels[..., :count], pixels[..., count:]], axis=2)
    if channels not in CHANNEL_NAMES:
        return as_channels(pixels, channels)
    extras, colours = form.extras, _COLOURS[form.photometric]
    if form.photometric == _CMYK:
        pixels, colours = np.concatenate([rgb_of_cmyk(pixels[..., :4]), pixels[..., 4:]], axis=2), 3
    if extras == (_UNEXPLAINED,) and channels != 4:
        pixels, extras = pixels[..., :colours], ()
    has_alpha = len(extras) == 1 and extras[0] != _UNEXPLAINED
    return (
        apply_alpha(pixels, channels, associated=extras == (_ASSOCIATED,))
        if has_alpha
        else as_channels(pixels, channels)
    )
