"""Change the colours of an image at random: gain, offset, and of three channels saturation and hue.

Each change is applied to half of the images. At strength 1 their limits are those of SSD's photometric distortion (Liu
et al., arXiv 1512.02325, sec. 2.2) as segmentation uses it: offset 1/8 of white, gain and saturation 1 +- 0.5, hue +-
36 degrees. All four are linear, so they are one product with a matrix.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.pixel_format import Pixels, largest_value

OFFSET, GAIN, SATURATION, HUE = 1 / 8, 0.5, 0.5, math.radians(36)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Photometric(NamedTuple):
    """The changes of one image: offset as a share of white, factors, and an angle in radians."""

    offset: float = 0.0
    gain: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


def draw_photometric(strength: float, rng: np.random.Generator) -> Photometric:
    """Draw the changes of an image; `strength` 0..1 scales their limits."""
    amounts = strength * rng.uniform(-1, 1, 4) * (rng.random(4) < 0.5)
    offset, gain, saturation, hue = (amounts * (OFFSET, GAIN, SATURATION, HUE)).tolist()
    return Photometric(offset, 1 + gain, 1 + saturation, hue)


def apply_photometric(image_HWC: Pixels, change: Photometric) -> Pixels:
    """Return the image with its colours changed; saturation and hue have no effect on other than three channels."""
    white, channels = largest_value(image_HWC), image_HWC.shape[2]
    mixed = image_HWC.astype(np.float32)
    if channels == 3:
        mixed = mixed @ (change.gain * _colour_matrix(change.saturation, change.hue)).T.astype(np.float32)
    else:
        mixed *= np.float32(change.gain)
    mixed += np.float32(change.offset * white)
    return np.clip(np.rint(mixed, out=mixed), 0, white, out=mixed).astype(image_HWC.dtype)


def _colour_matrix(saturation: float, hue: float) -> NDArray[np.float64]:
    """Return the matrix of a turn around the grey axis, then of a move from or towards grey; grey stays as it is."""
    cos, sin = math.cos(hue), math.sin(hue) / math.sqrt(3)
    side = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    turn = cos * np.eye(3) + (1 - cos) / 3 * np.ones((3, 3)) + sin * side
    grey = np.tile(LUMA, (3, 1))
    result: NDArray[np.float64] = (grey + saturation * (np.eye(3) - grey)) @ turn
    return result
