"""Read the values that a mask's file stores: class ids or colours, never resampled, never converted.

Shapes: H height, W width.
"""

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paddlemae.data.decode.images import UnreadableImage, read_content
from paddlemae.data.decode.limits import MAX_IMAGE_BYTES, check_room
from paddlemae.data.decode.multichannel import ARRAY_START, read_array
from paddlemae.data.decode.orientation import read_orientation, turn_upright
from paddlemae.data.decode.pillow import open_with_pillow
from paddlemae.data.decode.tiff import TIFF_STARTS, read_nodata
from paddlemae.data.disk.retry import retry_read
from paddlemae.data.sources.source import BadMask

EXTENSIONS = (".bmp", ".gif", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp", ".npy")
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_COLOUR_MODES = ("RGB", "RGBA", "PA", "LA")
_WEBP_LOSSLESS = b"VP8L"


@dataclass(frozen=True, eq=False)
class StoredMask:
    """The pixels of a mask as its file stores them.

    Args:
        values: bool, uint8, uint16 or int32 [H, W] of class ids; or uint8 [H, W, 3] of colours.
        palette: uint8 [colours, 3] of a palette image; None without one.
        nodata: the value that the file itself names for "no data"; None without one.
    """

    values: NDArray[Any]
    palette: NDArray[np.uint8] | None = None
    nodata: int | None = None

    @property
    def is_colour(self) -> bool:
        """Return whether colours are stored, not ids."""
        return self.values.ndim == 3


def read_mask_file(path: str, root: str) -> StoredMask:
    """Return what a mask's file stores.

    Args:
        root: the folder that is away when the masks are.
    Raises:
        BadMask: missing, damaged, or a kind of file that can't hold exact values.
    """
    try:
        content = retry_read(lambda: read_content(path), root)
    except UnreadableImage as fault:
        raise BadMask(f"cannot read mask {path!r}: {fault.reason}") from fault
    return decode_mask(content, path)


def decode_mask(content: bytes, name: str) -> StoredMask:
    """Return what the bytes of a mask's file store; `name` is for errors, which are as of `read_mask_file`."""
    try:
        if content.startswith(ARRAY_START):
            return as_stored(read_array(io.BytesIO(content), 1, MAX_IMAGE_BYTES))
        with open_with_pillow(io.BytesIO(content)) as image:
            return _decode_with_pillow(image, content)
    except Exception as fault:  # Pillow raises nearly anything on damaged bytes
        reason = " ".join(str(fault).split()) or type(fault).__name__
        raise BadMask(f"cannot read mask {name!r}: {reason[:200]}") from fault


def _decode_with_pillow(image: Image.Image, content: bytes) -> StoredMask:
    if image.format in ("JPEG", "MPO") or (image.format == "WEBP" and _WEBP_LOSSLESS not in content[:64]):
        raise ValueError(
            f"a {image.format} changes values at every edge, so its ids can't be trusted; export the masks again as PNG"
        )
    if image.mode not in (*_INDEX_MODES, *_COLOUR_MODES):
        raise ValueError(f"pixels of kind {image.mode}; expected class ids (gray or palette) or RGB colours, as PNG")
    check_room(math.prod(image.size) * 8, MAX_IMAGE_BYTES)
    image.load()
    palette = None
    if image.mode == "P" and image.palette is not None:
        palette = np.frombuffer(bytes(image.palette.tobytes()), np.uint8)
        palette = palette[: len(palette) // 3 * 3].reshape(-1, 3) if image.palette.mode == "RGB" else None
    values = np.asarray(image.convert("RGB") if image.mode in _COLOUR_MODES else image)
    nodata = read_nodata(io.BytesIO(content)) if content.startswith(TIFF_STARTS) else None
    if values.dtype.kind == "f":
        values = _whole_numbers(values, nodata)
    return StoredMask(turn_upright(values, read_orientation(image)), palette, nodata)


def _whole_numbers(values_HW: NDArray[Any], nodata: int | None) -> NDArray[np.int64]:
    """Return floating-point ids, as GIS programs write them, as integers; not a number becomes nodata."""
    is_nan = np.isnan(values_HW)
    values_HW = np.where(is_nan, np.nan if nodata is None else nodata, values_HW)
    if not np.isfinite(values_HW).all() or (values_HW != np.round(values_HW)).any():
        raise ValueError("floating-point values that are no whole numbers; save class ids as 8- or 16-bit integers")
    return values_HW.astype(np.int64)


def as_stored(values: NDArray[Any]) -> StoredMask:
    """Return an array as a mask: ids [H, W] or [H, W, 1], or uint8 colours [H, W, 3]; others are a ValueError."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.dtype.kind == "f" and values.ndim == 2:
        values = _whole_numbers(values, None)
    is_colour = values.ndim == 3 and values.shape[2] == 3 and values.dtype == np.uint8
    if not is_colour and (values.ndim != 2 or values.dtype.kind not in "biu"):
        raise ValueError(
            f"an array of shape {values.shape} and type {values.dtype}; expected class ids [H, W] (of a layer for "
            "each class take the argmax) or uint8 colours [H, W, 3]"
        )
    return StoredMask(values)
