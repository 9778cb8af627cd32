"""Encode a mask as a PNG of class indices, for a pack."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paddlemae.data.masks.palette import VOC_COLOURS
from paddlemae.data.sources.source import IGNORE, Mask

IGNORED_8_BITS, IGNORED_16_BITS = 255, 65535


def encode_mask(mask: Mask, size: tuple[int, int], palette: NDArray[np.uint8]) -> bytes:
    """Return a PNG with the index of each pixel's class.

    It has a palette and 255 for ignored pixels, or with more than 255 classes 16 bits and 65535 for them.

    Args:
        mask: int16 [H, W].
        size: (h, w) of the PNG: each of its pixels is the one of the mask nearest to its centre.
        palette: uint8 [classes, 3].
    """
    rows, columns = (((np.arange(to) + 0.5) * whole / to).astype(np.int64) for to, whole in zip(size, mask.shape))
    small = mask if mask.shape == size else mask[np.ix_(rows, columns)]
    file = io.BytesIO()
    if len(palette) > IGNORED_8_BITS:
        Image.fromarray(np.where(small == IGNORE, IGNORED_16_BITS, small).astype(np.uint16)).save(file, "PNG")
        return file.getvalue()
    picture = Image.fromarray(np.where(small == IGNORE, IGNORED_8_BITS, small).astype(np.uint8))
    colours = VOC_COLOURS.copy()
    colours[: len(palette)] = palette
    picture.putpalette(colours.tobytes())
    picture.save(file, "PNG")
    return file.getvalue()
