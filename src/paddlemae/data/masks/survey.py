"""Look at masks before a training does: their sizes against the images', their values, and how often each class comes.

Shapes: N masks that were looked at, K classes.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.decode.multichannel import ARRAY_START, read_array_header
from paddlemae.data.decode.orientation import read_orientation
from paddlemae.data.decode.pillow import open_with_pillow
from paddlemae.data.decode.pixel_format import is_channels_first
from paddlemae.data.sources.source import BadMask, Source, add_stamps
from paddlemae.data.sources.splits import list_names, note
from paddlemae.data.sources.subsets import spread_over

MOST_CHECKED = 5000  # masks that a training looks at before its first step


@dataclass(frozen=True, eq=False)
class MaskSurvey:
    """What masks hold.

    Args:
        indices: int64 [N], which images of the source.
        pixels_NK: int64 [N, K + 1], pixels of each class, ignored ones last; zeros for a mask that can't be used.
        faults: number in the source -> why the mask can't be used.
    """

    indices: NDArray[np.int64]
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
        """Return the numbers, in the source, of masks whose pixels are all ignored."""
        is_ignored = (self.pixels_NK[:, -1] > 0) & (self.pixels_NK[:, :-1].sum(axis=1) == 0)
        return self.indices[is_ignored].tolist()


def image_size(source: Source, i: int) -> tuple[int, int]:
    """Return (H, W) of an image as it is shown, without decoding it; raise an UnreadableImage."""
    stored = source.stored(i)
    if not isinstance(stored, bytes):
        return _size_of_array(stored.shape)
    try:
        if stored.startswith(ARRAY_START):
            return _size_of_array(read_array_header(io.BytesIO(stored))[0])
        with open_with_pillow(io.BytesIO(stored)) as image:
            (width, height), orientation = image.size, read_orientation(image)
            return (width, height) if orientation >= 5 else (height, width)
    except Exception as fault:  # Pillow raises nearly anything on damaged bytes
        raise UnreadableImage(source.describe(i), " ".join(str(fault).split())) from fault


def _size_of_array(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[1], shape[2]) if len(shape) == 3 and is_channels_first(shape, 3) else (shape[0], shape[1])


def survey_masks(
    source: Source, indices: Sequence[int] | None = None, on_masks: Callable[[int], None] | None = None
) -> MaskSurvey:
    """Read masks and compare them with their images.

    Args:
        indices: numbers of the images to look at; None for all.
        on_masks: called with the number of masks seen so far.
    """
    chosen = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
    looks = MaskSurvey(chosen, np.zeros((len(chosen), len(source.classes) + 1), np.int64))
    for place, i in enumerate(chosen.tolist()):
        try:
            mask = source.masks.read(i, image_size(source, i))
            looks.pixels_NK[place] = np.roll(np.bincount(mask.ravel() + 1, minlength=len(source.classes) + 1), -1)
        except BadMask as fault:
            looks.faults[i] = str(fault)
        except UnreadableImage:  # images have checks of their own
            pass
        if on_masks:
            on_masks(place + 1)
    return looks


_checked: dict[str, MaskSurvey] = {}  # by the stamps of images and masks: a study opens the same source again and again


def check_masks(source: Source, most: int = MOST_CHECKED) -> MaskSurvey:
    """Look at the masks of a source that will be trained or evaluated on, and return what they hold.

    Masks whose pixels are all ignored, and classes without a pixel, are noted.

    Args:
        most: masks to look at, evenly spaced over the source; the others are checked as they are read.
    Raises:
        BadMask: the first mask that can't be used, with its file and value.
    """
    key = _digest(source, most)
    if key not in _checked:
        _checked[key] = survey_masks(source, spread_over(len(source), most).tolist())
    looks = _checked[key]
    if looks.faults:
        first, more = next(iter(looks.faults.values())), len(looks.faults) - 1
        raise BadMask(f"{first} ({more:,} more masks can't be used)" if more else first)
    if ignored := looks.all_ignored:
        names = list_names([source.masks.describe(i) for i in ignored[:3]])
        note(f"{source.name}: {len(ignored):,} masks have ignored pixels only, and teach nothing: {names}")
    if len(looks.indices) == len(source) and not looks.images.all():
        absent = [name for name, count in zip(source.classes, looks.images.tolist()) if not count]
        note(f"{source.name}: no mask has a pixel of {list_names(absent)}")
    return looks


def _digest(source: Source, most: int) -> str:
    digest = hashlib.sha256(repr((most, source.classes)).encode("utf-8", "surrogateescape"))
    add_stamps(digest, source)
    for i in range(len(source)):
        digest.update(source.masks.reader.stamp(i).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
