"""Resize and pool maps by one matrix for their rows and one for their columns.

Shapes: B images, h x w places, C channels, K classes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from paddlemae.engine.safe_import import F, paddle
from paddlemae.model.grid_weights import bilinear_weights, pooling_weights
from paddlemae.model.kernels import placement

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
