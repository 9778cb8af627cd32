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
_BACKGROUND = ("background", "0", "_background_", "other")  # names of a first class that is shown black
# Okabe and Ito's colours, distinct to colour-blind readers.
_FEW = np.array(
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]],
    np.uint8,
)
# Twenty that others tell apart.
_MORE = np.array(
    [
        *([230, 25, 75], [60, 180, 75], [255, 225, 25], [0, 130, 200], [245, 130, 48], [145, 30, 180], [70, 240, 240]),
        *([240, 50, 230], [210, 245, 60], [250, 190, 212], [0, 128, 128], [220, 190, 255], [170, 110, 40]),
        *([255, 250, 200], [128, 0, 0], [170, 255, 195], [128, 128, 0], [255, 215, 180], [0, 0, 128], [128, 128, 128]),
    ],
    np.uint8,
)


def default_palette(classes: Sequence[str]) -> NDArray[np.uint8]:
    """Return a colour for each class, uint8 [classes, 3]; a first one that is the background is black."""
    has_background = bool(classes) and classes[0].lower() in _BACKGROUND
    count = len(classes) - has_background
    colours = next((each for each in (_FEW, _MORE) if count <= len(each)), VOC_COLOURS[1:])
    chosen = colours[np.arange(count) % len(colours)]
    return np.concatenate([np.zeros((1, 3), np.uint8), chosen]) if has_background else chosen


def palette_of(classes: Sequence[str], colours: Sequence[tuple[int, int, int] | None]) -> NDArray[np.uint8]:
    """Return the colours, uint8 [classes, 3], those that are missing from the default palette."""
    palette = default_palette(classes)
    for number, colour in enumerate(colours):
        if colour is not None:
            palette[number] = colour
    return palette
