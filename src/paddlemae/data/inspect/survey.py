"""Survey every image of a source: its size, whether it can be read, and a digest and thumbnail to find duplicates.

About 300 bytes are kept of an image: of a million 0.3 GB.

Shapes: N images; H height, W width, C channels; P values of a thumbnail, which has 16 x 18 in gray.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paddlemae.data.decode.images import Need, Picture, UnreadableImage, decode_picture
from paddlemae.data.decode.pixel_format import Pixels, as_channels, as_HWC
from paddlemae.data.decode.stored_format import StoredForm, read_form
from paddlemae.data.sources import Source
from paddlemae.data.views.augment import choose_reduction
from paddlemae.data.workers import make_ahead

ROWS, COLUMNS = 16, 18  # of a thumbnail
SHALLOW = 16  # values of the high byte; 16-bit images below it have 12 bits or fewer, of which 8 bits would keep 4

_CHUNK = 64  # images that a worker looks at before it answers
ENOUGH = 64  # pixels of the short side that a thumbnail needs; JPEGs are decoded no larger where that saves time


@dataclass(frozen=True, eq=False)
class Survey:
    """Digests, thumbnails, sizes and forms of N images.

    Args:
        digests_N2: uint64: of the bytes of the file, or of an array's values.
        thumbnails_NP: uint8 [N, 288].
        sizes_N2: int32: H and W, upright; zeros where an image can't be read.
        shallow_N: of images of 16 bits whether the high byte is below `SHALLOW` everywhere.
        forms: how many are stored in each form.
        faults: of those that can't be read the reasons.
    """

    digests_N2: NDArray[np.uint64]
    thumbnails_NP: NDArray[np.uint8]
    sizes_N2: NDArray[np.int32]
    shallow_N: NDArray[np.bool_]
    forms: Counter[StoredForm] = field(default_factory=Counter)
    faults: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, count: int) -> Survey:
        """Return an empty survey of `count` images."""
        return cls(
            np.zeros((count, 2), np.uint64),
            np.zeros((count, ROWS * COLUMNS), np.uint8),
            np.zeros((count, 2), np.int32),
            np.zeros(count, np.bool_),
        )

    @property
    def readable_N(self) -> NDArray[np.bool_]:
        return self.sizes_N2[:, 0] > 0

    def _take(self, start: int, chunk: Survey) -> None:
        rows = slice(start, start + len(chunk.sizes_N2))
        self.digests_N2[rows], self.thumbnails_NP[rows] = chunk.digests_N2, chunk.thumbnails_NP
        self.sizes_N2[rows], self.shallow_N[rows] = chunk.sizes_N2, chunk.shallow_N
        self.forms.update(chunk.forms)
        self.faults.update({start + i: reason for i, reason in chunk.faults.items()})


def survey_sources(
    sources: Sequence[Source], channels: int, *, workers: int = 0, on_images: Callable[[int], None] | None = None
) -> Survey:
    """Look at every image of the sources, one source behind the other.

    Args:
        channels: as images are read for a model.
        workers: processes that decode; 0 decodes here. Each holds one image at a time.
        on_images: called with the number of images seen so far.
    """
    looks = Survey.of(sum(map(len, sources)))
    due = (
        (number, range(start, min(start + _CHUNK, len(source))))
        for number, source in enumerate(sources)
        for start in range(0, len(source), _CHUNK)
    )
    seen = 0
    with contextlib.closing(make_ahead(functools.partial(_survey_chunk, sources, channels), due, workers)) as chunks:
        for chunk in chunks:
            looks._take(seen, chunk)
            seen += len(chunk.sizes_N2)
            if on_images:
                on_images(seen)
    return looks


def _survey_chunk(sources: Sequence[Source], channels: int, due: tuple[int, range]) -> Survey:
    number, numbers = due
    looks = Survey.of(len(numbers))
    for place, i in enumerate(numbers):
        try:
            _survey_image(sources[number], i, channels, looks, place)
        except UnreadableImage as fault:
            looks.faults[place] = fault.reason
    return looks


def _survey_image(source: Source, i: int, channels: int, looks: Survey, place: int) -> None:
    stored = source.stored(i)
    picture = decode_stored(stored, source.describe(i), channels, ENOUGH, source.room(i))
    form = read_form(stored, channels)
    high = picture.pixels_hwC >> 8 if picture.pixels_hwC.dtype == np.uint16 else picture.pixels_hwC
    content = stored if isinstance(stored, bytes) else f"{stored.shape} {stored.dtype}".encode() + stored.tobytes()
    digest = hashlib.blake2b(content, digest_size=16)
    looks.digests_N2[place] = np.frombuffer(digest.digest(), np.uint64)
    looks.thumbnails_NP[place] = make_thumbnail(picture.pixels_hwC).ravel()
    looks.sizes_N2[place] = picture.size
    looks.shallow_N[place] = form[1] == 16 and high.max() < SHALLOW
    looks.forms[form] += 1


def decode_stored(stored: bytes | NDArray[Any], name: str, channels: int, enough: int, room: int) -> Picture:
    """Decode what `Source.stored` returned, no larger than a short side of `enough` pixels requires.

    Raise an UnreadableImage as `Source.read` does. `room` is that of `Source.room`.
    """
    if isinstance(stored, bytes):

        def need_of(height: int, width: int) -> Need:
            return Need(choose_reduction(min(height, width) / enough))

        return decode_picture(stored, name, channels, need_of, room)
    try:
        pixels_HWC = as_channels(as_HWC(stored, channels), channels)
    except ValueError as fault:
        raise UnreadableImage(name, str(fault)) from fault
    return Picture(pixels_HWC, pixels_HWC.shape[:2])


def make_thumbnail(pixels_HWC: Pixels) -> NDArray[np.uint8]:
    """Return gray area means, uint8 [16, 18]; 16 bits are scaled from the darkest to the brightest mean."""
    if pixels_HWC.dtype == np.uint8 and pixels_HWC.shape[2] in (1, 3, 4):
        gray = Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[2] == 1 else pixels_HWC[..., :3]).convert("L")
        return np.asarray(gray.resize((COLUMNS, ROWS), Image.Resampling.BOX))
    gray = Image.fromarray(pixels_HWC.mean(axis=2, dtype=np.float32))
    small = np.asarray(gray.resize((COLUMNS, ROWS), Image.Resampling.BOX))
    if pixels_HWC.dtype == np.uint16:
        small = 255 * (small - small.min()) / max(float(np.ptp(small)), 1.0)
    return np.round(small).astype(np.uint8)
