"""Show pixels of 16 bits in 8: one rule for figures, reports, searches and `data check`.

Few images use all of 16 bits, so each channel of a picture is stretched: its 1st percentile becomes black, its 99th
white. The same image looks the same wherever it is shown, except for what a crop leaves out; brightness can't be
compared between images. Pixels of 8 bits are shown as they are.

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
FULL: Range = (0.0, 1.0)


def stretched_range(shares_HWC: NDArray[Any]) -> Range:
    """Return the range that is shown of each picture and channel, [..., 1, 1, C] twice."""
    black, white = np.percentile(shares_HWC, PERCENTILES, axis=(-3, -2), keepdims=True)
    return black, np.maximum(white, black + 1 / WHITE)


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
