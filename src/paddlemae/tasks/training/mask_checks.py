"""Check the masks of a segmentation before its first step, each with its image, and count their pixels."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import REDUCTIONS, Need, UnreadableImage
from paddlemae.data.sources import Source
from paddlemae.data.sources.splits import list_names, note
from paddlemae.data.workers import make_ahead, workers_for
from paddlemae.tasks.training.labelled_splits import LabelledSplits

Counts = NDArray[np.int64]
SEEN = Need(max(REDUCTIONS), 1)  # of an image whose size alone is asked for


@dataclass(frozen=True)
class PixelCounts:
    """The pixels of the masks of some images.

    Attributes:
        classes: int64 [K], of each class.
        images: int64 [K], images that have a pixel of each class.
        rarest: int64 [N], see `rarest_classes`.
        ignored: pixels that count nowhere.
        empty: images of which no pixel counts.
    """

    classes: Counts
    images: Counts
    rarest: Counts
    ignored: int
    empty: int


def check_masks(splits: LabelledSplits, channels: int, workers: int = 0) -> PixelCounts:
    """Read every mask once, and the size of its image.

    Args:
        channels: of the images as the model takes them.
        workers: processes that read; 0 chooses by the number of images.
    Returns:
        the counts of the training images.
    Raises:
        BadMask: the first mask that can't be used.
        ValueError: no pixel to train or test on counts, or all that do are of one class.
    """
    counts = {id(part): count_pixels(part, channels, workers) for part in splits.parts}
    train, classes = counts[id(splits.train)], splits.train.classes
    for part in splits.parts:
        if not counts[id(part)].classes.any():
            raise ValueError(
                f"every pixel of the {len(part)} masks of {part.name} is ignored, so none counts; check them"
            )
        if empty := counts[id(part)].empty:
            note(f"{empty} of {len(part)} masks of {part.name} are ignored as a whole and count nowhere")
    present = np.flatnonzero(train.classes)
    if len(present) < 2:
        raise ValueError(
            f"a segmenter needs two classes or more, and all counted pixels of {splits.train.name} are "
            f"{classes[present[0]]!r}; add images of another class, or give the rest of the pixels one"
        )
    for part, what in ((splits.train, "pixel to train on"), (splits.held_out, "pixel in the test part")):
        absent = np.flatnonzero(counts[id(part)].classes == 0).tolist()
        if absent:
            names = list_names([classes[number] for number in absent])
            note(f"{len(absent)} of {len(classes)} classes have no {what}: {names}")
    return train


def count_pixels(source: Source, channels: int, workers: int = 0) -> PixelCounts:
    """Count the pixels of each class; errors as of `check_masks`."""
    count = functools.partial(_count, source, channels)
    rows = np.stack(list(make_ahead(count, range(len(source)), workers or workers_for(len(source), None))))
    known = rows[:, :-1]
    empty = int((~known.any(axis=1)).sum())
    return PixelCounts(known.sum(axis=0), (known > 0).sum(axis=0), rarest_classes(known), int(rows[:, -1].sum()), empty)


def rarest_classes(pixels_NK: Counts) -> Counts:
    """Return of each image the class of its own that fewest images have, int64 [N].

    Args:
        pixels_NK: of each class; of an image without any the class that most images have is returned.
    """
    is_there_NK = pixels_NK > 0
    images_K = is_there_NK.sum(axis=0)
    rarest_N = np.where(is_there_NK, images_K, len(pixels_NK) + 1).argmin(axis=1)
    return np.where(is_there_NK.any(axis=1), rarest_N, images_K.argmax())


def _count(source: Source, channels: int, i: int) -> Counts:
    """Return the pixels of each class in mask i, ignored ones last: int64 [K + 1]."""
    sizes: list[tuple[int, int]] = []

    def need_of(height: int, width: int) -> Need:
        sizes.append((height, width))
        return SEEN

    with contextlib.suppress(UnreadableImage):  # training counts and lists these
        source.read_picture(i, channels, need_of)
    mask = source.masks.read(i, sizes[0] if sizes else None)
    return np.roll(np.bincount(mask.ravel().astype(np.int64) + 1, minlength=len(source.classes) + 1), -1)
