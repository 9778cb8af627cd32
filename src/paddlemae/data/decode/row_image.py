"""Read an image row by row from the top, where it may be larger than the memory.

Images that fit are decoded whole, by the rules of `images`. Large ones, and TIFFs that say where on the earth they are
or which value means no data, are read by rasterio, the extra `[geo]`, as many rows at a time as are asked for.

Shapes: H x W pixels of the image, h rows, C channels.
"""

import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import UnreadableImage, has_ending
from paddlemae.data.decode.orientation import read_orientation
from paddlemae.data.decode.pillow import open_with_pillow
from paddlemae.data.decode.pixel_format import (
    CHANNEL_NAMES,
    Pixels,
    apply_alpha,
    as_channels,
    as_pixels,
    convert_depth,
    scale_to_full,
)
from paddlemae.data.decode.tiff import is_geotiff

LARGE_BYTES = 200_000_000  # of pixels; a larger image is read in rows, if rasterio is there
HAS_RASTERIO = importlib.util.find_spec("rasterio") is not None
_TIFF_ENDINGS = (".tif", ".tiff")
_CACHE_BYTES = 128_000_000  # of rasterio's decoded blocks

Valid = NDArray[np.bool_]  # [h, W], which pixels have data


@dataclass(frozen=True, eq=False)
class Place:
    """Where on the earth an image is, in rasterio's terms.

    Attributes:
        crs: coordinate reference system, None if it is not stated.
        transform: affine, from (column, row) of a pixel's corner to coordinates.
        gcps: ground control points and their CRS, of an image without a transform.
    """

    crs: Any
    transform: Any
    gcps: tuple[Any, Any] | None = None


@dataclass(frozen=True, eq=False)
class RowImage:
    """An image that is read from the top row to the bottom row.

    Attributes:
        size: (H, W).
        read: (top, bottom) -> (pixels [C, h, W] in the depth asked for, which of them have data; None: all). Raises an
            `UnreadableImage`.
        place: of a georeferenced image.
    """

    size: tuple[int, int]
    read: Callable[[int, int], tuple[Pixels, Valid | None]]
    place: Place | None = None


def whole_image(pixels_HWC: Pixels, bits: int) -> RowImage:
    """Return an image in memory as one that is read in rows."""
    pixels_CHW = convert_depth(pixels_HWC, bits).transpose(2, 0, 1)
    return RowImage(pixels_HWC.shape[:2], lambda top, bottom: (pixels_CHW[:, top:bottom], None))


def is_georeferenced(path: str) -> bool:
    """Return whether a file is a GeoTIFF, by its tags, without rasterio."""
    if not has_ending(path, _TIFF_ENDINGS):
        return False
    try:
        with open(path, "rb") as file:
            return is_geotiff(file)
    except Exception:  # Pillow raises nearly anything; reading the image says what is wrong
        return False


@contextlib.contextmanager
def open_in_rows(path: str, channels: int, bits: int) -> Iterator[RowImage | None]:
    """Open an image file with rasterio, if that is needed and can be done.

    Args:
        path: an image file.
        channels, bits: as a model takes its images.
    Yields:
        the image, open until the end of the block; None for one to be decoded whole.
    Raises:
        UnreadableImage: it has other bands than the model has channels, or values that are not pixels.
    """
    if not HAS_RASTERIO:
        yield None
        return
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    with contextlib.ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                dataset = stack.enter_context(rasterio.open(path))
        except RasterioError:  # no image of rasterio's
            yield None
            return
        if not _is_for_rows(dataset, path):
            yield None
            return
        yield RowImage((dataset.height, dataset.width), _reader(dataset, path, channels, bits), _place(dataset))


def _is_for_rows(dataset: Any, path: str) -> bool:
    from rasterio.enums import MaskFlags

    if has_ending(path, _TIFF_ENDINGS):
        has_nodata = any(MaskFlags.nodata in flags for flags in dataset.mask_flag_enums)
        return _place(dataset) is not None or has_nodata or _bytes_of(dataset) > LARGE_BYTES
    return _bytes_of(dataset) > LARGE_BYTES and _is_upright(path)


def _bytes_of(dataset: Any) -> int:
    return int(dataset.height) * int(dataset.width) * sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes)


def _is_upright(path: str) -> bool:
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of a large image: only its header is read
        try:
            with open_with_pillow(file) as image:
                return read_orientation(image) == 1
        except Exception:  # Pillow refuses sizes that may be meant to exhaust the memory, and rows do not
            return True


def _place(dataset: Any) -> Place | None:
    points, points_crs = dataset.gcps
    gcps = (points, points_crs) if points else None
    if dataset.crs is None and dataset.transform.is_identity and gcps is None:
        return None
    return Place(dataset.crs, dataset.transform, gcps)


def _reader(dataset: Any, path: str, channels: int, bits: int) -> Callable[[int, int], tuple[Pixels, Valid | None]]:
    from rasterio.enums import ColorInterp, MaskFlags
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    flags = {flag for band in dataset.mask_flag_enums for flag in band}
    is_masked = bool(flags & {MaskFlags.per_dataset, MaskFlags.alpha})
    kinds = dataset.colorinterp
    has_alpha = ColorInterp.alpha in kinds and channels in CHANNEL_NAMES
    has_unexplained = len(kinds) == 4 and kinds[0] == ColorInterp.red and kinds[3] == ColorInterp.undefined
    stored_bits = int(dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
    table = _colour_table(dataset) if kinds == (ColorInterp.palette,) else None

    def read(top: int, bottom: int) -> tuple[Pixels, Valid | None]:
        window = Window(0, top, dataset.width, bottom - top)
        try:
            values = dataset.read(window=window)
            valid = dataset.dataset_mask(window=window) > 0 if is_masked else _fill_nodata(values, dataset.nodatavals)
        except RasterioError as fault:
            raise UnreadableImage(path, " ".join(str(fault.__cause__ or fault).split())) from fault
        valid = None if valid is None or valid.all() else valid
        try:
            pixels_hWC = np.moveaxis(as_pixels(values), 0, -1)
            if stored_bits not in (8, 16, 32):
                pixels_hWC = scale_to_full(pixels_hWC, stored_bits)
            if table is not None:
                pixels_hWC = table[pixels_hWC[..., 0]]
            if has_unexplained and channels == 3:  # as `tiff` has it
                pixels_hWC = pixels_hWC[..., :3]
            convert = apply_alpha if has_alpha else as_channels
            pixels_hWC = convert(pixels_hWC, channels)
        except ValueError as fault:
            raise UnreadableImage(path, str(fault)) from fault
        return convert_depth(pixels_hWC, bits).transpose(2, 0, 1), valid

    return read


def _fill_nodata(values_ChW: NDArray[Any], nodata: tuple[float | None, ...]) -> Valid | None:
    """Set values that mean no data, often -9999 or NaN, to 0; return which pixels have data in any band."""
    if all(value is None for value in nodata):
        return None
    valid = np.zeros(values_ChW.shape[1:], np.bool_)
    for band_hW, value in zip(values_ChW, nodata):
        lacks = np.zeros_like(valid) if value is None else np.isnan(band_hW) if np.isnan(value) else band_hW == value
        band_hW[lacks] = 0
        valid |= ~lacks
    return valid


def _colour_table(dataset: Any) -> NDArray[np.uint8]:
    colours = dataset.colormap(1)
    table = np.zeros((65536, 3), np.uint8)
    for value, colour in colours.items():
        table[value] = colour[:3]
    return table
