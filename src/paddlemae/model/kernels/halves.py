"""The halves of a transformer block: a norm, attention or an MLP, and the residual; `reference` is their specification.

On CPU what matrix products leave over is bound by memory. So each half is one function there, with a backward pass
written by hand that keeps less for it and reads it less often. On accelerators Paddle's own kernels are used.

The type of the weights that `operands` returns, float32 or bfloat16, is that of what goes into products and of what is
kept of them; x and its gradient are float32.

Shapes: R rows, D and E widths, 4D hidden width; B images, Q queries, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from paddlemae.engine import private
from paddlemae.engine.precision import convert, operands
from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.kernels import placement
from paddlemae.model.kernels.attention import (
    TokenRange,
    attend_projected,
    bias_gradient,
    projected_gradients,
    take_tokens,
)
from paddlemae.model.kernels.layers import (
    linear_gradients,
    linear_rows,
    mlp_gradients,
    mlp_rows,
    norm_gradients,
    normalise,
    product,
)
from paddlemae.model.kernels.rows import as_rows, scale_rows


def row_factors(keep_B: paddle.Tensor, rows: int) -> paddle.Tensor:
    """Return the factor of each of `rows` rows, [R, 1], from one per image."""
    return keep_B.repeat_interleave(rows // keep_B.shape[0]).reshape([-1, 1])


class _ResidualMlpOnCpu(paddle.autograd.PyLayer):
    """`x + keep * mlp(norm(x))`; of [R, 4D] it keeps the hidden layer before its GELU and nothing else."""

    @staticmethod
    def forward(
        ctx: Any,
        x: paddle.Tensor,
        norm_weight: paddle.Tensor,
        norm_bias: paddle.Tensor,
        weight1: paddle.Tensor,
        bias1: paddle.Tensor,
        weight2: paddle.Tensor,
        bias2: paddle.Tensor,
        epsilon: float,
        keep: paddle.Tensor | None,
    ) -> paddle.Tensor:
        x_RD = as_rows(x)
        weight1, weight2 = operands(weight1, weight2)
        seen_RD, *_ = normalise(x_RD, norm_weight, norm_bias, epsilon, weight1.dtype)
        rows_RD, hiddens = mlp_rows(seen_RD, (weight1, bias1, weight2, bias2), x_RD if keep is None else None)
        ctx.epsilon, ctx.keep = epsilon, keep
        ctx.save_for_backward(x, norm_weight, norm_bias, weight1, weight2, *hiddens)
        return _add_kept(x_RD, rows_RD, keep).reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        x, norm_weight, norm_bias, weight1, weight2, *hiddens = ctx.saved_tensor()
        x_RD, branch_RD = as_rows(x), _branch_gradient(as_rows(gradient), ctx.keep, weight1.dtype)
        seen_RD, *moments = normalise(x_RD, norm_weight, norm_bias, ctx.epsilon, weight1.dtype)
        to_seen, *to_layers = mlp_gradients(seen_RD, hiddens, weight1, weight2, branch_RD)
        del seen_RD
        to_x, *to_norm = norm_gradients(x_RD, moments, norm_weight, ctx.epsilon, to_seen)
        to_x = to_x.add_(as_rows(gradient)).reshape(gradient.shape)
        return to_x, *to_norm, *to_layers


class _ResidualAttentionOnCpu(paddle.autograd.PyLayer):
    """`x + keep * attention(norm(x))`, for all tokens or for a range of them, with or without a bias of scores."""

    @staticmethod
    def forward(
        ctx: Any,
        x: paddle.Tensor,
        norm_weight: paddle.Tensor,
        norm_bias: paddle.Tensor,
        weight: paddle.Tensor,
        bias: paddle.Tensor,
        proj_weight: paddle.Tensor,
        proj_bias: paddle.Tensor,
        score_bias: paddle.Tensor | None,  # in front of `keep`: gradients are those of the first tensors
        epsilon: float,
        heads: int,
        token_range: TokenRange,
        keep: paddle.Tensor | None,
    ) -> paddle.Tensor:
        weight, proj_weight = operands(weight, proj_weight)
        seen_BND = normalise(as_rows(x), norm_weight, norm_bias, epsilon, weight.dtype)[0].reshape(x.shape)
        if token_range is None:
            projections = [_apply_linear(seen_BND, weight, bias)]
        else:
            seen_BQD, of_each = take_tokens(seen_BND, token_range), _split_qkv(weight, bias)
            projections = [_apply_linear(x, *layer) for x, layer in zip((seen_BQD, seen_BND), of_each)]
        ctx.epsilon, ctx.heads, ctx.token_range, ctx.keep = epsilon, heads, token_range, keep
        mixed, attended = attend_projected(projections, heads, score_bias)
        ctx.has_score_bias = score_bias is not None
        ctx.save_for_backward(x, norm_weight, norm_bias, weight, bias, proj_weight, *attended)
        x_BQD = take_tokens(x, token_range)
        return _residual(as_rows(x_BQD), as_rows(mixed), proj_weight, proj_bias, keep).reshape(x_BQD.shape)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        x, norm_weight, norm_bias, weight, bias, proj_weight, *attended = ctx.saved_tensor()
        mixed = convert(attended[-1], weight.dtype)
        branch_RD = _branch_gradient(as_rows(gradient), ctx.keep, weight.dtype)
        to_proj = linear_gradients(as_rows(mixed), branch_RD)
        to_mixed = product(branch_RD, proj_weight, transpose_y=True, dtype=weight.dtype).reshape(mixed.shape)
        seen_RD, *moments = normalise(as_rows(x), norm_weight, norm_bias, ctx.epsilon, weight.dtype)
        parts = 1 if ctx.token_range is None else 2
        projections, to_scores = projected_gradients(attended, to_mixed, ctx.heads, parts, ctx.has_score_bias)
        if ctx.token_range is None:
            to_all = as_rows(projections[0])
            to_weight, to_bias = linear_gradients(seen_RD, to_all)
            to_seen = product(to_all, weight, transpose_y=True)
        else:
            (query_weight, _), (pair_weight, _) = _split_qkv(weight, bias)
            seen_BND = seen_RD.reshape(x.shape)
            to_queries, to_pair = (as_rows(each) for each in projections)
            of_query = linear_gradients(as_rows(take_tokens(seen_BND, ctx.token_range)), to_queries)
            of_pair = linear_gradients(seen_RD, to_pair)
            to_weight, to_bias = (paddle.concat(each, axis=-1) for each in zip(of_query, of_pair))
            to_seen = product(to_pair, pair_weight, transpose_y=True).reshape(seen_BND.shape)
            added = product(to_queries, query_weight, transpose_y=True).reshape(gradient.shape)
            to_seen = as_rows(_add_to_tokens(to_seen, ctx.token_range, added))
        to_x, *to_norm = norm_gradients(as_rows(x), moments, norm_weight, ctx.epsilon, to_seen)
        if ctx.token_range is None:
            to_x = to_x.add_(as_rows(gradient)).reshape(gradient.shape)
        else:
            to_x = _add_to_tokens(to_x.reshape(x.shape), ctx.token_range, gradient)
        to_score_bias = [bias_gradient(to_scores)] if ctx.has_score_bias and to_scores is not None else []
        return to_x, *to_norm, to_weight, to_bias, *to_proj, *to_score_bias


class _ResidualCrossAttentionOnCpu(paddle.autograd.PyLayer):
    """`x + attention(norm(x), memory)`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: paddle.Tensor,
        memory: paddle.Tensor,
        norm_weight: paddle.Tensor,
        norm_bias: paddle.Tensor,
        *rest: Any,
    ) -> paddle.Tensor:
        query_weight, query_bias, pair_weight, pair_bias, proj_weight, proj_bias, epsilon, heads = rest
        query_weight, pair_weight, proj_weight = operands(query_weight, pair_weight, proj_weight)
        dtype = query_weight.dtype
        seen_BQD = normalise(as_rows(x), norm_weight, norm_bias, epsilon, dtype)[0].reshape(x.shape)
        layers = (seen_BQD, query_weight, query_bias), (convert(memory, dtype), pair_weight, pair_bias)
        mixed, attended = attend_projected([_apply_linear(*each) for each in layers], heads)
        ctx.epsilon, ctx.heads = epsilon, heads
        weights = (norm_weight, norm_bias, query_weight, pair_weight, proj_weight)
        ctx.save_for_backward(x, memory, *weights, *attended)
        return _residual(as_rows(x), as_rows(mixed), proj_weight, proj_bias, None).reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        saved = ctx.saved_tensor()
        x, memory, norm_weight, norm_bias, query_weight, pair_weight, proj_weight, *attended = saved
        x_RD, dtype = as_rows(x), proj_weight.dtype
        mixed = convert(attended[-1], dtype)
        branch_RD = convert(as_rows(gradient), dtype)
        to_proj = linear_gradients(as_rows(mixed), branch_RD)
        to_mixed = product(branch_RD, proj_weight, transpose_y=True, dtype=dtype).reshape(mixed.shape)
        projections, _ = projected_gradients(attended, to_mixed, ctx.heads, 2, False)
        to_queries, to_pair = (as_rows(each) for each in projections)
        seen_RD, *moments = normalise(x_RD, norm_weight, norm_bias, ctx.epsilon, dtype)
        to_query = linear_gradients(seen_RD, to_queries)
        to_seen = product(to_queries, query_weight, transpose_y=True)
        to_x, *to_norm = norm_gradients(x_RD, moments, norm_weight, ctx.epsilon, to_seen)
        to_memory = product(to_pair, pair_weight, transpose_y=True).reshape(memory.shape)
        to_pair_layer = linear_gradients(convert(as_rows(memory), dtype), to_pair)
        to_x = to_x.add_(as_rows(gradient)).reshape(x.shape)
        return to_x, to_memory, *to_norm, *to_query, *to_pair_layer, *to_proj


