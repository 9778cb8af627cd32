"""Draw masks over images."""

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.sources.source import IGNORE, Mask

_STRENGTH = 0.5  # of the classes' colours over the image
_IGNORED = (255, 255, 255)


def draw_overlay(picture: NDArray[np.uint8], mask: Mask, palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture with the colours of the classes over it, uint8 [h, w, 3]; black ones leave it as it is.

    Args:
        picture: uint8 [h, w] or [h, w, 3], of any size.
        mask: int16 [H, W] of the whole image; ignored pixels become white.
        palette: uint8 [classes, 3].
    """
    rgb = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture
    rows, columns = (np.arange(side) * whole // side for side, whole in zip(rgb.shape[:2], mask.shape))
    small = mask[np.ix_(rows, columns)]
    colours = np.concatenate([palette, [_IGNORED]]).astype(np.float32)[small]
    strength = np.where(colours.any(axis=2, keepdims=True) | (small[..., None] == IGNORE), _STRENGTH, 0)
    return np.round(rgb * (1 - strength) + colours * strength).astype(np.uint8)
