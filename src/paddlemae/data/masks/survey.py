"""Look at masks: their sizes against the images', their values, and how often each class comes.

Shapes: N masks, K classes.
"""

import contextlib
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.decode.multichannel import ARRAY_START, read_array_header
from paddlemae.data.decode.orientation import read_orientation
from paddlemae.data.decode.pillow import open_with_pillow
from paddlemae.data.decode.pixel_format import is_channels_first
from paddlemae.data.decode.tiff import TIFF_STARTS, read_tiff_size
from paddlemae.data.sources.source import BadMask, Source
from paddlemae.data.workers import make_ahead


@dataclass(frozen=True, eq=False)
class MaskSurvey:
    """Counts of the pixels of masks.

    Args:
        pixels_NK: int64 [N, K + 1], pixels of each class, ignored ones last; zeros for a mask that can't be used.
        faults: number of an image -> why the mask can't be used.
    """

    pixels_NK: NDArray[np.int64]
    faults: dict[int, str] = field(default_factory=dict)

    @property
    def pixels(self) -> NDArray[np.int64]:
        """Return the pixels of each class in all masks: int64 [K]."""
        return self.pixels_NK[:, :-1].sum(axis=0)

    @property
    def images(self) -> NDArray[np.int64]:
        """Return how many masks have a pixel of each class: int64 [K]."""
        return (self.pixels_NK[:, :-1] > 0).sum(axis=0)

    @property
    def ignored_share(self) -> float:
        """Return the share of pixels that are ignored."""
        return float(self.pixels_NK[:, -1].sum() / max(1, self.pixels_NK.sum()))

    @property
    def all_ignored(self) -> list[int]:
        """Return the numbers of masks whose pixels are all ignored."""
        is_ignored = (self.pixels_NK[:, -1] > 0) & (self.pixels_NK[:, :-1].sum(axis=1) == 0)
        return np.flatnonzero(is_ignored).tolist()


def image_size(source: Source, i: int) -> tuple[int, int]:
    """Return (H, W) of an image as it is shown, without decoding it; raise an UnreadableImage."""
    stored = source.stored(i)
    if not isinstance(stored, bytes):
        return _size_of_array(stored.shape)
    try:
        if stored.startswith(ARRAY_START):
            return _size_of_array(read_array_header(io.BytesIO(stored))[0])
        if stored.startswith(TIFF_STARTS):
            return read_tiff_size(io.BytesIO(stored))
        with open_with_pillow(io.BytesIO(stored)) as image:
            (width, height), orientation = image.size, read_orientation(image)
            return (width, height) if orientation >= 5 else (height, width)
    except Exception as fault:  # Pillow raises nearly anything on damaged bytes
        raise UnreadableImage(source.describe(i), " ".join(str(fault).split())) from fault


def _size_of_array(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[1], shape[2]) if len(shape) == 3 and is_channels_first(shape, 3) else (shape[0], shape[1])


def survey_masks(source: Source, *, workers: int = 0, on_masks: Callable[[int], None] | None = None) -> MaskSurvey:
    """Read every mask and compare it with its image.

    Args:
        workers: processes that read; 0 reads here.
        on_masks: called with the number of masks seen so far.
    """
    looks = MaskSurvey(np.zeros((len(source), len(source.classes) + 1), np.int64))
    with contextlib.closing(make_ahead(functools.partial(_look, source), range(len(source)), workers)) as made:
        for i, found in enumerate(made):
            if isinstance(found, str):
                looks.faults[i] = found
            else:
                looks.pixels_NK[i] = found
            if on_masks:
                on_masks(i + 1)
    return looks


def _look(source: Source, i: int) -> NDArray[np.int64] | str:
    """Return the pixels of each class in a mask, ignored ones last, or why it can't be used."""
    count = len(source.classes) + 1
    try:
        mask = source.masks.read(i, image_size(source, i))
        return np.roll(np.bincount(mask.ravel() + 1, minlength=count), -1)
    except BadMask as fault:
        return str(fault)
    except UnreadableImage:  # images have checks of their own
        return np.zeros(count, np.int64)
