"""Run whole transformer blocks with primitives that are prepared once for their sizes.

The halves of a block (`halves`) allocate their results, look up primitives and pass through Paddle's autograd one by
one: 1.5 ms a block and step, whatever the batch. Where a block has few numbers, that is most of the time, and Python's
lock keeps other threads from computing meanwhile. Here several blocks are one operation with a backward pass written by
hand, in float32, on CPU, by oneDNN.

Shapes: R rows, B images, N tokens, Q of them, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from paddlemae.engine import onednn, private
from paddlemae.engine.onednn_primitives import FLOAT_BYTES, Layout, dense, prepared, transpose
from paddlemae.engine.precision import operands
from paddlemae.engine.safe_import import paddle
from paddlemae.engine.tensors import numbers_at
from paddlemae.model.kernels import placement
from paddlemae.model.kernels.attention import TokenRange
from paddlemae.model.kernels.primitives import CACHED_SCORES
from paddlemae.model.kernels.rows import as_rows, constant_matrix

MOST_HIDDEN = 1 << 20  # numbers of a hidden layer; with more, preparation saves less than 5% of a block's time
LINE = 16  # numbers of a cache line


def run_prepared(blocks: Sequence[Any], x_BND: paddle.Tensor, token_range: TokenRange = None) -> paddle.Tensor | None:
    """Return the output of transformer blocks for training, or None where they are not prepared for these numbers.

    Args:
        blocks: all of the same sizes, without drop path and relative positions.
        token_range: start..stop of the last block's tokens that are returned; None returns all.
    """
    if not blocks or not paddle.is_grad_enabled() or not placement.on_cpu(x_BND) or x_BND.stop_gradient:
        return None
    (images, tokens, width), hidden = x_BND.shape, blocks[0].mlp.fc1.weight.shape[1]
    heads, (start, stop) = blocks[0].attn.num_heads, token_range or (0, tokens)
    fits = images * tokens * hidden <= MOST_HIDDEN and images * heads * tokens**2 <= CACHED_SCORES
    # one token: products of several matrices with an inner size of 1, see `attention`
    if not fits or stop - start < 2 or not placement.by_onednn(x_BND):
        return None
    weights = [weight for block in blocks for weight in _weights_of(block)]
    if any(weight.stop_gradient for weight in weights) or operands(weights[2])[0].dtype != paddle.float32:
        return None
    sizes = _Sizes(images, tokens, heads, width, hidden, private.epsilon_of(blocks[0].norm1))
    stack = prepared(_Stack, len(blocks), sizes, (start, stop))
    return _PreparedBlocks.apply(x_BND, *weights, stack)


def _weights_of(block: Any) -> list[paddle.Tensor]:
    layers = block.norm1, block.attn.qkv, block.attn.proj, block.norm2, block.mlp.fc1, block.mlp.fc2
    return [weight for layer in layers for weight in (layer.weight, layer.bias)]


class _PreparedBlocks(paddle.autograd.PyLayer):
    """Blocks one after another."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, *rest: Any) -> paddle.Tensor:
        *weights, stack = rest
        x_RD = as_rows(x)
        ctx.stack = stack
        ctx.save_for_backward(x_RD, *weights)
        out_RD, ctx.kept = stack.forward(x_RD, weights)
        return out_RD.reshape([x.shape[0], -1, x.shape[-1]])

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        x_RD, *weights = ctx.saved_tensor()
        to_x, *to_weights = ctx.stack.backward(ctx.kept, x_RD, as_rows(gradient), weights)
        return to_x.reshape([gradient.shape[0], -1, gradient.shape[-1]]), *to_weights


class _Sizes(NamedTuple):
    """Sizes of a batch and of a block; `hidden` is the width of the MLP's hidden layer."""

    images: int
    tokens: int
    heads: int
    width: int
    hidden: int
    epsilon: float


