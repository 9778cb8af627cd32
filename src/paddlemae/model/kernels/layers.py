"""Linear layer, layer norm, GELU and weighted sums, with backward passes that are faster on CPU than Paddle's own.

Shapes: R rows, D and E widths, J sums of K maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from paddlemae.engine import private
from paddlemae.engine.precision import convert, operands
from paddlemae.engine.safe_import import F, nn, paddle
from paddlemae.model.kernels import placement, primitives
from paddlemae.model.kernels.rows import (
    add_row,
    as_rows,
    constant_matrix,
    normalise_rows,
    row_pieces,
    scale_rows,
    split_views,
)


def product(
    left: paddle.Tensor,
    right: paddle.Tensor,
    transpose_x: bool = False,
    transpose_y: bool = False,
    dtype: Any = paddle.float32,
) -> paddle.Tensor:
    """Return the product of two matrices, either of them transposed; of bfloat16 ones in a type."""
    if placement.by_onednn(left):
        return primitives.product(left, right, transpose_x, transpose_y, dtype)
    return paddle.matmul(left, right, transpose_x=transpose_x, transpose_y=transpose_y)


def linear_rows(
    x_RD: paddle.Tensor,
    weight: paddle.Tensor,
    bias: paddle.Tensor,
    added_RE: paddle.Tensor | None = None,
    dtype: Any = paddle.float32,
) -> paddle.Tensor:
    """Return `x @ weight + bias + added`; of bfloat16 operands in a type."""
    if placement.by_onednn(x_RD):
        return primitives.linear(x_RD, weight, bias, added_RE, dtype)
    return add_row(paddle.matmul(x_RD, weight) if added_RE is None else paddle.addmm(added_RE, x_RD, weight), bias)


def linear_gradients(x_RD: paddle.Tensor, gradient_RE: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return the gradients of a linear layer's weight and bias, float32 also of bfloat16 rows."""
    if placement.by_onednn(x_RD):
        return primitives.weight_gradient(x_RD, gradient_RE), sum_rows(gradient_RE)
    return paddle.matmul(x_RD, gradient_RE, transpose_x=True), sum_rows(gradient_RE)


def sum_rows(x_RD: paddle.Tensor) -> paddle.Tensor:
    """Return the sum of all rows, [D], float32 also of bfloat16 ones."""
    ones_1R = constant_matrix(1, x_RD.shape[0], 1.0, x_RD.dtype)
    if x_RD.dtype == paddle.bfloat16:
        return primitives.product(ones_1R, x_RD).flatten()
    return paddle.matmul(ones_1R, x_RD).flatten()


class _LinearOnCpu(paddle.autograd.PyLayer):
    """`F.linear` whose bias is added, and its gradient summed, by matrix products."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        ctx.input_needs_gradient = not x.stop_gradient
        (weight,) = operands(weight)
        x_RD = convert(as_rows(x), weight.dtype)
        ctx.save_for_backward(x if weight.dtype == x.dtype else x_RD, weight)
        return linear_rows(x_RD, weight, bias).reshape([*x.shape[:-1], weight.shape[1]])

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        x, weight = ctx.saved_tensor()
        # pixels need no gradient; PyLayer then wants None
        rows = convert(as_rows(gradient), weight.dtype)
        to_x = None
        if ctx.input_needs_gradient:
            to_x = product(rows, weight, transpose_y=True).reshape([*gradient.shape[:-1], weight.shape[0]])
        return to_x, *linear_gradients(as_rows(x), rows)


def linear(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    """Return `F.linear(x, weight, bias)` for x [..., in], weight [in, out] and bias [out]."""
    both_train = not (weight.stop_gradient or bias.stop_gradient)  # x may be pixels, without a gradient
    if placement.on_cpu(x) and (both_train or placement.all_or_none_train(x, weight, bias)):
        return _LinearOnCpu.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`paddle.nn.Linear` with a bias, computed by `linear`."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return linear(x, self.weight, self.bias)


Normalised = tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]  # rows [R, D], mean [R], variance [R]


def normalise(
    x_RD: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, epsilon: float, dtype: Any = paddle.float32
) -> Normalised:
    """Return the layer norm of each row, by oneDNN in a type, with the mean and variance of the row."""
    if placement.by_onednn(x_RD):
        return primitives.layer_norm(x_RD, weight, bias, epsilon, dtype)
    return private.layer_norm(x_RD, weight, bias, epsilon)


def norm_gradients(
    x_RD: paddle.Tensor,
    moments: Sequence[paddle.Tensor],
    weight: paddle.Tensor,
    epsilon: float,
    gradient_RD: paddle.Tensor,
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Return the gradients of a layer norm's input, weight and bias.

    Args:
        moments: mean and variance that `normalise` gave.
    """
    if placement.by_onednn(x_RD):
        return primitives.norm_gradients(x_RD, moments, weight, epsilon, gradient_RD)
    width = weight.shape[0]
    normal_RD, _, scale_R1 = normalise_rows(x_RD, width, epsilon)
    ones_1R = constant_matrix(1, gradient_RD.shape[0], 1.0, gradient_RD.dtype)
    product_RD = gradient_RD * normal_RD
    to_bias, to_weight = (paddle.matmul(ones_1R, each).flatten() for each in (gradient_RD, product_RD))
    # with g = weight * gradient: scale * (g - mean(g) - normal * mean(g * normal))
    weight_D1 = weight.reshape([width, 1]) / width
    mean_R1, along_R1 = paddle.matmul(gradient_RD, weight_D1), paddle.matmul(product_RD, weight_D1)
    to_x = paddle.matmul(scale_R1, weight.reshape([1, width])).multiply_(gradient_RD)
    to_x.subtract_(scale_rows(scale_R1 * along_R1, normal_RD))
    paddle.addmm_(to_x, scale_R1 * mean_R1, constant_matrix(1, width, 1.0, to_x.dtype), alpha=-1.0)
    return to_x, to_weight, to_bias


