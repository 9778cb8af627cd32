"""Show pixels of 16 bits in 8: one rule for figures, reports, searches and `data check`.

Few images use all of 16 bits, so each channel of a picture is stretched: its 1st percentile becomes black, its 99th
white. The same image looks the same wherever it is shown, except for what a crop leaves out; brightness can't be
compared between images. Pixels of 8 bits are shown as they are, but for reconstructions of dark images.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.pixel_format import Pixels

PERCENTILES = (1, 99)
WHITE = 65535
Range = tuple[Any, Any]  # what becomes black and white, as shares of the largest value of the depth
DARK = 0.5  # of white
FULL: Range = (0.0, 1.0)


def stretched_range(shares_HWC: NDArray[Any]) -> Range:
    """Return the range that is shown of each picture and channel, [..., 1, 1, C] twice."""
    black, white = np.percentile(shares_HWC, PERCENTILES, axis=(-3, -2), keepdims=True)
    return black, np.maximum(white, black + 1 / WHITE)


def brightened_range(shares_HWC: NDArray[Any]) -> Range:
    """Return the range in which a dark picture of 8 bits is shown, [..., 1, 1, 1] twice, its colours kept.

    A picture is dark if all but a thousandth of its values are below `DARK`; others are shown in full.
    """
    white = np.percentile(shares_HWC, 99.9, axis=(-3, -2, -1), keepdims=True)
    return np.zeros_like(white), np.where(white < DARK, np.maximum(white, 1 / 255), 1.0)


def show_range(shares_HWC: NDArray[Any], shown: Range) -> NDArray[np.uint8]:
    """Return uint8 pictures of the same shape; what is out of range is clipped."""
    black, white = shown
    return np.clip((shares_HWC - black) / (white - black) * 255 + 0.5, 0, 255).astype(np.uint8)


def as_displayed(pixels_HWC: Pixels) -> NDArray[np.uint8]:
    """Return pictures [..., H, W, C] in 8 bits, by the rule of this module."""
    if pixels_HWC.dtype == np.uint8:
        return pixels_HWC
    shares_HWC = pixels_HWC / np.float32(WHITE)
    return show_range(shares_HWC, stretched_range(shares_HWC))
