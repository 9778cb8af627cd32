"""Segment an image block of rows by block of rows: the class of each pixel, and how probable it is.

Shapes: C channels, K classes, h x W pixels of a block of rows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.row_image import RowImage, Valid
from paddlemae.tasks.models.windows import Forward, Windows, stream_logits

IGNORED, IGNORED_16 = 255, 65535  # values of a mask where there is no class, in 8 and 16 bits
_BLOCK_VALUES = 1 << 22  # probabilities that are computed at a time
MOST_SHOWN = 2048  # pixels a side of an image's reduced copy


def ignored_value(classes: int) -> int:
    """Return the value of pixels without a class of a mask that has this number of classes."""
    return IGNORED if classes <= IGNORED else IGNORED_16


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of an image that are segmented.

    Attributes:
        top: the first row.
        classes_hW: uint8 or uint16, the class of each pixel, or `ignored_value`.
        probabilities_KhW: float32, of all classes; they sum to one. They are overwritten by those of the next rows.
        confidence_hW: float32, the largest of them.
        valid: which pixels have data; None: all.
    """

    top: int
    classes_hW: NDArray[np.unsignedinteger]
    probabilities_KhW: NDArray[np.float32]
    confidence_hW: NDArray[np.float32]
    valid: Valid | None


@dataclass
class Feed:
    """Passes an image's rows on to the windows, and keeps what is needed of them later.

    Attributes:
        image: read once.
        step: every how many rows and columns a pixel is kept in `kept`.
        kept: reduced rows, [C, n, ceil(W / step)] each; filled only with `step`.
        valid: (bottom row, which pixels have data) of what was read and not taken yet.
    """

    image: RowImage
    step: int | None = None
    kept: list[np.ndarray] = field(default_factory=list)
    valid: deque[tuple[int, Valid | None]] = field(default_factory=deque)

    def read(self, top: int, bottom: int) -> np.ndarray:
        """Return rows, [C, bottom - top, W]."""
        pixels_ChW, valid = self.image.read(top, bottom)
        self.valid.append((bottom, valid))
        if self.step:
            self.kept.append(pixels_ChW[:, -top % self.step :: self.step, :: self.step].copy())
        return pixels_ChW

    def take_valid(self, top: int, bottom: int) -> Valid | None:
        """Return which pixels of the next rows have data; None: all."""
        parts: list[Valid | None] = []
        heights: list[int] = []
        while top < bottom:
            end, valid = self.valid[0]
            height = min(end, bottom) - top
            parts.append(None if valid is None else valid[:height])
            heights.append(height)
            if end <= bottom:
                self.valid.popleft()
            else:
                self.valid[0] = (end, None if valid is None else valid[height:])
            top += height
        if all(part is None for part in parts):
            return None
        width = self.image.size[1]
        filled = (np.ones((height, width), bool) if part is None else part for part, height in zip(parts, heights))
        return np.concatenate(list(filled))


def reduction(size: tuple[int, int]) -> int:
    """Return every how many pixels of an image of this size one is shown."""
    return math.ceil(max(size) / MOST_SHOWN)


def segment_rows(forward: Forward, feed: Feed, windows: Windows, min_confidence: float = 0.0) -> Iterator[Block]:
    """Segment an image from the top row to the bottom row.

    Args:
        forward: of a segmenter, see `windowed_logits`.
        min_confidence: pixels whose class is less probable get no class.
    """
    top, width = 0, feed.image.size[1]
    for logits_KhW in stream_logits(forward, feed.read, feed.image.size, windows):
        rows = max(1, _BLOCK_VALUES // (len(logits_KhW) * width))
        for start in range(0, logits_KhW.shape[1], rows):
            block = logits_KhW[:, start : start + rows]
            valid = feed.take_valid(top, top + block.shape[1])
            yield _block(top, block, valid, min_confidence)
            top += block.shape[1]


def _block(top: int, logits_KhW: NDArray[np.float32], valid: Valid | None, min_confidence: float) -> Block:
    """Return a block; the logits become its probabilities."""
    ignored = ignored_value(len(logits_KhW))
    classes_hW = logits_KhW.argmax(axis=0).astype(np.uint8 if ignored == IGNORED else np.uint16)
    softmax_in_place(logits_KhW)
    confidence_hW = logits_KhW.max(axis=0)
    if min_confidence > 0:
        classes_hW[confidence_hW < min_confidence] = ignored
    if valid is not None:
        classes_hW[~valid] = ignored
    return Block(top, classes_hW, logits_KhW, confidence_hW, valid)


def softmax_in_place(logits_KhW: NDArray[np.float32]) -> None:
    """Turn logits into probabilities, over the first axis."""
    logits_KhW -= logits_KhW.max(axis=0)
    np.exp(logits_KhW, out=logits_KhW)
    logits_KhW /= logits_KhW.sum(axis=0)
