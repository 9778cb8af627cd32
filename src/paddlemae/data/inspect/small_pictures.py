"""Read a whole image as a small picture for a contact sheet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.display import as_displayed
from paddlemae.data.inspect.survey import decode_stored
from paddlemae.data.sources import Source


def small_picture(source: Source, i: int, channels: int, enough: int) -> NDArray[np.uint8]:
    """Return an image as uint8 gray [H, W] or RGB [H, W, 3]; of other numbers of channels the first.

    Args:
        channels: as images are read for a model.
        enough: pixels of the short side; a JPEG is decoded no larger where that saves time.
    Raises:
        UnreadableImage: as `Source.read`.
    """
    picture = decode_stored(source.stored(i), source.describe(i), channels, enough, source.room(i))
    pixels = as_displayed(picture.pixels_hwC)
    return np.ascontiguousarray(pixels[..., :3] if pixels.shape[2] in (3, 4) else pixels[..., 0])
