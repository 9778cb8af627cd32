"""Colours for classes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def _voc_colours() -> NDArray[np.uint8]:
    """Return the colours of PASCAL VOC's palette, uint8 [256, 3]: bits of the class spread over red, green and blue."""
    numbers, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(3):
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


VOC_COLOURS = _voc_colours()  # uint8 [256, 3]
# Okabe and Ito's colours, distinct to colour-blind readers, behind black: few classes look best in these.
_FEW = np.array(
    [[0, 0, 0], [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0]]
    + [[204, 121, 167]],
    np.uint8,
)


def default_palette(count: int) -> NDArray[np.uint8]:
    """Return a colour for each class, uint8 [count, 3]; the first is black."""
    if count <= len(_FEW):
        return _FEW[:count].copy()
    return VOC_COLOURS[np.arange(count) % 256]


def palette_of(colours: Sequence[tuple[int, int, int] | None]) -> NDArray[np.uint8]:
    """Return the colours, uint8 [classes, 3], those that are missing from the default palette."""
    palette = default_palette(len(colours))
    for number, colour in enumerate(colours):
        if colour is not None:
            palette[number] = colour
    return palette
