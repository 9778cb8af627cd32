"""Faster formulations of single layers: the same mathematics, cheaper on the device at hand.

Each stands behind the plain layer's interface and is used only where it is faster. On CPU a matrix product runs 5 to
30 times as fast an element as Paddle's sums and broadcasts, so sums over rows or columns and additions of a row are
written as products with ones. On accelerators Paddle's own kernels are used, flash attention among them.

Shapes: R rows, D width; B images, H heads, Q queries, N tokens, d width of a head.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer


def on_cpu(x) -> bool:
    """Whether `x` is computed here and now, on CPU: not while a program is traced for export."""
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()


def trains(*parameters) -> bool:
    """Whether all of these get gradients."""
    return paddle.is_grad_enabled() and not any(parameter.stop_gradient for parameter in parameters)


def rows_of(x):
    """[R, D] from [..., D], without a copy."""
    return x.reshape([-1, x.shape[-1]])


def add_row(x_RD, row_D):
    """`x += row`, in place."""
    return paddle.addmm_(x_RD, paddle.ones([x_RD.shape[0], 1], x_RD.dtype), row_D.reshape([1, -1]))


def scaled_rows(scale_R1, x_RD):
    """`scale * x`: an outer product and an elementwise one cost less than a broadcast."""
    return paddle.matmul(scale_R1, paddle.ones([1, x_RD.shape[1]], x_RD.dtype)).multiply_(x_RD)


class _LinearOnCpu(PyLayer):
    """`F.linear` whose bias is added, and its gradient summed, by matrix products."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.input_needs_gradient = not x.stop_gradient
        return add_row(paddle.matmul(rows_of(x), weight), bias).reshape([*x.shape[:-1], weight.shape[1]])

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensor()
        gradient_RD = rows_of(gradient)
        to_weight = paddle.matmul(rows_of(x), gradient_RD, transpose_x=True)
        to_bias = paddle.matmul(paddle.ones([1, gradient_RD.shape[0]], gradient.dtype), gradient_RD).flatten()
        # pixels need no gradient; PyLayer then wants None
        to_x = paddle.matmul(gradient, weight, transpose_y=True) if ctx.input_needs_gradient else None
        return to_x, to_weight, to_bias


def linear(x, weight, bias):
    """`F.linear(x, weight, bias)`: x [..., in], weight [in, out], bias [out]."""
    if on_cpu(x) and trains(weight, bias):
        return _LinearOnCpu.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`paddle.nn.Linear` with a bias, computed by `linear`."""

    def forward(self, x):
        return linear(x, self.weight, self.bias)


class _LayerNormOnCpu(PyLayer):
    """`F.layer_norm` over the last axis, whose backward is 8 ns an element in Paddle's own kernel and 2 here."""

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon: float):
        x_RD = rows_of(x)
        width = x_RD.shape[1]
        mean_D1, ones_1D = paddle.full([width, 1], 1 / width, x.dtype), paddle.ones([1, width], x.dtype)
        centred_RD = paddle.addmm(x_RD, paddle.matmul(x_RD, mean_D1), ones_1D, alpha=-1.0)
        scale_R1 = paddle.rsqrt(paddle.matmul(centred_RD.square(), mean_D1) + epsilon)
        normal_RD = scaled_rows(scale_R1, centred_RD)
        ctx.save_for_backward(normal_RD, scale_R1, weight)
        ones_R1 = paddle.ones([x_RD.shape[0], 1], x.dtype)
        weighted_RD = paddle.matmul(ones_R1, weight.reshape([1, -1])).multiply_(normal_RD)
        return add_row(weighted_RD, bias).reshape(x.shape)

    @staticmethod
    def backward(ctx, gradient):
        normal_RD, scale_R1, weight = ctx.saved_tensor()
        gradient_RD, width = rows_of(gradient), weight.shape[0]
        ones_1R = paddle.ones([1, gradient_RD.shape[0]], gradient.dtype)
        product_RD = gradient_RD * normal_RD
        to_bias, to_weight = (paddle.matmul(ones_1R, each).flatten() for each in (gradient_RD, product_RD))
        # with g = weight * gradient: scale * (g - mean(g) - normal * mean(g * normal))
        weight_D1 = weight.reshape([width, 1]) / width
        mean_R1, along_R1 = paddle.matmul(gradient_RD, weight_D1), paddle.matmul(product_RD, weight_D1)
        to_x = paddle.matmul(scale_R1, weight.reshape([1, width])).multiply_(gradient_RD)
        to_x.subtract_(scaled_rows(scale_R1 * along_R1, normal_RD))
        paddle.addmm_(to_x, scale_R1 * mean_R1, paddle.ones([1, width], to_x.dtype), alpha=-1.0)
        return to_x.reshape(gradient.shape), to_weight, to_bias


class LayerNorm(nn.LayerNorm):
    """`paddle.nn.LayerNorm` over the last axis, with weight and bias."""

    def forward(self, x):
        if on_cpu(x) and not x.stop_gradient and trains(self.weight, self.bias):
            return _LayerNormOnCpu.apply(x, self.weight, self.bias, self._epsilon)
        return super().forward(x)


class _GeluOnCpu(PyLayer):
    """Exact `F.gelu` that keeps its derivative for the backward, in the place of its input."""

    @staticmethod
    def forward(ctx, x):
        cumulative = paddle.erf(x * 0.5**0.5).scale_(0.5, 0.5)  # scale_ multiplies, then adds
        density = x.square().scale_(-0.5).exp_().scale_((2 * paddle.pi) ** -0.5)
        ctx.save_for_backward(density.multiply_(x).add_(cumulative))
        return cumulative.multiply_(x)

    @staticmethod
    def backward(ctx, gradient):
        (derivative,) = ctx.saved_tensor()
        return gradient * derivative


def gelu(x):
    """The exact GELU."""
    return _GeluOnCpu.apply(x) if on_cpu(x) and trains(x) else F.gelu(x)


def attention(query_BHQd, key_BHNd, value_BHNd):
    """Softmax attention, queries scaled by d ** -0.5.

    Returns:
        tensor [B, Q, H * d], heads side by side.
    """
    batch, heads, queries, width = query_BHQd.shape
    if paddle.in_dynamic_mode() and not on_cpu(query_BHQd):  # a GPU's flash attention takes the heads third
        swapped = [x.transpose([0, 2, 1, 3]) for x in (query_BHQd, key_BHNd, value_BHNd)]
        mixed_BQHd = F.scaled_dot_product_attention(*swapped)
    else:
        scores_BHQN = paddle.matmul(query_BHQd * width**-0.5, key_BHNd, transpose_y=True)
        mixed_BQHd = paddle.matmul(F.softmax(scores_BHQN, axis=-1), value_BHNd).transpose([0, 2, 1, 3])
    return mixed_BQHd.reshape([batch, queries, heads * width])
