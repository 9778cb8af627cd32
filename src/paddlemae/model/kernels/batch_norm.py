"""Batch norm of channels that come last, with or without a ReLU behind it.

Shapes: R rows (places of all images), C channels.
"""

from __future__ import annotations

from typing import Any

from paddlemae.engine.safe_import import F, nn, paddle
from paddlemae.model.kernels import placement
from paddlemae.model.kernels.rows import add_row, as_rows, constant_matrix, row_pieces

EPSILON = 1e-5  # PyTorch's
TAKEN_IN = 0.1  # of a batch's statistics into the running ones


def _sum(x_RC: paddle.Tensor) -> paddle.Tensor:
    """Return the sum of a piece of rows, [1, C]."""
    return paddle.matmul(constant_matrix(1, x_RC.shape[0], 1.0, x_RC.dtype), x_RC)


def _scale(x_RC: paddle.Tensor, row_C: paddle.Tensor) -> paddle.Tensor:
    """Return rows times one number a channel."""
    ones_R1 = constant_matrix(x_RC.shape[0], 1, 1.0, x_RC.dtype)
    return paddle.matmul(ones_R1, row_C.reshape([1, -1])).multiply_(x_RC)


class _BatchNormOnCpu(paddle.autograd.PyLayer):
    """Batch norm by the batch's own statistics; pieces of rows stay in the cache for several operations.

    Sums of pieces are added up, which is also more precise in float32 than one row after the other.
    """

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, relu: bool) -> Any:
        centred = as_rows(x).contiguous().clone()
        count, pieces = centred.shape[0], list(row_pieces(centred))
        mean = paddle.add_n([_sum(piece) for (piece,) in pieces]).flatten() / count
        squares = []
        for (piece,) in pieces:
            add_row(piece, -mean)
            squares.append(_sum(piece.square()))
        variance = paddle.add_n(squares).flatten() / count
        inverse = paddle.rsqrt(variance + EPSILON)
        out = paddle.empty_like(centred)
        for piece, result in row_pieces(centred, out):
            ones_R1 = constant_matrix(piece.shape[0], 1, 1.0, piece.dtype)
            paddle.matmul(ones_R1, (weight * inverse).reshape([1, -1]), out=result)
            add_row(result.multiply_(piece), bias)
            if relu:
                F.relu_(result)
        ctx.relu = relu
        ctx.save_for_backward(centred, inverse, weight, bias)
        ctx.mark_non_differentiable(mean, variance)
        return out.reshape(x.shape), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor, *_: Any) -> Any:
        centred, inverse, weight, bias = ctx.saved_tensor()
        to_x = as_rows(gradient).contiguous().clone()
        count, scale = to_x.shape[0], weight * inverse
        sums, products = [], []
        for piece, given in row_pieces(centred, to_x):
            if ctx.relu:
                given.multiply_((add_row(_scale(piece, scale), bias) > 0).astype(given.dtype))
            sums.append(_sum(given))
            products.append(_sum(given * piece))
        to_bias, along = paddle.add_n(sums).flatten(), paddle.add_n(products).flatten() * inverse
        # with n the normalised rows: weight * inverse * (g - mean(g) - n * mean(g * n))
        for piece, given in row_pieces(centred, to_x):
            given.multiply_(paddle.matmul(constant_matrix(given.shape[0], 1, 1.0, given.dtype), scale.reshape([1, -1])))
            given.subtract_(_scale(piece, scale * inverse * along / count))
            add_row(given, -scale * to_bias / count)
        return to_x.reshape(gradient.shape), along, to_bias


class BatchNorm(nn.Layer):
    """Batch norm (Ioffe and Szegedy, arXiv 1502.03167) over all axes but the last, its numbers as PyTorch's.

    In training the statistics are those of the micro-batch that this process has, so a process needs a few images at a
    time. The running ones are averaged over several processes after each step (`train.loop.fit`).

    Args:
        channels: C.
        relu: whether negative outputs become 0.
    """

    def __init__(self, channels: int, *, relu: bool = False) -> None:
        super().__init__()
        self.relu = relu
        self.weight = self.create_parameter([channels], default_initializer=nn.initializer.Constant(1.0))
        self.bias = self.create_parameter([channels], is_bias=True)
        self.register_buffer("running_mean", paddle.zeros([channels]))
        self.register_buffer("running_var", paddle.ones([channels]))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if x.dtype != self.weight.dtype:  # under autocast a mean in half precision would be rough
            x = x.astype(self.weight.dtype)
        if not self.training:
            scale = self.weight * paddle.rsqrt(self.running_var + EPSILON)
            shift = self.bias - self.running_mean * scale
            if placement.on_cpu(x) and not paddle.is_grad_enabled():
                out = add_row(_scale(as_rows(x), scale), shift).reshape(x.shape)
                return F.relu_(out) if self.relu else out
            return self._activated(x * scale + shift)
        count = x.size // x.shape[-1]
        if placement.on_cpu(x) and placement.all_or_none_train(x, self.weight, self.bias):
            out, mean, variance = _BatchNormOnCpu.apply(x, self.weight, self.bias, self.relu)
        else:
            axes = list(range(x.ndim - 1))
            mean = x.mean(axes)
            variance = (x - mean).square().mean(axes)
            out = self._activated((x - mean) * (self.weight * paddle.rsqrt(variance + EPSILON)) + self.bias)
        with paddle.no_grad():  # the running variance is the unbiased one
            self.running_mean.scale_(1 - TAKEN_IN).add_(mean * TAKEN_IN)
            self.running_var.scale_(1 - TAKEN_IN).add_(variance * (TAKEN_IN * count / max(1, count - 1)))
        return out

    def _activated(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(x) if self.relu else x


def running_statistics(model: nn.Layer) -> list[paddle.Tensor]:
    """Return what a model's batch norms change in a training's forward passes."""
    return [buffer for layer in model.sublayers() if isinstance(layer, BatchNorm) for buffer in layer.buffers()]
