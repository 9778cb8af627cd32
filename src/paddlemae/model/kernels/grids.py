"""Resize and pool maps by one matrix for their rows and one for their columns.

Shapes: B images, h x w places, C channels, K classes; n new and m old places along one axis.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from paddlemae.engine.safe_import import F, paddle
from paddlemae.model.kernels import placement


def bilinear_weights(new: int, old: int) -> np.ndarray:
    """Return the matrix [n, m] of linear interpolation with pixels as areas (`align_corners=False`)."""
    places = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
    first = np.minimum(places.astype(int), old - 1)
    matrix = np.zeros((new, old), np.float32)
    matrix[np.arange(new), first] = 1 - (places - first)
    matrix[np.arange(new), np.minimum(first + 1, old - 1)] += places - first
    return matrix


def pooling_weights(new: int, old: int) -> np.ndarray:
    """Return the matrix [n, m] of adaptive average pooling: n ranges that cover all places, and overlap if need be."""
    matrix = np.zeros((new, old), np.float32)
    for place in range(new):
        start, stop = place * old // new, math.ceil((place + 1) * old / new)
        matrix[place, start:stop] = 1 / (stop - start)
    return matrix


KINDS = {"bilinear": bilinear_weights, "pooling": pooling_weights}


@lru_cache(maxsize=64)
def grid_matrix(kind: str, new: int, old: int) -> paddle.Tensor:
    """Return a read-only matrix of `KINDS`."""
    return paddle.to_tensor(KINDS[kind](new, old))


def change_grid(x_BhwC: paddle.Tensor, size: Any, kind: str = "bilinear") -> paddle.Tensor:
    """Resize or pool maps to another height and width.

    Args:
        kind: one of `KINDS`.
    """
    batch, height, width, channels = x_BhwC.shape
    if (height, width) == tuple(size) and kind == "bilinear":
        return x_BhwC
    columns, rows = grid_matrix(kind, size[1], width), grid_matrix(kind, size[0], height)
    wide = paddle.matmul(columns, x_BhwC.reshape([batch * height, width, channels]))
    tall = paddle.matmul(rows, wide.reshape([batch, height, size[1] * channels]))
    return tall.reshape([batch, size[0], size[1], channels])


def to_pixels(logits_BhwK: paddle.Tensor, size: Any) -> paddle.Tensor:
    """Return logits [B, K, H, W] from those of a coarser grid by bilinear interpolation, pixels as areas."""
    logits_BKhw = logits_BhwK.transpose([0, 3, 1, 2])
    batch, classes, height, width = logits_BKhw.shape
    if not placement.on_cpu(logits_BhwK):
        return F.interpolate(logits_BKhw, size=list(size), mode="bilinear", align_corners=False)
    columns, rows = grid_matrix("bilinear", size[1], width), grid_matrix("bilinear", size[0], height)
    wide = paddle.matmul(logits_BKhw.reshape([-1, width]), columns, transpose_y=True)
    tall = paddle.matmul(rows, wide.reshape([batch * classes, height, size[1]]))
    return tall.reshape([batch, classes, *size])
