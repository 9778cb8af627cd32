"""Faster formulations of single layers on CPU: the same mathematics, cheaper gradients.

Each stands behind the plain layer's interface and is used only where it is faster; on accelerators
Paddle's own kernels are.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer


class _LinearOnCpu(PyLayer):
    """`F.linear` whose bias gradient is a matrix product.

    Paddle sums a gradient over its rows at 4 ns an element on CPU; `ones @ gradient` gives the same
    sum at the speed of the matrix product (0.15 ns).
    """

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.input_needs_gradient = not x.stop_gradient
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensor()
        rows = gradient.reshape([-1, gradient.shape[-1]])
        to_weight = paddle.matmul(x.reshape([-1, x.shape[-1]]), rows, transpose_x=True)
        to_bias = paddle.matmul(paddle.ones([1, rows.shape[0]], rows.dtype), rows).flatten()
        # pixels need no gradient; PyLayer then wants None
        to_x = paddle.matmul(gradient, weight, transpose_y=True) if ctx.input_needs_gradient else None
        return to_x, to_weight, to_bias


def linear(x, weight, bias):
    """`F.linear(x, weight, bias)`: x [..., in], weight [in, out], bias [out]."""
    trains = paddle.is_grad_enabled() and not (weight.stop_gradient or bias.stop_gradient)
    if trains and x.place.is_cpu_place():
        return _LinearOnCpu.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`paddle.nn.Linear` with a bias, computed by `linear`."""

    def forward(self, x):
        return linear(x, self.weight, self.bias)