class _Stack:
    """Blocks of the same sizes, one after another."""

    def __init__(self, depth: int, sizes: _Sizes, token_range: tuple[int, int]):
        ranges = [(0, sizes.tokens)] * (depth - 1) + [token_range]
        of_range = {each: _Block(sizes, each) for each in set(ranges)}
        self.blocks = [of_range[each] for each in ranges]

    def forward(self, x_RD: paddle.Tensor, weights: Sequence[paddle.Tensor]) -> tuple[paddle.Tensor, list[_Kept]]:
        """Return (the output of the last block, [R, D]; what each block keeps)."""
        last, every_kept = self.blocks[-1], [_Kept(block) for block in self.blocks]
        out = private.empty_on_cpu([last.queries, last.width], paddle.float32)
        outs = [kept.out for kept in every_kept[:-1]] + [out.data_ptr()]
        x = x_RD.data_ptr()
        for block, kept, y, own in zip(self.blocks, every_kept, outs, _addresses(weights), strict=True):
            block.forward(kept, x, y, *own)
            x = y
        return out, every_kept

    def backward(
        self,
        every_kept: Sequence[_Kept],
        x_RD: paddle.Tensor,
        gradient_RD: paddle.Tensor,
        weights: Sequence[paddle.Tensor],
    ) -> list[paddle.Tensor]:
        """Return the gradients of the input and of each weight."""
        to_x = private.empty_on_cpu(x_RD.shape, paddle.float32)
        to_weights = [private.empty_on_cpu(weight.shape, paddle.float32) for weight in weights]
        inputs = [x_RD.data_ptr()] + [kept.out for kept in every_kept[:-1]]
        results = [to_x.data_ptr()] + [kept.to_out for kept in every_kept[:-1]]
        spares = {block: _Spare(block) for block in set(self.blocks)}
        gradient = gradient_RD.data_ptr()
        addresses = _addresses(weights), _addresses(to_weights)
        each = list(zip(self.blocks, every_kept, inputs, results, *addresses, strict=True))
        for block, kept, x, to_input, weight, to_weight in reversed(each):
            block.backward(kept, spares[block], x, gradient, to_input, weight, to_weight)
            gradient = to_input
        return [to_x, *to_weights]


def _addresses(weights: Sequence[paddle.Tensor]) -> list[list[int]]:
    """Return the addresses of each block's weights."""
    addresses = [weight.data_ptr() for weight in weights]
    return [addresses[start : start + 12] for start in range(0, len(addresses), 12)]


class _Kept:
    """Where a block's numbers are; its output and the gradient of it are those of the next block's input."""

    def __init__(self, block: _Block):
        rows, all_narrow = block.rows, block.rows * block.width
        queries, narrow, wide = block.queries, block.queries * block.width, block.queries * block.hidden
        sizes = [all_narrow, rows, rows, 3 * all_narrow, block.scores, narrow, narrow]
        self.memory, places = reserve(*sizes, narrow, queries, queries, wide, wide, narrow, narrow)
        self.seen1, self.mean1, self.variance1, self.projected, self.shares, self.mixed, self.middle, *others = places
        self.seen2, self.mean2, self.variance2, self.wide, self.active, self.out, self.to_out = others
        self.parts = block.parts_of(self.projected)


class _Spare:
    """Where the backward pass of a block has its numbers until it is over."""

    def __init__(self, block: _Block):
        rows, queries = block.rows * block.width, block.queries * block.width
        sizes = [block.queries * block.hidden, rows, queries, 3 * rows, block.scores]
        self.memory, places = reserve(*sizes)
        self.to_wide, self.narrow, self.to_middle, self.to_projected, self.inner = places
        if not block.is_whole:
            numbers_at(self.to_projected, 3 * rows)[:] = 0  # gradients of queries outside of the range
        self.to_parts = block.parts_of(self.to_projected)


