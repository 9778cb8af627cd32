"""A random view as training makes it, in one call."""

from __future__ import annotations

import numpy as np

from paddlemae.data.decode.pixel_format import Pixels
from paddlemae.data.views.augment import Picture, View, draw_view, make_view


def train_view(image_HWC: Pixels, settings: View, rng: np.random.Generator) -> Pixels:
    """Make a random view: crop and resize, or shift; then perhaps flip. Returns [C, H, W] in the view's depth."""
    height, width = image_HWC.shape[:2]
    draw = draw_view(height, width, settings, rng)
    return np.ascontiguousarray(make_view(Picture(image_HWC, (height, width)), settings, draw))
