"""Compute classical features of images: histograms of gradient directions, and colour statistics.

Shapes: B images, C channels, H x W pixels, G x G cells, D features.
"""

from __future__ import annotations

import importlib.util

import numpy as np
from numpy.typing import NDArray

CELLS = 8  # in each direction
FEWEST_PIXELS = 4  # of a cell's side
DIRECTIONS = 9
BINS = 16  # of a channel's histogram
COLOUR_CELLS = 4

Features = NDArray[np.float32]


def has_scikit_image() -> bool:
    """Return whether scikit-image is installed."""
    return importlib.util.find_spec("skimage") is not None


def gradient_features(images_BCHW: np.ndarray) -> Features:
    """Return histograms of gradient directions, float32 [B, D]: HOG with scikit-image, else `cell_histograms`.

    Source of HOG: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", blocks of 2 x 2 cells.
    """
    cells = _cells(images_BCHW)
    if not has_scikit_image() or min(cells) < 2:
        return cell_histograms(images_BCHW, cells)
    from skimage.feature import hog

    height, width = images_BCHW.shape[2:]
    settings = dict(
        orientations=DIRECTIONS,
        pixels_per_cell=(height // cells[0], width // cells[1]),
        cells_per_block=(2, 2),
        block_norm="L2-Hys",
        channel_axis=2,
    )
    return np.stack([hog(image.transpose(1, 2, 0), **settings) for image in images_BCHW]).astype(np.float32)


def cell_histograms(images_BCHW: np.ndarray, cells: tuple[int, int]) -> Features:
    """Return the histogram of gradient directions of each cell, of length 1 for an image: float32 [B, GG * 9]."""
    gray = images_BCHW.mean(axis=1, dtype=np.float32)
    down, right = np.gradient(gray, axis=1), np.gradient(gray, axis=2)
    strength = np.hypot(down, right)
    direction = np.floor(np.arctan2(down, right) / np.pi * DIRECTIONS).astype(np.int64) % DIRECTIONS
    found = [_cell_means(np.where(direction == one, strength, 0), cells) for one in range(DIRECTIONS)]
    rows = np.concatenate(found, axis=1)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)


def colour_features(images_BCHW: np.ndarray) -> Features:
    """Return each channel's histogram, and its mean and deviation in each of 4 x 4 cells: float32 [B, D]."""
    values = images_BCHW.astype(np.float32) / np.iinfo(images_BCHW.dtype).max
    cells = COLOUR_CELLS, COLOUR_CELLS
    columns = []
    for channel_BHW in values.transpose(1, 0, 2, 3):
        bins = np.minimum((channel_BHW * BINS).astype(np.int64), BINS - 1)
        columns += [(bins == one).mean(axis=(1, 2))[:, None] for one in range(BINS)]
        means, squares = _cell_means(channel_BHW, cells), _cell_means(np.square(channel_BHW), cells)
        columns += [means, np.sqrt(np.maximum(squares - np.square(means), 0))]
    return np.concatenate(columns, axis=1).astype(np.float32)


def _cells(images_BCHW: np.ndarray) -> tuple[int, int]:
    height, width = (max(1, min(CELLS, side // FEWEST_PIXELS)) for side in images_BCHW.shape[2:])
    return height, width


def _cell_means(values_BHW: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """Return the mean of each of `cells` (rows, columns) parts of an image, [B, rows * columns]."""
    rows, columns = (
        np.linspace(0, side, min(number, side) + 1).astype(int)[:-1]
        for side, number in zip(values_BHW.shape[1:], cells)
    )
    sums = np.add.reduceat(np.add.reduceat(values_BHW, rows, axis=1), columns, axis=2)
    sizes = np.outer(*(np.diff([*starts, side]) for starts, side in zip((rows, columns), values_BHW.shape[1:])))
    return (sums / sizes).reshape(len(values_BHW), -1)
