"""Compute the mean and standard deviation of each channel in one pass over a source.

Every image weighs the same, whatever its size, as it does in training. Sums are never formed: means and squared
deviations of parts are merged (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
sample variances"), in float64 and in the source's order, so neither size nor workers change the result.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.batches import OnSkip
from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.decode.pixel_format import CHANNEL_NAMES, Pixels, convert_depth, default_bits, largest_value
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import Source
from paddlemae.data.workers import make_ahead

_CHUNK = 64  # images that a worker looks at before it answers
_BLOCK = 1 << 18  # pixels that are made floats at a time


@dataclass(frozen=True, eq=False)
class Moments:
    """Of values of each channel: their weight, mean, sum of squared deviations, least and largest; float64 [C] each."""

    weight: float
    mean: NDArray[np.float64]
    deviations: NDArray[np.float64]
    least: NDArray[np.float64]
    largest: NDArray[np.float64]

    def __add__(self, other: Moments) -> Moments:
        weight = self.weight + other.weight
        apart = other.mean - self.mean
        return Moments(
            weight,
            self.mean + apart * (other.weight / weight),
            self.deviations + other.deviations + apart**2 * (self.weight * other.weight / weight),
            np.minimum(self.least, other.least),
            np.maximum(self.largest, other.largest),
        )


@dataclass(frozen=True)
class ChannelStatistics:
    """Results of `channel_statistics`: values in [0, 1], 1 being the largest value of the depth, one a channel.

    `mean` and `std` are what a recipe's keys of these names take.
    """

    images: int
    unreadable: int
    bits: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    least: tuple[float, ...]
    largest: tuple[float, ...]

    @property
    def settings(self) -> str:
        """Return `mean=[...] std=[...]`, with `bits=16` where training would take 8 otherwise, for a command."""
        depth = " bits=16" if needs_bits(self) else ""
        return f"mean={_listed(self.mean)} std={_listed(self.std)}{depth}"


def channel_statistics(
    source: Source,
    channels: int,
    *,
    bits: int | None = None,
    workers: int = 0,
    on_skip: OnSkip | None = None,
    on_images: Callable[[int], None] | None = None,
) -> ChannelStatistics:
    """Look at every image of a source once.

    Args:
        channels, bits: as images are read for a model; bits None are those that `View` takes.
        workers: processes that decode; 0 decodes here. Each holds one image at a time.
        on_skip: called with each image that can't be read; it is left out.
        on_images: called with the number of images seen so far.
    Raises:
        DataFault: none can be read.
    """
    look = functools.partial(_moments_of_chunk, source, channels, bits or default_bits(channels))
    chunks = (range(start, min(start + _CHUNK, len(source))) for start in range(0, len(source), _CHUNK))
    total: Moments | None = None
    seen, unreadable = 0, list[UnreadableImage]()
    with contextlib.closing(make_ahead(look, chunks, workers)) as measured:
        for moments, count, faults in measured:
            seen += count
            unreadable += faults
            for fault in faults if on_skip else ():
                on_skip(fault)  # type: ignore[misc]
            if moments:
                total = total + moments if total else moments
            if on_images:
                on_images(seen)
    if total is None:
        first = f"; first: {unreadable[0]}" if unreadable else ""
        raise DataFault(f"no image of {source.name} can be read; fix or replace them{first}")
    std = np.sqrt(total.deviations / total.weight)
    per_channel = (tuple(values.tolist()) for values in (total.mean, std, total.least, total.largest))
    return ChannelStatistics(round(total.weight), len(unreadable), bits or default_bits(channels), *per_channel)


def _moments_of_chunk(
    source: Source, channels: int, bits: int, numbers: range
) -> tuple[Moments | None, int, list[UnreadableImage]]:
    measured: list[Moments] = []
    faults: list[UnreadableImage] = []
    for i in numbers:
        try:
            measured.append(image_moments(convert_depth(source.read(i, channels), bits)))
        except UnreadableImage as fault:
            faults.append(fault.without_frames())
    return _sum(measured) if measured else None, len(numbers), faults


def image_moments(pixels_HWC: Pixels) -> Moments:
    """Return the moments of a whole image, in [0, 1], with a weight of 1."""
    values = pixels_HWC.reshape(-1, pixels_HWC.shape[2])
    whole = _sum(_block_moments(values[start : start + _BLOCK]) for start in range(0, len(values), _BLOCK))
    top = largest_value(pixels_HWC)
    spread = whole.deviations / whole.weight / top**2
    return Moments(1.0, whole.mean / top, spread, whole.least / top, whole.largest / top)


def _block_moments(values_NC: Pixels) -> Moments:
    parts_CN = np.ascontiguousarray(values_NC.T).astype(np.float64)
    mean = parts_CN.mean(axis=1)
    deviations = np.square(parts_CN - mean[:, None]).sum(axis=1)
    return Moments(float(len(values_NC)), mean, deviations, parts_CN.min(axis=1), parts_CN.max(axis=1))


def _sum(moments: Iterable[Moments]) -> Moments:
    return functools.reduce(Moments.__add__, moments)


def needs_bits(statistics: ChannelStatistics) -> bool:
    return statistics.bits == 16 and len(statistics.mean) in CHANNEL_NAMES


def recipe_values(statistics: ChannelStatistics) -> tuple[list[float], list[float]]:
    """Return (mean, std) with the digits of `settings`; a channel in which nothing varies is a ValueError."""
    mean, std = ([float(f"{value:.6g}") for value in values] for values in (statistics.mean, statistics.std))
    if flat := constant_channels(statistics):
        raise ValueError(
            f"channel {flat} is constant, and a recipe can't have a std of 0; set mean and std by hand (with 1 as the "
            "std there), or leave that channel out of the images"
        )
    return mean, std


def constant_channels(statistics: ChannelStatistics) -> str:
    """Return the numbers, from 1, of the channels that are constant; an empty text if none is."""
    return ", ".join(str(channel + 1) for channel, std in enumerate(statistics.std) if not std)


def _listed(values: tuple[float, ...]) -> str:
    return f"[{','.join(f'{value:.6g}' for value in values)}]"
