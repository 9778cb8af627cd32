"""Random erasing: a rectangle of an image replaced by noise.

Zhong et al., arXiv 1708.04896, as MAE's fine-tuning does it (appendix A.2): one rectangle, a normal number for each
pixel and channel, put into images that are normalised already.

Shapes: C channels, H x W pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.views.augment import draw_sides
from paddlemae.data.views.mixup import Region


@dataclass(frozen=True)
class Erasing:
    """Settings of the erased rectangles.

    Args:
        probability: of an image losing one.
        area: smallest and largest part of the image.
        ratio: smallest and largest height / width.
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)


def draw_erasing(
    settings: Erasing, channels: int, height: int, width: int, rng: np.random.Generator
) -> tuple[Region, NDArray[np.float32]] | None:
    """Draw a rectangle and its noise [C, height, width]; None for an image that stays whole."""
    if rng.random() >= settings.probability:
        return None
    for h, w in draw_sides(height * width, settings.area, settings.ratio, rng):
        if 0 < h < height and 0 < w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return (top, top + h, left, left + w), rng.standard_normal((channels, h, w), np.float32)
    return None
