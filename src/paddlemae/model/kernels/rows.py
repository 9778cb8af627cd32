"""Sums, scalings and views of the rows of a matrix.

On CPU a matrix product runs 5 to 30 times as fast an element as Paddle's sums and broadcasts, so sums over rows or
columns and additions of a row are written as products with ones.

Shapes: R rows, D width; B images, C channels, N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from paddlemae.engine import private
from paddlemae.engine.safe_import import paddle
from paddlemae.model.kernels import placement

PIECE = 1 << 19  # numbers: what several operations pass over stays in the processor's cache between them


@lru_cache(maxsize=256)
def constant_matrix(rows: int, columns: int, value: float, dtype: Any) -> paddle.Tensor:
    """Return a matrix of one number, cached since making it costs as much as a product with it; it is read-only."""
    return paddle.full([rows, columns], value, dtype)


def as_rows(x: paddle.Tensor) -> paddle.Tensor:
    """Return [R, D] from [..., D], contiguous; a copy only where `x` is not."""
    return (x if x.ndim == 2 else x.reshape([-1, x.shape[-1]])).contiguous()


def add_row(x_RD: paddle.Tensor, row_D: paddle.Tensor) -> paddle.Tensor:
    """Add a row to every row of `x`, in place."""
    return paddle.addmm_(x_RD, constant_matrix(x_RD.shape[0], 1, 1.0, x_RD.dtype), row_D.reshape([1, -1]))


def scale_rows(scale_R1: paddle.Tensor, x_RD: paddle.Tensor) -> paddle.Tensor:
    """Return `scale * x`; an outer product and an elementwise one cost less than a broadcast."""
    return paddle.matmul(scale_R1, constant_matrix(1, x_RD.shape[1], 1.0, x_RD.dtype)).multiply_(x_RD)


def normalise_rows(
    x_RD: paddle.Tensor, degrees: int, epsilon: float
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Subtract the mean of each row and divide by its deviation: return (normal [R, D], mean [R, 1], scale [R, 1]).

    Args:
        degrees: divisor of the sum of squares in the variance, D or D - 1.
        epsilon: added to the variance; `scale` is one over the root of the sum.
    """
    share = degrees / x_RD.shape[1]
    normal_RD, mean_R, variance_R = private.layer_norm(x_RD, None, None, epsilon * share)
    if share != 1:
        normal_RD.scale_(share**0.5)
    scale_R1 = paddle.rsqrt(variance_R + epsilon * share).scale_(share**0.5).reshape([-1, 1])
    return normal_RD, mean_R.reshape([-1, 1]), scale_R1


def row_pieces(*tensors_RD: paddle.Tensor) -> Iterator[Sequence[paddle.Tensor]]:
    """Yield the same rows of each tensor, about `PIECE` numbers at a time, as views of its memory."""
    rows, width = tensors_RD[0].shape
    step = max(1, PIECE // width)
    if step >= rows:
        yield tensors_RD
        return
    for start in range(0, rows, step):
        yield [private.rows_view(tensor, start, min(start + step, rows)) for tensor in tensors_RD]


def split_views(x: paddle.Tensor) -> list[paddle.Tensor]:
    """Return the parts along the first axis, without gradients: views of the same memory.

    If `x` is not contiguous, they are views of a copy, and writing into them does not change `x`.
    """
    x = x.contiguous()
    return [private.rows_view(x, number, number + 1).squeeze(0) for number in range(x.shape[0])]


def scale_channels(images_BCHW: Any, scale_C: Any, shift_C: Any) -> Any:
    """Return `scale * image + shift` with one scale and one shift per channel; without gradients."""
    if not placement.on_cpu(images_BCHW):
        return images_BCHW * scale_C.reshape([-1, 1, 1]) + shift_C.reshape([-1, 1, 1])
    batch, channels, *size = images_BCHW.shape
    scale_R1, shift_R1 = (each.tile([batch]).reshape([-1, 1]) for each in (scale_C, shift_C))
    scaled_RD = scale_rows(scale_R1, images_BCHW.reshape([batch * channels, -1]))
    paddle.addmm_(scaled_RD, shift_R1, constant_matrix(1, scaled_RD.shape[1], 1.0, scaled_RD.dtype))
    return scaled_RD.reshape([batch, channels, *size])


def mean_all(x: paddle.Tensor) -> paddle.Tensor:
    """Return the mean of all numbers, as precise on CPU as on other devices.

    Paddle's CPU kernels of means, and of sums along an axis, add float32 numbers one after the other: the mean of 2**24
    squares is 1e-3 too low. Its sum of a whole tensor adds up parts of it and is right within 1e-7.
    """
    return x.sum() / float(x.size) if placement.on_cpu(x) else x.mean()


@lru_cache(maxsize=16)
def block_sum_matrix(rows: int, dtype: Any) -> paddle.Tensor:
    """Return a read-only matrix [G, rows] of 0 and 1 that sums blocks of about sqrt(rows) rows."""
    size = math.isqrt(rows - 1) + 1
    return paddle.eye(-(-rows // size), dtype=dtype).repeat_interleave(size, axis=1)[:, :rows].contiguous()


def mean_rows(x_BND: paddle.Tensor) -> paddle.Tensor:
    """Return the mean over N, [B, D]; on CPU from sums of blocks, which are as precise as `mean_all`."""
    if not placement.on_cpu(x_BND):
        return x_BND.mean(axis=1)
    rows = x_BND.shape[1]
    return paddle.matmul(block_sum_matrix(rows, x_BND.dtype), x_BND).sum(axis=1) / rows
