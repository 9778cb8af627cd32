"""Convert pixels to the number of channels and bits that a model takes.

Values are uint8 or uint16 as an image stores them; one depth becomes the other so that black stays black and white
white (x 257, or the high byte). Shapes: H height, W width, C channels.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]  # uint8 or uint16

# ITU-R 601-2 luma in 65536ths, rounded as Pillow does
_LUMA = np.array([19595, 38470, 7471], np.uint64)
_BLOCK = 1 << 20  # values that are converted at a time, in types that take several times their memory
CHANNEL_NAMES = {1: "gray", 3: "RGB", 4: "RGBA"}  # any other number of channels has no colours


def check_channels(channels: int) -> None:
    """Raise a ValueError for a number of channels that no image has."""
    if channels < 1:
        raise ValueError(f"images have 1 channel or more, not {channels}")


def default_bits(channels: int) -> Literal[8, 16]:
    """Return 8 for pictures, 16 for other bands, whose values (0 to 10,000 of a satellite's) 8 bits would lose."""
    return 8 if channels in CHANNEL_NAMES else 16


class HasDepth:
    """The depth of views, which have `channels` and, unless these decide, `bits`."""

    channels: int
    bits: Literal[8, 16] | None

    @property
    def depth(self) -> Literal[8, 16]:
        """Return the number of bits of a channel's value."""
        return self.bits or default_bits(self.channels)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Return the type of a view's values."""
        return np.uint8 if self.depth == 8 else np.uint16


def as_channels(pixels_HWC: Pixels, channels: int) -> Pixels:
    """Convert between gray, RGB and RGBA where nothing must be guessed; other numbers of channels are a ValueError."""
    stored = pixels_HWC.shape[2]
    if stored == channels:
        return pixels_HWC
    if stored == 1 and channels in (3, 4):
        pixels_HWC, stored = np.repeat(pixels_HWC, 3, axis=2), 3
    if stored == 3 and channels == 1:
        return convert_in_blocks(_luma, pixels_HWC)
    if stored == 3 and channels == 4:
        opaque = np.full_like(pixels_HWC[..., :1], largest_value(pixels_HWC))
        return np.concatenate([pixels_HWC, opaque], axis=2)
    if stored != channels:
        raise ValueError(f"{stored} channel{'s' * (stored != 1)}, expected {channels}")
    return pixels_HWC


def _luma(pixels_HW3: Pixels) -> Pixels:
    luma_HW = (pixels_HW3.astype(np.uint64) @ _LUMA + 0x8000) >> 16
    return luma_HW[..., None].astype(pixels_HW3.dtype)


def convert_in_blocks(convert: Callable[[Pixels], Pixels], pixels_HWC: Pixels) -> Pixels:
    """Return `convert(pixels_HWC)`, by blocks of rows where the image is large, to take little memory."""
    height = pixels_HWC.shape[0]
    rows = max(1, _BLOCK * height // max(1, pixels_HWC.size))
    if rows >= height:
        return convert(pixels_HWC)
    first = convert(pixels_HWC[:rows])
    converted = np.empty((height, *first.shape[1:]), first.dtype)
    converted[:rows] = first
    for top in range(rows, height, rows):
        converted[top : top + rows] = convert(pixels_HWC[top : top + rows])
    return converted


def apply_alpha(pixels_HWC: Pixels, channels: int, *, associated: bool = False) -> Pixels:
    """Return gray or colours with transparency, the last channel, as `channels` asks: on white, or as RGBA.

    With `associated` the colours are multiplied by the transparency already.
    """

    def convert(block: Pixels) -> Pixels:
        top = np.uint32(largest_value(block))
        colours, alpha = block[..., :-1].astype(np.uint32), block[..., -1:].astype(np.uint32)
        if channels == 4:
            if associated:
                colours = np.where(alpha == 0, colours, np.minimum((colours * top + alpha // 2) // alpha.clip(1), top))
            rgb = np.broadcast_to(colours, (*colours.shape[:2], 3))
            return np.concatenate([rgb, alpha], axis=2).astype(block.dtype)
        shown = colours if associated else (colours * alpha + top // 2) // top
        return np.minimum(shown + top - alpha, top).astype(block.dtype)

    return as_channels(convert_in_blocks(convert, pixels_HWC), channels)


def rgb_of_cmyk(pixels_HW4: Pixels) -> Pixels:
    """Return [H, W, 3] by the plain formula: full ink leaves nothing of its colour."""

    def convert(block: Pixels) -> Pixels:
        top = np.uint32(largest_value(block))
        paper = top - block[..., 3:].astype(np.uint32)
        return (paper - (block[..., :3] * paper + top // 2) // top).astype(block.dtype)

    return convert_in_blocks(convert, pixels_HW4)


def scale_to_full(values: NDArray[Any], bits: int) -> Pixels:
    """Return unsigned values of 1 to 16 bits as uint8 or, of more than 8 bits, uint16, their white as its white."""
    dtype, top = (np.uint8, 255) if bits <= 8 else (np.uint16, 65535)
    if bits in (8, 16):
        return values.astype(dtype, copy=False)
    largest = 2**bits - 1
    return convert_in_blocks(
        lambda block: ((block.astype(np.uint32) * top + largest // 2) // largest).astype(dtype), values
    )


def convert_depth(pixels: Pixels, bits: int) -> Pixels:
    """Return the pixels in 8 bits (uint8) or 16 (uint16)."""
    if pixels.dtype == np.uint16 and bits == 8:
        return (pixels >> 8).astype(np.uint8)
    if pixels.dtype == np.uint8 and bits == 16:
        return pixels.astype(np.uint16) * np.uint16(257)
    return pixels


def largest_value(pixels: Pixels) -> int:
    """Return the largest value of the pixels' depth: 255 or 65535."""
    return int(np.iinfo(pixels.dtype).max)


def as_pixels(values: NDArray[Any]) -> Pixels:
    """Return integers as uint8 if they are that, as uint16 if they fit; other values raise a ValueError."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "f":
        raise ValueError("floating-point pixels; save it as 8 or 16 bit")
    if values.dtype == np.int8:
        raise ValueError("signed 8-bit values, whose white level is unknown; save it as unsigned")
    if values.dtype.kind not in "iu":
        raise ValueError(f"values of type {values.dtype}, which are not pixel values; save it as 8 or 16 bit")
    if values.dtype in (np.uint8, np.uint16):
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError("integer pixels outside 0..65535; save it as 8 or 16 bit")
    return values.astype(np.uint16)


def as_HWC(values: NDArray[Any], channels: int) -> Pixels:
    """Return an image [H, W], [H, W, C] or, if only that fits, [C, H, W] as [H, W, C]; others are a ValueError."""
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not values.size:
        raise ValueError(f"an array of shape {values.shape}; expected [H, W], [H, W, C] or [C, H, W]")
    if is_channels_first(values.shape, channels):
        values = np.moveaxis(values, 0, -1)
    return as_pixels(values)


def is_channels_first(shape: tuple[int, ...], channels: int) -> bool:
    """Return whether an image's array is [C, H, W]: its last axis can't be the channels, and its first can."""
    first, last = shape[0], shape[-1]
    if channels in (first, last):
        return last != channels
    return last not in CHANNEL_NAMES and first in CHANNEL_NAMES
