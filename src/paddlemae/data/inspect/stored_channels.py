"""Find out how many channels images should be read with, from how they are stored."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

from numpy.typing import NDArray

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.decode.multichannel import ARRAY_START, read_array_header
from paddlemae.data.decode.pixel_format import CHANNEL_NAMES
from paddlemae.data.decode.stored_format import read_form
from paddlemae.data.decode.tiff import TIFF_STARTS, read_tiff_form
from paddlemae.data.sources import Source

_MOST_COLOURS = 4  # samples of a TIFF of colours and transparency


def read_forms(source: Source, numbers: list[int]) -> tuple[int, int, Counter[str]]:
    """Return (channels, bits, form -> number of images) of some images; those that can't be read are passed over.

    Gray among colours is read as colours. Of several numbers of bands the commonest is taken.
    """
    forms, bands, bits = Counter[str](), Counter[int](), 8
    for i in numbers:
        try:
            stored = source.stored(i)
            count = channels_of(stored)
            colours, depth = read_form(stored, count)
        except (UnreadableImage, ValueError, OSError, SyntaxError, EOFError):  # reading it will say what is wrong
            continue
        forms[f"{colours} of {depth} bits"] += 1
        bands[count] += 1
        bits = max(bits, 16 if depth > 8 else 8)
    if not bands:
        return 3, 8, forms
    colourful = max((count for count in bands if count in (1, 3)), default=0)
    commonest = bands.most_common(1)[0][0]
    return colourful if commonest in (1, 3) else commonest, bits, forms


def channels_of(stored: bytes | NDArray[Any]) -> int:
    """Return the channels to read an image with, from what `Source.stored` gives; transparency of a file is none."""
    if not isinstance(stored, bytes):
        return _channels_of_shape(stored.shape)
    if stored.startswith(ARRAY_START):
        return _channels_of_shape(read_array_header(io.BytesIO(stored))[0])
    if stored.startswith(TIFF_STARTS):
        form = read_tiff_form(io.BytesIO(stored))
        if form.is_palette:
            return 3
        colours = form.samples - len(form.extras)
        return form.samples if form.samples > _MOST_COLOURS else (1 if colours == 1 else 3)
    return 1 if read_form(stored, 3)[0].startswith("gray") else 3


def _channels_of_shape(shape: tuple[int, ...]) -> int:
    """Return the channels of an array [H, W], [H, W, C] or [C, H, W]: the shorter one of the axes that it may be."""
    if len(shape) != 3:
        return 1
    first, last = shape[0], shape[-1]
    if last in CHANNEL_NAMES or first in CHANNEL_NAMES:
        return last if last in CHANNEL_NAMES else first
    return min(first, last)