class _LayerNormOnCpu(paddle.autograd.PyLayer):
    """`F.layer_norm` over the last axis, whose backward is 8 ns an element in Paddle's own kernel and 2 here."""

    @staticmethod
    def forward(
        ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, epsilon: float
    ) -> paddle.Tensor:
        ctx.epsilon = epsilon
        normal, *moments = normalise(as_rows(x), weight, bias, epsilon)
        ctx.save_for_backward(x, weight, *moments)
        return normal.reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        x, weight, *moments = ctx.saved_tensor()
        to_x, to_weight, to_bias = norm_gradients(as_rows(x), moments, weight, ctx.epsilon, as_rows(gradient))
        return to_x.reshape(gradient.shape), to_weight, to_bias


class LayerNorm(nn.LayerNorm):
    """`paddle.nn.LayerNorm` over the last axis, with weight and bias."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if placement.on_cpu(x) and placement.all_or_none_train(x, self.weight, self.bias):
            return _LayerNormOnCpu.apply(x, self.weight, self.bias, private.epsilon_of(self))
        return super().forward(x)


def gelu_backward(hidden_RE: paddle.Tensor, gradient_RE: paddle.Tensor) -> None:
    """Replace, in place, `hidden` by its exact GELU and the gradient of the GELU by that of `hidden`."""
    if placement.by_onednn(hidden_RE):
        primitives.gelu_backward(hidden_RE, gradient_RE)
        return
    for hidden, gradient in row_pieces(hidden_RE, gradient_RE):
        cumulative = paddle.erf(hidden * 0.5**0.5).scale_(0.5, 0.5)  # scale_ multiplies, then adds
        density = hidden.square().scale_(-0.5, -0.5 * math.log(2 * math.pi)).exp_()
        gradient.multiply_(density.multiply_(hidden).add_(cumulative))  # the slope is Phi(x) + x phi(x)
        hidden.multiply_(cumulative)


def mlp_rows(
    seen_RD: paddle.Tensor, layers: Sequence[paddle.Tensor], added_RD: paddle.Tensor | None
) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
    """Return (`gelu(seen @ weight1 + bias1) @ weight2 + bias2 + added`, what `mlp_gradients` needs).

    Args:
        layers: weight1, bias1, weight2, bias2.
    """
    weight1, bias1, weight2, bias2 = layers
    if placement.by_onednn(seen_RD):
        return primitives.mlp(seen_RD, weight1, bias1, weight2, bias2, added_RD)
    hidden = linear_rows(seen_RD, weight1, bias1)
    return linear_rows(F.gelu(hidden), weight2, bias2, added_RD), [hidden]


def mlp_gradients(
    seen_RD: paddle.Tensor,
    hiddens: Sequence[paddle.Tensor],
    weight1: paddle.Tensor,
    weight2: paddle.Tensor,
    gradient_RD: paddle.Tensor,
) -> tuple[paddle.Tensor, ...]:
    """Return the gradients of what `mlp_rows` sees, and of its weights and biases in their order."""
    if placement.by_onednn(seen_RD):
        made = primitives.mlp_gradients(seen_RD, hiddens, weight1, weight2, gradient_RD)
        return *made, sum_rows(gradient_RD)
    (hidden,) = hiddens
    to_hidden = product(gradient_RD, weight2, transpose_y=True)
    gelu_backward(hidden, to_hidden)
    second, first = linear_gradients(hidden, gradient_RD), linear_gradients(seen_RD, to_hidden)
    return product(to_hidden, weight1, transpose_y=True), *first, *second


class _WeightedSumsOnCpu(paddle.autograd.PyLayer):
    """`weighted_sums`, whose gradients are taken and given as views of one tensor instead of copies."""

    @staticmethod
    def forward(ctx: Any, weight_JK: paddle.Tensor, *maps: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        numbers = paddle.stack(maps).reshape([len(maps), -1])
        ctx.save_for_backward(weight_JK, numbers)
        return tuple(sum_.reshape(maps[0].shape) for sum_ in split_views(paddle.matmul(weight_JK, numbers)))

    @staticmethod
    def backward(ctx: Any, *gradients: paddle.Tensor) -> Any:
        weight_JK, numbers = ctx.saved_tensor()
        gradient = paddle.stack(gradients).reshape([len(gradients), -1])
        to_maps = split_views(paddle.matmul(weight_JK, gradient, transpose_x=True))
        to_weight = paddle.matmul(gradient, numbers, transpose_y=True)
        return to_weight, *(each.reshape(gradients[0].shape) for each in to_maps)


def weighted_sums(weight_JK: paddle.Tensor, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
    """Return J weighted sums of K tensors of one shape; weight is [J, K]."""
    if placement.on_cpu(weight_JK) and placement.all_or_none_train(weight_JK, *maps):
        return list(_WeightedSumsOnCpu.apply(weight_JK, *maps))
    numbers = paddle.stack(maps).reshape([len(maps), -1])
    return paddle.matmul(weight_JK, numbers).reshape([-1, *maps[0].shape]).unbind(0)