def _apply_linear(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    return linear_rows(as_rows(x), weight, bias, dtype=weight.dtype).reshape([*x.shape[:-1], -1])


def _split_qkv(weight: paddle.Tensor, bias: paddle.Tensor) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
    """Return (weight, bias) of the queries, and of the keys and values."""
    width = weight.shape[0]
    return zip(weight.split([width, 2 * width], axis=1), bias.split([width, 2 * width]))


def _residual(
    x_RD: paddle.Tensor,
    inner_RE: paddle.Tensor,
    weight: paddle.Tensor,
    bias: paddle.Tensor,
    keep_B: paddle.Tensor | None,
) -> paddle.Tensor:
    """Return `x + keep * (inner @ weight + bias)`."""
    return _add_kept(x_RD, linear_rows(inner_RE, weight, bias, x_RD if keep_B is None else None), keep_B)


def _add_kept(x_RD: paddle.Tensor, rows_RD: paddle.Tensor, keep_B: paddle.Tensor | None) -> paddle.Tensor:
    """Return `x + keep * rows`; without factors x is in `rows` already."""
    return rows_RD if keep_B is None else scale_rows(row_factors(keep_B, x_RD.shape[0]), rows_RD).add_(x_RD)


def _branch_gradient(gradient_RD: paddle.Tensor, keep_B: paddle.Tensor | None, dtype: Any) -> paddle.Tensor:
    if keep_B is not None:
        gradient_RD = scale_rows(row_factors(keep_B, gradient_RD.shape[0]), gradient_RD)
    return convert(gradient_RD, dtype)


def _add_to_tokens(x_BND: paddle.Tensor, token_range: tuple[int, int], added_BQD: paddle.Tensor) -> paddle.Tensor:
    start, stop = token_range
    sizes = [start, stop - start, x_BND.shape[1] - stop]
    parts = x_BND.split([size for size in sizes if size], axis=1)
    parts[int(start > 0)].add_(added_BQD)
    return paddle.concat(parts, axis=1)


def residual(x_BND: paddle.Tensor, branch_BND: paddle.Tensor, keep_B: paddle.Tensor | None = None) -> paddle.Tensor:
    """Return `x + keep * branch`, one factor per image (drop path)."""
    return x_BND + (branch_BND if keep_B is None else branch_BND * keep_B.reshape([-1, 1, 1]))


def residual_mlp(
    x_BND: paddle.Tensor, norm: nn.LayerNorm, mlp: Any, keep_B: paddle.Tensor | None = None
) -> paddle.Tensor:
    """Return `x + keep * mlp(norm(x))`.

    Args:
        mlp: `fc1`, an exact GELU, `fc2`.
        keep_B: a factor for each image, without a gradient; None is 1.
    """
    weights = [norm.weight, norm.bias, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias]
    if placement.on_cpu(x_BND) and placement.all_or_none_train(x_BND, *weights):
        return _ResidualMlpOnCpu.apply(x_BND, *weights, private.epsilon_of(norm), keep_B)
    return residual(x_BND, mlp(norm(x_BND)), keep_B)


def residual_attention(
    x_BND: paddle.Tensor,
    norm: nn.LayerNorm,
    attn: nn.Layer,
    token_range: TokenRange = None,
    keep_B: paddle.Tensor | None = None,
    bias_HQN: paddle.Tensor | None = None,
) -> paddle.Tensor:
    """Return `x + keep * attn(norm(x))` of all tokens, or of start..stop of each image: [B, stop - start, D].

    Args:
        attn: self-attention with `qkv`, `proj` and `num_heads`.
        keep_B: as in `residual_mlp`.
        bias_HQN: added to the scores of every image, for the queries of the range; None is 0.
    """
    weights = [norm.weight, norm.bias, attn.qkv.weight, attn.qkv.bias, attn.proj.weight, attn.proj.bias]
    tensors = [x_BND, *weights] if bias_HQN is None else [x_BND, *weights, bias_HQN]
    if placement.on_cpu(x_BND) and placement.all_or_none_train(*tensors):
        settings = private.epsilon_of(norm), attn.num_heads, token_range, keep_B
        return _ResidualAttentionOnCpu.apply(x_BND, *weights, bias_HQN, *settings)
    return residual(take_tokens(x_BND, token_range), attn(norm(x_BND), token_range, bias_HQN), keep_B)


def residual_cross_attention(
    x_BQD: paddle.Tensor, memory_BNE: paddle.Tensor, norm: nn.LayerNorm, attn: Any
) -> paddle.Tensor:
    """Return `x + attn(norm(x), memory)`.

    Args:
        attn: attention with `q` of x, `kv` of the memory, `proj` and `num_heads`.
    """
    layers = (norm, attn.q, attn.kv, attn.proj)
    weights = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    if placement.on_cpu(x_BQD) and placement.all_or_none_train(x_BQD, memory_BNE, *weights):
        return _ResidualCrossAttentionOnCpu.apply(x_BQD, memory_BNE, *weights, private.epsilon_of(norm), attn.num_heads)
    return x_BQD + attn(norm(x_BQD), memory_BNE)
