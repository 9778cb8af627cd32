"""Sums, scalings and views of the rows of a matrix.

On CPU a matrix product runs 5 to 30 times as fast an element as Paddle's sums and broadcasts, so sums over rows or
columns and additions of a row are written as products with ones.

Shapes: R rows, D width; B images, C channels, N tokens.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from paddlemae.engine import private
from paddlemae.engine.safe_import import paddle
from paddlemae.model.kernels import placement

PIECE = 1 << 19  # numbers: what several operations pass over stays in the processor's cache between them


@lru_cache(maxsize=256)
def constant_matrix(rows: int, columns: int, value: float, dtype):
    """A matrix of one number, made once on CPU: making it costs as much as multiplying by it. Don't write into it."""
    return paddle.full([rows, columns], value, dtype)


def as_rows(x):
    """[R, D] from [..., D], without a copy."""
    return x.reshape([-1, x.shape[-1]])


def add_row(x_RD, row_D):
    """`x += row`, in place."""
    return paddle.addmm_(x_RD, constant_matrix(x_RD.shape[0], 1, 1.0, x_RD.dtype), row_D.reshape([1, -1]))


def scaled_rows(scale_R1, x_RD):
    """`scale * x`: an outer product and an elementwise one cost less than a broadcast."""
    return paddle.matmul(scale_R1, constant_matrix(1, x_RD.shape[1], 1.0, x_RD.dtype)).multiply_(x_RD)


def normalise_rows(x_RD, degrees: int, epsilon: float):
    """Each row less its mean, over its deviation: (normal [R, D], mean [R, 1], scale [R, 1]).

    Args:
        degrees: what squares are divided by for the variance, D or D - 1.
        epsilon: added to the variance; scale is one over the root of that.
    """
    share = degrees / x_RD.shape[1]
    normal_RD, mean_R, variance_R = private.layer_norm(x_RD, None, None, epsilon * share)
    if share != 1:
        normal_RD.scale_(share**0.5)
    scale_R1 = paddle.rsqrt(variance_R + epsilon * share).scale_(share**0.5).reshape([-1, 1])
    return normal_RD, mean_R.reshape([-1, 1]), scale_R1


def row_pieces(*tensors_RD):
    """The same rows of each, about `PIECE` numbers at a time, as views of the same memory."""
    rows, width = tensors_RD[0].shape
    step = max(1, PIECE // width)
    if step >= rows:
        yield tensors_RD
        return
    for start in range(0, rows, step):
        yield [private.rows_view(one, start, min(start + step, rows)) for one in tensors_RD]


def split_views(x) -> list:
    """Return the parts along the first axis, without gradients: views of the same memory.

    Where `x` itself is a strided view, they are views of a copy: what is written into them reaches `x` only if that is
    contiguous, as a new tensor is.
    """
    x = x.contiguous()
    return [private.rows_view(x, number, number + 1).squeeze(0) for number in range(x.shape[0])]


def scale_channels(images_BCHW: Any, scale_C: Any, shift_C: Any) -> Any:
    """`scale * image + shift`, one number of each a channel; without gradients."""
    if not placement.on_cpu(images_BCHW):
        return images_BCHW * scale_C.reshape([-1, 1, 1]) + shift_C.reshape([-1, 1, 1])
    batch, channels, *size = images_BCHW.shape
    scale_R1, shift_R1 = (each.tile([batch]).reshape([-1, 1]) for each in (scale_C, shift_C))
    scaled_RD = scaled_rows(scale_R1, images_BCHW.reshape([batch * channels, -1]))
    paddle.addmm_(scaled_RD, shift_R1, constant_matrix(1, scaled_RD.shape[1], 1.0, scaled_RD.dtype))
    return scaled_RD.reshape([batch, channels, *size])


def mean_all(x):
    """Return the mean of all numbers, with as many right digits on CPU as elsewhere.

    Paddle's CPU kernels of means, and of sums along an axis, add float32 numbers one after the other: the mean of 2**24
    squares is 1e-3 too low. Its sum of a whole tensor adds up parts of it and is right within 1e-7.
    """
    return x.sum() / float(x.size) if placement.on_cpu(x) else x.mean()


@lru_cache(maxsize=16)
def block_sum_matrix(rows: int, dtype):
    """A matrix [G, rows] of 0 and 1 that adds up blocks of about the root of `rows` rows each. Don't write into it."""
    size = math.isqrt(rows - 1) + 1
    return paddle.eye(-(-rows // size), dtype=dtype).repeat_interleave(size, axis=1)[:, :rows].contiguous()


def mean_rows(x_BND):
    """Return the mean over N, [B, D]; on CPU of sums of blocks, which keeps the digits that `mean_all` tells of."""
    if not placement.on_cpu(x_BND):
        return x_BND.mean(axis=1)
    rows = x_BND.shape[1]
    return paddle.matmul(block_sum_matrix(rows, x_BND.dtype), x_BND).sum(axis=1) / rows