class _Block:
    """The primitives of a block.

    Queries, keys and values are computed for all tokens (`rows`), the rest for those of the range (`queries`).
    """

    def __init__(self, sizes: _Sizes, token_range: tuple[int, int]):
        images, tokens, heads, width, hidden, epsilon = sizes
        start, stop = token_range
        self.rows, self.queries, self.width, self.hidden = images * tokens, images * (stop - start), width, hidden
        self.images, self.start, self.stop = images, start * width, stop * width  # the range, in numbers of an image
        self.is_whole = stop - start == tokens
        self.scores = images * heads * (stop - start) * tokens
        self._prepare_attention(sizes, start, stop)
        self._prepare_layers()
        self.norm1, self.norm2 = (onednn.layer_norm(rows, width, epsilon) for rows in (self.rows, self.queries))
        self.from_norm1 = onednn.layer_norm_gradients(self.rows, width, epsilon)
        self.from_norm2 = onednn.layer_norm_gradients(self.queries, width, epsilon)
        self.gelu = onednn.gelu(self.queries * hidden)
        self.gelu_gradient = onednn.gelu_gradient(self.queries * hidden)
        self.add = onednn.add(self.queries * width)
        self.ones = constant_matrix(1, self.rows, 1.0, paddle.float32)

    def parts_of(self, projected: int) -> list[int]:
        """Return the addresses of the range's queries, and of all keys and values."""
        part = FLOAT_BYTES * self.width
        return [projected + 3 * FLOAT_BYTES * self.start, projected + part, projected + 2 * part]

    def _prepare_layers(self) -> None:
        width, hidden = self.width, self.hidden
        rows, three = dense(self.rows, width), dense(self.rows, 3 * width)
        queries, wide = dense(self.queries, width), dense(self.queries, hidden)
        narrow_layer, wide_layer, three_layer = dense(width, width), dense(width, hidden), dense(width, 3 * width)
        back_layer = dense(hidden, width)
        self.project = onednn.matmul(rows, three_layer, three, True)
        self.merge = onednn.matmul(queries, narrow_layer, queries, True, 1.0, queries if self.is_whole else None)
        self.widen = onednn.matmul(queries, wide_layer, wide, True)
        self.narrow = onednn.matmul(wide, back_layer, queries, True, 1.0, queries)
        self.from_projected = onednn.matmul(three, transpose(three_layer), rows)
        self.from_merged = onednn.matmul(queries, transpose(narrow_layer), queries)
        self.from_wide = onednn.matmul(wide, transpose(wide_layer), queries)
        self.from_narrow = onednn.matmul(queries, transpose(back_layer), wide)
        self.to_project = _to_layer(rows, three)
        self.to_merge = _to_layer(queries, queries)
        self.to_widen = _to_layer(queries, wide)
        self.to_narrow = _to_layer(wide, queries)

    def _prepare_attention(self, sizes: _Sizes, start: int, stop: int) -> None:
        images, tokens, heads, width, *_ = sizes
        each, queries = width // heads, stop - start
        shares = dense(images, heads, queries, tokens)
        strides = tokens * 3 * width, each, 3 * width, 1
        query = Layout((images, heads, queries, each), strides)
        pair = Layout((images, heads, tokens, each), strides)
        mixed = Layout((images, heads, queries, each), (queries * width, each, width, 1))
        scaled = False, each**-0.5
        self.score = onednn.matmul(query, transpose(pair), shares, *scaled)
        self.softmax = onednn.softmax(images * heads * queries, tokens)
        self.mix = onednn.matmul(shares, pair, mixed)
        self.to_value = onednn.matmul(transpose(shares), mixed, pair)
        self.to_shares = onednn.matmul(mixed, transpose(pair), shares)
        self.softmax_gradient = onednn.softmax_gradient(images * heads * queries, tokens)
        self.to_query = onednn.matmul(shares, pair, query, *scaled)
        self.to_key = onednn.matmul(transpose(shares), query, pair, *scaled)

    def forward(self, kept: _Kept, x: int, out: int, *weights: int) -> None:
        """Write the block's output; arguments are addresses."""
        norm1, bias1, project, project_bias, merge, merge_bias, norm2, bias2, widen, widen_bias, narrow, bias = weights
        query, key, value = kept.parts
        self.norm1(x, kept.seen1, kept.mean1, kept.variance1, norm1, bias1)
        self.project(kept.seen1, project, kept.projected, project_bias)
        self.score(query, key, kept.shares)
        self.softmax(kept.shares, kept.shares)
        self.mix(kept.shares, value, kept.mixed)
        self.merge(kept.mixed, merge, kept.middle, merge_bias, *[x] * self.is_whole)
        if not self.is_whole:
            self._queries_at(kept.middle)[:] += self._range_at(x)
        self.norm2(kept.middle, kept.seen2, kept.mean2, kept.variance2, norm2, bias2)
        self.widen(kept.seen2, widen, kept.wide, widen_bias)
        self.gelu(kept.wide, kept.active)
        self.narrow(kept.active, narrow, out, bias, kept.middle)

    def backward(
        self,
        kept: _Kept,
        spare: _Spare,
        x: int,
        gradient: int,
        to_x: int,
        weights: Sequence[int],
        to_weights: Sequence[int],
    ) -> None:
        """Write the gradients of the block's input and weights; arguments are addresses."""
        norm1, bias1, project, _, merge, _, norm2, bias2, widen, _, narrow, _ = weights
        self.from_narrow(gradient, narrow, spare.to_wide)
        self.gelu_gradient(kept.wide, spare.to_wide, spare.to_wide)
        self._to_layer(self.to_narrow, kept.active, gradient, *to_weights[10:])
        self._to_layer(self.to_widen, kept.seen2, spare.to_wide, *to_weights[8:10])
        self.from_wide(spare.to_wide, widen, spare.narrow)
        moments = kept.mean2, kept.variance2
        self.from_norm2(kept.middle, *moments, norm2, bias2, spare.narrow, spare.to_middle, *to_weights[6:8])
        self.add(spare.to_middle, gradient, spare.to_middle)
        self.from_merged(spare.to_middle, merge, spare.narrow)
        self._to_layer(self.to_merge, kept.mixed, spare.to_middle, *to_weights[4:6])
        self._attention_backward(kept, spare)
        self._to_layer(self.to_project, kept.seen1, spare.to_projected, *to_weights[2:4])
        self.from_projected(spare.to_projected, project, spare.narrow)
        self.from_norm1(x, kept.mean1, kept.variance1, norm1, bias1, spare.narrow, to_x, *to_weights[:2])
        if self.is_whole:
            self.add(to_x, spare.to_middle, to_x)
        else:
            self._range_at(to_x)[:] += self._queries_at(spare.to_middle)

    def _range_at(self, address: int) -> np.ndarray:
        """Return the range of all tokens at an address, [B, Q * D]; oneDNN adds such parts of a matrix slowly."""
        return numbers_at(address, self.rows * self.width).reshape(self.images, -1)[:, self.start : self.stop]

    def _queries_at(self, address: int) -> np.ndarray:
        return numbers_at(address, self.queries * self.width).reshape(self.images, -1)

    def _attention_backward(self, kept: _Kept, spare: _Spare) -> None:
        """Write the gradient of queries, keys and values from that of the mixed values, which is in `narrow`."""
        (query, key, value), (to_query, to_key, to_value) = kept.parts, spare.to_parts
        self.to_value(kept.shares, spare.narrow, to_value)
        self.to_shares(spare.narrow, value, spare.inner)
        self.softmax_gradient(kept.shares, spare.inner, spare.inner)
        self.to_query(spare.inner, key, to_query)
        self.to_key(spare.inner, query, to_key)

    def _to_layer(self, of_layer: tuple[Any, Any], x: int, gradient: int, to_weight: int, to_bias: int) -> None:
        to_matrix, to_row = of_layer
        to_matrix(x, gradient, to_weight)
        to_row(self.ones.data_ptr(), gradient, to_bias)


def _to_layer(x: Layout, gradient: Layout) -> tuple[Any, Any]:
    """Return what computes the gradients of a linear layer's weight and bias."""
    rows, columns = gradient.sizes
    return (
        onednn.matmul(transpose(x), gradient, dense(x.sizes[1], columns)),
        onednn.matmul(dense(1, rows), gradient, dense(1, columns)),
    )


def reserve(*sizes: int) -> tuple[paddle.Tensor, list[int]]:
    """Return memory for N numbers of each size N, and the address where each begins, on a cache line."""
    padded = [-(-size // LINE) * LINE for size in sizes]
    memory = private.empty_on_cpu([sum(padded) + LINE], paddle.float32)
    first = -(-memory.data_ptr() // (FLOAT_BYTES * LINE)) * FLOAT_BYTES * LINE
    return memory, [first + FLOAT_BYTES * start for start in [0, *accumulate(padded[:-1])]]
