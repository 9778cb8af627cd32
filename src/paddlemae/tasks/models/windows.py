"""Segment images of any size in overlapping windows of the size that a model was trained with.

The logits of windows that overlap are blended by weights that sum to one in every pixel. An image is read from the top
row to the bottom row, each row once, and its logits are finished in the same order, so that the memory depends on the
width of the image and not on its height.

Shapes: B windows, C channels, K classes, H x W pixels of the image, h x w of some of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Blend = Literal["smooth", "mean", "centre"]
Flips = Literal["none", "horizontal", "both"]
DEFAULT_OVERLAP = 1 / 3  # as MAE's evaluation on ADE20K: windows of 512 pixels every 341
BLENDS: tuple[Blend, ...] = ("smooth", "mean", "centre")
FLIPS: dict[Flips, tuple[tuple[bool, bool], ...]] = {  # (of rows, of columns) of each view that is averaged
    "none": ((False, False),),
    "horizontal": ((False, False), (False, True)),
    "both": ((False, False), (False, True), (True, False), (True, True)),
}

Forward = Callable[[np.ndarray], np.ndarray]  # images [B, C, *size] -> logits float32 [B, K, *size]
ReadRows = Callable[[int, int], np.ndarray]  # (top, bottom) -> [C, bottom - top, W]


@dataclass(frozen=True)
class Windows:
    """How an image is cut into windows, and how their logits become those of the image.

    Args:
        size: (height, width) in pixels of what the model is given.
        overlap: the least share of its side that a window shares with the next one, 0 <= overlap < 1. Windows are
            spaced evenly, and the last one ends with the image.
        blend: "smooth": weights fall from a window's centre to its border as a squared sine; "mean": all windows of a
            pixel count the same; "centre": a pixel is taken from the window whose centre is nearest.
        flips: average the logits of each window with those of the flipped window: "horizontal", or "both" ways.
        scales: average the logits of the image at these sizes: 2 shows the model windows of half the width, enlarged.
        batch_size: windows that are computed together.
    Raises:
        ValueError: a value that is none of these.
    """

    size: tuple[int, int]
    overlap: float = DEFAULT_OVERLAP
    blend: Blend = "smooth"
    flips: Flips = "none"
    scales: tuple[float, ...] = (1.0,)
    batch_size: int = 8

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.batch_size < 1:
            raise ValueError(f"windows need 1 pixel or more, and 1 or more a batch; got {self.size}, {self.batch_size}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must be a share of the window, at least 0 and below 1; got {self.overlap}")
        if self.blend not in BLENDS:
            raise ValueError(f"blend must be one of {', '.join(BLENDS)}; got {self.blend!r}")
        if self.flips not in FLIPS:
            raise ValueError(f"flips must be one of {', '.join(FLIPS)}; got {self.flips!r}")
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"scales must be one or more numbers above 0; got {self.scales}")

    def span(self, scale: float) -> tuple[int, int]:
        """Return the height and width, in pixels of the image, of windows at a scale."""
        height, width = (max(1, round(side / scale)) for side in self.size)
        return height, width


def windowed_logits(
    forward: Forward,
    image_CHW: np.ndarray,
    size: int | tuple[int, int],
    overlap: float = DEFAULT_OVERLAP,
    blend: Blend = "smooth",
    *,
    flips: Flips = "none",
    scales: tuple[float, ...] = (1.0,),
    batch_size: int = 8,
) -> NDArray[np.float32]:
    """Compute the logits of an image in memory.

    Args:
        forward: a segmenter, from images [B, C, *size] of the image's type to logits [B, K, *size].
        image_CHW: of any size; one that is smaller than a window is padded with its reflection.
        size: of a window: (height, width), or the side of a square.
        overlap, blend, flips, scales, batch_size: as in `Windows`.
    Returns:
        float32 [K, H, W].
    """
    square = (size, size) if isinstance(size, int) else size
    windows = Windows(square, overlap, blend, flips, scales, batch_size)
    return whole_logits(forward, image_CHW, windows)


def whole_logits(forward: Forward, image_CHW: np.ndarray, windows: Windows) -> NDArray[np.float32]:
    """Return the logits of an image in memory, float32 [K, H, W]; see `windowed_logits`."""
    size = image_CHW.shape[1:]
    logits, top = np.empty((0, *size), np.float32), 0
    for rows in stream_logits(forward, lambda top, bottom: image_CHW[:, top:bottom], size, windows):
        if not top:
            logits = np.empty((len(rows), *size), np.float32)
        logits[:, top : top + rows.shape[1]] = rows
        top += rows.shape[1]
    return logits


def stream_logits(
    forward: Forward,
    read_rows: ReadRows,
    image_size: tuple[int, ...],
    windows: Windows,
) -> Iterator[NDArray[np.float32]]:
    """Compute the logits of an image that is read and finished row of windows by row of windows.

    Args:
        forward: as in `windowed_logits`.
        read_rows: is called with rows that follow each other, from 0 to H, each once.
        image_size: (H, W).
    Yields:
        float32 [K, h, W], the next h rows, which the caller may change. They are overwritten when it asks for more.
    """
    height, width = image_size
    rows = _Rows(read_rows, height)
    tilings = [_Tiling(forward, height, width, scale, windows) for scale in windows.scales]
    top = 0
    while top < height:
        for tiling in tilings:
            if tiling.next_top == top:
                tiling.compute_row(rows)
        bottom = min(tiling.next_top for tiling in tilings)
        total = tilings[0].take(bottom - top)
        for tiling in tilings[1:]:
            total += tiling.take(bottom - top)
        if len(tilings) > 1:
            total /= len(tilings)
        yield total
        top = bottom
        rows.forget(min(tiling.next_top for tiling in tilings))


class Placement(NamedTuple):
    """Windows along one side of an image.

    Attributes:
        starts: int64 [N], the first pixel of each window.
        weights: float32 [N, span], of each window's pixels; those of all windows sum to one in every pixel.
    """

    starts: NDArray[np.int64]
    weights: NDArray[np.float32]


def place_windows(length: int, span: int, overlap: float, blend: Blend) -> Placement:
    """Place windows of `span` pixels on a side of `length` pixels; one shorter than a window counts as long as it."""
    length = max(length, span)
    stride = max(1, round(span * (1 - overlap)))
    count = -(-(length - span) // stride) + 1
    starts = np.arange(count) * (length - span) // max(1, count - 1)
    pixels = starts[:, None] + np.arange(span)
    if blend == "centre":
        borders = (starts[:-1] + starts[1:] + span) // 2  # the first pixel that is nearer to the next window's centre
        owners = np.searchsorted(borders, np.arange(length), side="right")
        return Placement(starts, (owners[pixels] == np.arange(count)[:, None]).astype(np.float32))
    profile = np.sin(math.pi * (np.arange(span) + 0.5) / span) ** 2 if blend == "smooth" else np.ones(span)
    total = np.bincount(pixels.ravel(), np.tile(profile, count))
    return Placement(starts, (profile / total[pixels]).astype(np.float32))


@dataclass
class _Rows:
    """The rows of an image that windows still need, read one after the other."""

    read: ReadRows
    height: int
    top: int = 0  # of the rows that are kept
    kept: np.ndarray | None = None  # [C, h, W]

    def get(self, top: int, bottom: int) -> np.ndarray:
        """Return rows that are not forgotten; those below the image are left out."""
        bottom = min(bottom, self.height)
        have = self.top + (0 if self.kept is None else self.kept.shape[1])
        if bottom > have:
            new = self.read(have, bottom)
            self.kept = new if self.kept is None else np.concatenate([self.kept, new], axis=1)
        assert self.kept is not None
        return self.kept[:, top - self.top : bottom - self.top]

    def forget(self, top: int) -> None:
        """Forget the rows above `top`."""
        if self.kept is not None and top > self.top:
            self.kept = self.kept[:, top - self.top :].copy()
            self.top = top


@dataclass
class _Tiling:
    """The windows of one scale, and the logits of the rows that they have reached.

    The rows of logits are those below the top of the latest row of windows, as many as a window is high.
    """

    forward: Forward
    height: int
    width: int
    scale: float
    windows: Windows
    row: int = 0  # of windows, the next one
    taken: int = 0  # rows of the image that `take` returned
    top: int = 0  # of the rows in `logits`
    logits: NDArray[np.float32] | None = None  # [K, h, W or more]
    rows: Placement = field(init=False)
    columns: Placement = field(init=False)

    def __post_init__(self) -> None:
        windows, span = self.windows, self.windows.span(self.scale)
        self.rows = place_windows(self.height, span[0], windows.overlap, windows.blend)
        self.columns = place_windows(self.width, span[1], windows.overlap, windows.blend)

    @property
    def next_top(self) -> int:
        """Return the first row that the next row of windows needs: no window is left that reaches those above."""
        return int(self.rows.starts[self.row]) if self.row < len(self.rows.starts) else self.height

    def compute_row(self, source: _Rows) -> None:
        """Add the logits of the next row of windows; all rows above it are taken."""
        top, (height, width) = self.next_top, self.windows.span(self.scale)
        strip = _pad(source.get(top, top + height), height, max(width, self.width))
        down = self.rows.weights[self.row][:, None]
        size = self.windows.batch_size
        for first in range(0, len(self.columns.starts), size):
            lefts = self.columns.starts[first : first + size]
            views = np.stack([strip[:, :, left : left + width] for left in lefts])
            batch = _logits(self.forward, views, self.windows)
            if first == 0:
                self._move_to(top, (batch.shape[1], height, strip.shape[2]))
            assert self.logits is not None
            for number, left in enumerate(lefts.tolist(), first):
                weights = down * self.columns.weights[number]
                for logits_HW, window_hw in zip(self.logits, batch[number - first]):
                    logits_HW[:, left : left + width] += window_hw * weights
        self.row += 1

    def take(self, count: int) -> NDArray[np.float32]:
        """Return the logits of the next finished rows, [K, count, W], until the next row of windows is computed."""
        assert self.logits is not None
        first = self.taken - self.top
        self.taken += count
        return self.logits[:, first : first + count, : self.width]

    def _move_to(self, top: int, shape: tuple[int, int, int]) -> None:
        """Keep the rows from `top` on, and zeros below them."""
        if self.logits is None:
            self.logits = np.zeros(shape, np.float32)
        kept = max(0, shape[1] - (top - self.top))
        for logits_HW in self.logits:  # one class at a time: rows that overlap are copied twice
            logits_HW[:kept] = logits_HW[shape[1] - kept :]
            logits_HW[kept:] = 0
        self.top = top


def _pad(strip_Chw: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pad an image at the bottom and the right with its reflection."""
    below, right = height - strip_Chw.shape[1], width - strip_Chw.shape[2]
    return np.pad(strip_Chw, ((0, 0), (0, below), (0, right)), mode="reflect") if below or right else strip_Chw


