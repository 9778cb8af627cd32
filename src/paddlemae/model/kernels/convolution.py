"""Convolutions of 3 x 3 whose maps have their channels last, as tokens do.

On CPU one is nine matrix products of shifted rows: in a padded map, row after row, a shift of the kernel is a shift of
the row number, so that no patches are copied.

Shapes: B images, h x w places, C channels in and E out; R rows of padded maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from paddlemae.engine import private
from paddlemae.engine.safe_import import F, paddle
from paddlemae.model.grid_weights import bilinear_weights
from paddlemae.model.kernels import placement

SIDE = 3
PLACES = SIDE * SIDE


def _padded(x_BhwC: paddle.Tensor, before: int, after: int) -> paddle.Tensor:
    """Return maps with zeros around them, as rows."""
    padded = F.pad(x_BhwC, [before, after, before, after], data_format="NHWC")
    return padded.reshape([-1, x_BhwC.shape[-1]]).contiguous()


def _shifts(width: int) -> list[int]:
    """Return how many rows further each place of the kernel reads, for maps of a width."""
    return [row * (width + SIDE - 1) + column for row in range(SIDE) for column in range(SIDE)]


class _ConvolutionOnCpu(paddle.autograd.PyLayer):
    """`convolution`; rows between two lines of a map are computed too, and dropped."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
        weight = weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.input_needs_gradient = not x.stop_gradient
        batch, height, width, _ = x.shape
        rows, shifts = _padded(x, 1, 1), _shifts(width)
        count = rows.shape[0] - shifts[-1]
        out = paddle.empty([rows.shape[0], weight.shape[2]], x.dtype)
        used = private.rows_view(out, 0, count)
        for number, shift in enumerate(shifts):
            read, part = private.rows_view(rows, shift, shift + count), _part(weight, number)
            if number:
                paddle.addmm_(used, read, part)
            else:
                paddle.matmul(read, part, out=used)
        whole = out.reshape([batch, height + SIDE - 1, width + SIDE - 1, -1])
        return paddle.slice(whole, [1, 2], [0, 0], [height, width])

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        x, weight = ctx.saved_tensor()
        batch, height, width, channels = x.shape
        rows, shifts = _padded(x, 1, 1), _shifts(width)
        count = rows.shape[0] - shifts[-1]
        given = private.rows_view(_padded(gradient, 0, SIDE - 1), 0, count)
        to_weight = paddle.empty(weight.shape, weight.dtype)
        for number, shift in enumerate(shifts):
            read = private.rows_view(rows, shift, shift + count)
            paddle.matmul(read, given, transpose_x=True, out=_part(to_weight, number))
        if not ctx.input_needs_gradient:  # PyLayer then wants None
            return None, to_weight
        to_rows = paddle.zeros(rows.shape, rows.dtype)
        turned = weight.transpose([0, 2, 1]).contiguous()
        for number, shift in enumerate(shifts):
            paddle.addmm_(private.rows_view(to_rows, shift, shift + count), given, _part(turned, number))
        whole = to_rows.reshape([batch, height + SIDE - 1, width + SIDE - 1, channels])
        return paddle.slice(whole, [1, 2], [1, 1], [height + 1, width + 1]), to_weight


def _part(x: paddle.Tensor, number: int) -> paddle.Tensor:
    return private.rows_view(x, number, number + 1).squeeze(0)


def convolution(x_BhwC: paddle.Tensor, weight_9CE: paddle.Tensor) -> paddle.Tensor:
    """Convolve maps with a kernel of 3 x 3, zeros around them: return [B, h, w, E].

    Args:
        weight_9CE: of the kernel's places row by row.
    """
    # as of a frozen encoder x may need no gradient
    trains = not weight_9CE.stop_gradient
    if placement.on_cpu(x_BhwC) and (trains or placement.all_or_none_train(x_BhwC, weight_9CE)):
        return _ConvolutionOnCpu.apply(x_BhwC, weight_9CE)
    weight = weight_9CE.reshape([SIDE, SIDE, *weight_9CE.shape[1:]]).transpose([3, 2, 0, 1])
    return F.conv2d(x_BhwC.transpose([0, 3, 1, 2]), weight, padding=1).transpose([0, 2, 3, 1])


@lru_cache(maxsize=64)
def _shifted_matrix(new: int, old: int) -> paddle.Tensor:
    """Return [n, m x 3]: linear interpolation, read one place earlier, in place and one later, zeros beyond."""
    matrix = np.zeros((new, old, SIDE), np.float32)
    weights = bilinear_weights(new, old)
    matrix[1:, :, 0], matrix[:, :, 1], matrix[:-1, :, 2] = weights[:-1], weights, weights[1:]
    return paddle.to_tensor(matrix.reshape(new, old * SIDE))


def resized_convolution(x_BhwC: paddle.Tensor, weight_9CE: paddle.Tensor, size: Sequence[int]) -> paddle.Tensor:
    """Convolve maps that are first resized by bilinear interpolation: return [B, *size, E].

    Channels are mixed before the map grows, which is the same sum in another order at a share of the products.
    """
    batch, height, width, channels = x_BhwC.shape
    columns, rows = _shifted_matrix(size[1], width), _shifted_matrix(size[0], height)
    by_row = weight_9CE.reshape([SIDE, SIDE, channels, -1]).transpose([0, 2, 1, 3]).reshape([SIDE, channels, -1])
    parts = []
    for part in by_row.unbind(0):  # [C, 3E] for each row of the kernel
        mixed = paddle.matmul(x_BhwC, part).reshape([batch * height, width * SIDE, -1])
        parts.append(paddle.matmul(columns, mixed).reshape([batch, height, 1, -1]))
    tall = paddle.concat(parts, axis=2).reshape([batch, height * SIDE, -1])
    return paddle.matmul(rows, tall).reshape([batch, *size, -1])