def _logits(forward: Forward, views_BChw: np.ndarray, windows: Windows) -> NDArray[np.float32]:
    """Return the logits of windows of one size, [B, K, h, w], the mean of all flips."""
    size = views_BChw.shape[2:]
    total: NDArray[np.float32] | None = None
    shown = _resize(views_BChw, windows.size)
    for rows, columns in FLIPS[windows.flips]:
        turn = (slice(None), slice(None), slice(None, None, -1 if rows else 1), slice(None, None, -1 if columns else 1))
        logits = forward(np.ascontiguousarray(shown[turn]))[turn]
        total = logits if total is None else total + logits
    assert total is not None
    return _resize(total / np.float32(len(FLIPS[windows.flips])), size)


def _resize(images_BChw: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize images or logits, [B, C, h, w], by the filter of `_interpolation`; integers are rounded."""
    if images_BChw.shape[2:] == tuple(size):
        return images_BChw
    down, across = (_interpolation(old, new) for old, new in zip(images_BChw.shape[2:], size))
    resized = down @ images_BChw.astype(np.float32) @ across.T
    return resized.round().astype(images_BChw.dtype) if images_BChw.dtype.kind == "u" else resized


@lru_cache(16)
def _interpolation(old: int, new: int) -> NDArray[np.float32]:
    """Return the matrix [new, old] that resizes one side: bilinear, and without aliasing where it becomes smaller.

    Pixels are areas, so that both sides' borders coincide (`align_corners=False`).
    """
    centres = (np.arange(new) + 0.5) * (old / new) - 0.5
    reach = max(1.0, old / new)
    weights = np.maximum(0, 1 - np.abs(np.arange(old) - np.clip(centres, 0, old - 1)[:, None]) / reach)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
