"""Faster formulations of single layers: the same mathematics, cheaper on the device at hand.

Each stands behind the plain layer's interface and is used only where it is faster. On CPU a matrix product runs 5 to
30 times as fast an element as Paddle's sums and broadcasts, so sums over rows or columns and additions of a row are
written as products with ones; and what is left is bound by memory, so the two halves of a transformer block are one
function each, with a backward written by hand that keeps less for it and passes over it less often. On accelerators
Paddle's own kernels are used, flash attention among them.

Shapes: R rows, D width, 4D hidden width; B images, H heads, Q queries, N tokens, d width of a head.
"""

from __future__ import annotations

import math
from functools import lru_cache

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

Wanted = tuple[int, int] | None  # tokens start..stop of each image whose output is used; None is all of them


def on_cpu(x) -> bool:
    """Whether `x` is computed here and now, on CPU: not while a program is traced for export."""
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()


def trains(*tensors) -> bool:
    """Whether all of these get gradients."""
    return paddle.is_grad_enabled() and not any(tensor.stop_gradient for tensor in tensors)


@lru_cache(maxsize=256)
def constant(rows: int, columns: int, value: float, dtype):
    """A matrix of one number, made once on CPU: making it costs as much as multiplying by it. Don't write into it."""
    return paddle.full([rows, columns], value, dtype)


@lru_cache(maxsize=16)
def head_sums(heads: int, width: int, dtype):
    """[heads * width, heads], which adds up each head's part of a row. Don't write into it."""
    return paddle.eye(heads, dtype=dtype).repeat_interleave(width, axis=0)


def rows_of(x):
    """[R, D] from [..., D], without a copy."""
    return x.reshape([-1, x.shape[-1]])


def add_row(x_RD, row_D):
    """`x += row`, in place."""
    return paddle.addmm_(x_RD, constant(x_RD.shape[0], 1, 1.0, x_RD.dtype), row_D.reshape([1, -1]))


def scaled_rows(scale_R1, x_RD):
    """`scale * x`: an outer product and an elementwise one cost less than a broadcast."""
    return paddle.matmul(scale_R1, constant(1, x_RD.shape[1], 1.0, x_RD.dtype)).multiply_(x_RD)


def normal_rows(x_RD, degrees: int, epsilon: float):
    """Each row less its mean, over its deviation: (normal [R, D], mean [R, 1], scale [R, 1]).

    Args:
        degrees: what squares are divided by for the variance, D or D - 1.
        epsilon: added to the variance; scale is one over the root of that.
    """
    width = x_RD.shape[1]
    mean_R1 = paddle.matmul(x_RD, constant(width, 1, 1 / width, x_RD.dtype))
    normal_RD = paddle.addmm(x_RD, mean_R1, constant(1, width, 1.0, x_RD.dtype), alpha=-1.0)
    variance_R1 = paddle.matmul(normal_RD.square(), constant(width, 1, 1 / degrees, x_RD.dtype))
    scale_R1 = paddle.rsqrt(variance_R1 + epsilon)
    return scaled_rows(scale_R1, normal_RD), mean_R1, scale_R1


def scale_channels(images_BCHW, scale_C, shift_C):
    """`scale * image + shift`, one number of each a channel; without gradients."""
    if not on_cpu(images_BCHW):
        return images_BCHW * scale_C.reshape([-1, 1, 1]) + shift_C.reshape([-1, 1, 1])
    batch, channels, *size = images_BCHW.shape
    scale_R1, shift_R1 = (each.tile([batch]).reshape([-1, 1]) for each in (scale_C, shift_C))
    scaled_RD = scaled_rows(scale_R1, images_BCHW.reshape([batch * channels, -1]))
    paddle.addmm_(scaled_RD, shift_R1, constant(1, scaled_RD.shape[1], 1.0, scaled_RD.dtype))
    return scaled_RD.reshape([batch, channels, *size])


def linear_rows(x_RD, weight, bias):
    """`x @ weight + bias`."""
    return add_row(paddle.matmul(x_RD, weight), bias)


def linear_gradients(x_RD, gradient_RE):
    """Of weight and bias."""
    ones_1R = constant(1, gradient_RE.shape[0], 1.0, gradient_RE.dtype)
    return paddle.matmul(x_RD, gradient_RE, transpose_x=True), paddle.matmul(ones_1R, gradient_RE).flatten()


class _LinearOnCpu(PyLayer):
    """`F.linear` whose bias is added, and its gradient summed, by matrix products."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.input_needs_gradient = not x.stop_gradient
        return linear_rows(rows_of(x), weight, bias).reshape([*x.shape[:-1], weight.shape[1]])

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensor()
        # pixels need no gradient; PyLayer then wants None
        to_x = paddle.matmul(gradient, weight, transpose_y=True) if ctx.input_needs_gradient else None
        return to_x, *linear_gradients(rows_of(x), rows_of(gradient))


def linear(x, weight, bias):
    """`F.linear(x, weight, bias)`: x [..., in], weight [in, out], bias [out]."""
    if on_cpu(x) and trains(weight, bias):
        return _LinearOnCpu.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`paddle.nn.Linear` with a bias, computed by `linear`."""

    def forward(self, x):
        return linear(x, self.weight, self.bias)


def weighted_rows(normal_RD, weight, bias):
    """`normal * weight + bias`, what a layer norm ends with."""
    ones_R1 = constant(normal_RD.shape[0], 1, 1.0, normal_RD.dtype)
    return add_row(paddle.matmul(ones_R1, weight.reshape([1, -1])).multiply_(normal_RD), bias)


def norm_gradients(normal_RD, scale_R1, weight, gradient_RD):
    """Of a layer norm's input, weight and bias; `normal` and `scale` are `normal_rows`'s."""
    width = weight.shape[0]
    ones_1R = constant(1, gradient_RD.shape[0], 1.0, gradient_RD.dtype)
    product_RD = gradient_RD * normal_RD
    to_bias, to_weight = (paddle.matmul(ones_1R, each).flatten() for each in (gradient_RD, product_RD))
    # with g = weight * gradient: scale * (g - mean(g) - normal * mean(g * normal))
    weight_D1 = weight.reshape([width, 1]) / width
    mean_R1, along_R1 = paddle.matmul(gradient_RD, weight_D1), paddle.matmul(product_RD, weight_D1)
    to_x = paddle.matmul(scale_R1, weight.reshape([1, width])).multiply_(gradient_RD)
    to_x.subtract_(scaled_rows(scale_R1 * along_R1, normal_RD))
    paddle.addmm_(to_x, scale_R1 * mean_R1, constant(1, width, 1.0, to_x.dtype), alpha=-1.0)
    return to_x, to_weight, to_bias


class _LayerNormOnCpu(PyLayer):
    """`F.layer_norm` over the last axis, whose backward is 8 ns an element in Paddle's own kernel and 2 here."""

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon: float):
        x_RD = rows_of(x)
        normal_RD, _, scale_R1 = normal_rows(x_RD, x_RD.shape[1], epsilon)
        ctx.save_for_backward(normal_RD, scale_R1, weight)
        return weighted_rows(normal_RD, weight, bias).reshape(x.shape)

    @staticmethod
    def backward(ctx, gradient):
        to_x, to_weight, to_bias = norm_gradients(*ctx.saved_tensor(), rows_of(gradient))
        return to_x.reshape(gradient.shape), to_weight, to_bias


class LayerNorm(nn.LayerNorm):
    """`paddle.nn.LayerNorm` over the last axis, with weight and bias."""

    def forward(self, x):
        if on_cpu(x) and not x.stop_gradient and trains(self.weight, self.bias):
            return _LayerNormOnCpu.apply(x, self.weight, self.bias, self._epsilon)
        return super().forward(x)


def gelu_with_slope(x):
    """(exact GELU of x, its derivative): x Phi(x) and Phi(x) + x phi(x)."""
    cumulative = paddle.erf(x * 0.5**0.5).scale_(0.5, 0.5)  # scale_ multiplies, then adds
    slope = x.square().scale_(-0.5, -0.5 * math.log(2 * math.pi)).exp_().multiply_(x).add_(cumulative)
    return cumulative.multiply_(x), slope


def heads_of(x_BNE, parts: int, num_heads: int):
    """[parts, B, H, N, d] from [B, N, parts * H * d]."""
    batch, tokens, width = x_BNE.shape
    split = x_BNE.reshape([batch, tokens, parts, num_heads, width // (parts * num_heads)])
    return split.transpose([2, 0, 3, 1, 4])


def merged(x_PBHNd):
    """The reverse of `heads_of`."""
    parts, batch, heads, tokens, width = x_PBHNd.shape
    return x_PBHNd.transpose([1, 3, 0, 2, 4]).reshape([batch, tokens, parts * heads * width])


def split_heads(x_BNE, parts: int, num_heads: int):
    """`parts` tensors [B, H, N, d] from [B, N, parts * H * d]."""
    # unbind, since taking it apart by index costs 20 times as much backward on CPU
    return heads_of(x_BNE, parts, num_heads).unbind(0)


def tokens_of(x_BND, wanted: Wanted):
    """The tokens start..stop of each image."""
    if wanted is None:
        return x_BND
    start, stop = wanted
    parts = [start, stop - start, x_BND.shape[1] - stop]
    if parts[0] == parts[2] == 0:
        return x_BND
    # split, since slicing costs 20 times as much backward on CPU
    return x_BND.split([size for size in parts if size], axis=1)[int(start > 0)]


def attend(query_BHQd, key_BHNd, value_BHNd):
    """(softmax of query key^T [B, H, Q, N], mixed values [B, Q, H * d]); the query is scaled already."""
    shares_BHQN = F.softmax_(paddle.matmul(query_BHQd, key_BHNd, transpose_y=True), axis=-1)
    return shares_BHQN, merged(paddle.matmul(shares_BHQN, value_BHNd).unsqueeze(0))


def attend_gradients(query_BHQd, key_BHNd, value_BHNd, shares_BHQN, mixed_BQE, gradient_BQE):
    """Of `attend`'s query, key and value, given that of the mixed values.

    softmax's gradient is P * (dP - delta), where delta, a number a query, is the product of the mixed values with
    their gradient (Dao et al., FlashAttention-2, sec. 2.3); one more column of a matrix product subtracts it.
    """
    heads, width = query_BHQd.shape[1], query_BHQd.shape[3]
    gradient_BHQd = heads_of(gradient_BQE, 1, heads).squeeze(0)
    to_value = paddle.matmul(shares_BHQN, gradient_BHQd, transpose_x=True)
    sums_EH = head_sums(heads, width, mixed_BQE.dtype)
    delta_BHQ1 = paddle.matmul(gradient_BQE * mixed_BQE, sums_EH).transpose([0, 2, 1]).unsqueeze(-1)
    longer_BHQd = paddle.concat([gradient_BHQd, -delta_BHQ1], axis=-1)
    ones_BHN1 = paddle.ones([*value_BHNd.shape[:-1], 1], value_BHNd.dtype)
    inner_BHQN = paddle.matmul(longer_BHQd, paddle.concat([value_BHNd, ones_BHN1], axis=-1), transpose_y=True)
    inner_BHQN.multiply_(shares_BHQN)
    to_query = paddle.matmul(inner_BHQN, key_BHNd)
    return to_query, paddle.matmul(inner_BHQN, query_BHQd, transpose_x=True), to_value


class _AttentionOnCpu(PyLayer):
    """`attention` with a backward that passes over the queries' shares three times instead of nine."""

    @staticmethod
    def forward(ctx, query, key, value):
        ctx.scale = query.shape[-1] ** -0.5
        query = query * ctx.scale
        shares, mixed = attend(query, key, value)
        ctx.save_for_backward(query, key, value, shares, mixed)
        return mixed

    @staticmethod
    def backward(ctx, gradient):
        to_query, to_key, to_value = attend_gradients(*ctx.saved_tensor(), gradient)
        return to_query.scale_(ctx.scale), to_key, to_value


def attention(query_BHQd, key_BHNd, value_BHNd):
    """Softmax attention, queries scaled by d ** -0.5.

    Returns:
        tensor [B, Q, H * d], heads side by side.
    """
    batch, heads, queries, width = query_BHQd.shape
    if on_cpu(query_BHQd):
        if trains(query_BHQd, key_BHNd, value_BHNd):
            return _AttentionOnCpu.apply(query_BHQd, key_BHNd, value_BHNd)
    elif paddle.in_dynamic_mode():  # a GPU's flash attention takes the heads third
        swapped = [x.transpose([0, 2, 1, 3]) for x in (query_BHQd, key_BHNd, value_BHNd)]
        return F.scaled_dot_product_attention(*swapped).reshape([batch, queries, heads * width])
    scores_BHQN = paddle.matmul(query_BHQd * width**-0.5, key_BHNd, transpose_y=True)
    mixed_BQHd = paddle.matmul(F.softmax(scores_BHQN, axis=-1), value_BHNd).transpose([0, 2, 1, 3])
    return mixed_BQHd.reshape([batch, queries, heads * width])


def kept_rows(keep_B, rows: int):
    """The factor of each of `rows` rows [R, 1], from one an image."""
    return keep_B.repeat_interleave(rows // keep_B.shape[0]).reshape([-1, 1])


class _ResidualMlpOnCpu(PyLayer):
    """`x + keep * mlp(norm(x))`; of [R, 4D] it keeps the hidden layer before its GELU and nothing else."""

    @staticmethod
    def forward(ctx, x, norm_weight, norm_bias, weight1, bias1, weight2, bias2, epsilon: float, keep):
        x_RD = rows_of(x)
        normal_RD, _, scale_R1 = normal_rows(x_RD, x_RD.shape[1], epsilon)
        hidden = linear_rows(weighted_rows(normal_RD, norm_weight, norm_bias), weight1, bias1)
        active = F.gelu(hidden)
        ctx.keep = keep
        ctx.save_for_backward(normal_RD, scale_R1, hidden, norm_weight, norm_bias, weight1, weight2)
        return _residual(x_RD, active, weight2, bias2, keep).reshape(x.shape)

    @staticmethod
    def backward(ctx, gradient):
        normal_RD, scale_R1, hidden, norm_weight, norm_bias, weight1, weight2 = ctx.saved_tensor()
        branch_RD = _branch_gradient(rows_of(gradient), ctx.keep)
        active, slope = gelu_with_slope(hidden)
        to_weight2, to_bias2 = linear_gradients(active, branch_RD)
        del active
        to_hidden = paddle.matmul(branch_RD, weight2, transpose_y=True).multiply_(slope)
        del slope
        to_weight1, to_bias1 = linear_gradients(weighted_rows(normal_RD, norm_weight, norm_bias), to_hidden)
        to_normal = paddle.matmul(to_hidden, weight1, transpose_y=True)
        to_x, *to_norm = norm_gradients(normal_RD, scale_R1, norm_weight, to_normal)
        to_x = to_x.add_(rows_of(gradient)).reshape(gradient.shape)
        return to_x, *to_norm, to_weight1, to_bias1, to_weight2, to_bias2


class _ResidualAttentionOnCpu(PyLayer):
    """`x + keep * attention(norm(x))`, for all tokens or for those that are wanted."""

    @staticmethod
    def forward(ctx, x, norm_weight, norm_bias, weight, bias, proj_weight, proj_bias, epsilon, heads, wanted, keep):
        x_RD, width = rows_of(x), x.shape[-1]
        normal_RD, _, scale_R1 = normal_rows(x_RD, width, epsilon)
        seen_BND = weighted_rows(normal_RD, norm_weight, norm_bias).reshape(x.shape)
        if wanted is None:
            query, key, value = split_heads(_linear_of(seen_BND, weight, bias), 3, heads)
        else:
            (query_weight, pair_weight), (query_bias, pair_bias) = _query_and_pair(weight, bias)
            (query,) = split_heads(_linear_of(tokens_of(seen_BND, wanted), query_weight, query_bias), 1, heads)
            key, value = split_heads(_linear_of(seen_BND, pair_weight, pair_bias), 2, heads)
        ctx.query_scale, ctx.wanted, ctx.keep = (width // heads) ** -0.5, wanted, keep
        query.scale_(ctx.query_scale)
        shares, mixed = attend(query, key, value)
        tensors = (normal_RD, scale_R1, norm_weight, norm_bias, weight, bias, proj_weight)
        ctx.save_for_backward(*tensors, query, key, value, shares, mixed)
        x_BQD = tokens_of(x, wanted)
        return _residual(rows_of(x_BQD), rows_of(mixed), proj_weight, proj_bias, keep).reshape(x_BQD.shape)

    @staticmethod
    def backward(ctx, gradient):
        normal_RD, scale_R1, norm_weight, norm_bias, weight, bias, proj_weight, *attended = ctx.saved_tensor()
        mixed, width = attended[-1], weight.shape[0]
        branch_RD = _branch_gradient(rows_of(gradient), ctx.keep)
        to_proj = linear_gradients(rows_of(mixed), branch_RD)
        to_mixed = paddle.matmul(branch_RD, proj_weight, transpose_y=True).reshape(mixed.shape)
        to_query, to_key, to_value = attend_gradients(*attended, to_mixed)
        to_query.scale_(ctx.query_scale)
        del attended, to_mixed
        seen_RD = weighted_rows(normal_RD, norm_weight, norm_bias)
        if ctx.wanted is None:
            to_all = rows_of(merged(paddle.stack([to_query, to_key, to_value])))
            to_qkv = linear_gradients(seen_RD, to_all)
            to_seen = paddle.matmul(to_all, weight, transpose_y=True)
        else:
            (query_weight, pair_weight), _ = _query_and_pair(weight, bias)
            seen_BND = seen_RD.reshape([gradient.shape[0], -1, width])
            to_queries = rows_of(merged(to_query.unsqueeze(0)))
            to_pair = rows_of(merged(paddle.stack([to_key, to_value])))
            of_query = linear_gradients(rows_of(tokens_of(seen_BND, ctx.wanted)), to_queries)
            of_pair = linear_gradients(seen_RD, to_pair)
            to_qkv = [paddle.concat(each, axis=-1) for each in zip(of_query, of_pair)]
            to_seen = paddle.matmul(to_pair, pair_weight, transpose_y=True).reshape(seen_BND.shape)
            added = paddle.matmul(to_queries, query_weight, transpose_y=True).reshape(gradient.shape)
            to_seen = rows_of(_add_to_tokens(to_seen, ctx.wanted, added))
        to_x, *to_norm = norm_gradients(normal_RD, scale_R1, norm_weight, to_seen)
        if ctx.wanted is None:
            to_x = to_x.add_(rows_of(gradient)).reshape(gradient.shape)
        else:
            to_x = _add_to_tokens(to_x.reshape([gradient.shape[0], -1, width]), ctx.wanted, gradient)
        return to_x, *to_norm, *to_qkv, *to_proj


def _linear_of(x, weight, bias):
    return linear_rows(rows_of(x), weight, bias).reshape([*x.shape[:-1], -1])


def _query_and_pair(weight, bias):
    """The columns of queries, and those of keys and values."""
    width = weight.shape[0]
    return weight.split([width, 2 * width], axis=1), bias.split([width, 2 * width])


def _residual(x_RD, inner_RE, weight, bias, keep_B):
    """`x + keep * (inner @ weight + bias)`."""
    if keep_B is None:
        return add_row(paddle.addmm(x_RD, inner_RE, weight), bias)
    return scaled_rows(kept_rows(keep_B, x_RD.shape[0]), linear_rows(inner_RE, weight, bias)).add_(x_RD)


def _branch_gradient(gradient_RD, keep_B):
    return gradient_RD if keep_B is None else scaled_rows(kept_rows(keep_B, gradient_RD.shape[0]), gradient_RD)


def _add_to_tokens(x_BND, wanted, added_BQD):
    start, stop = wanted
    sizes = [start, stop - start, x_BND.shape[1] - stop]
    parts = x_BND.split([size for size in sizes if size], axis=1)
    parts[int(start > 0)].add_(added_BQD)
    return paddle.concat(parts, axis=1)


def residual(x_BND, branch_BND, keep_B=None):
    """`x + keep * branch`, one factor an image (drop path)."""
    return x_BND + (branch_BND if keep_B is None else branch_BND * keep_B.reshape([-1, 1, 1]))


def residual_mlp(x_BND, norm: nn.LayerNorm, mlp: nn.Layer, keep_B=None):
    """`x + keep * mlp(norm(x))`.

    Args:
        mlp: `fc1`, an exact GELU, `fc2`.
        keep_B: a factor for each image, without a gradient; None is 1.
    """
    weights = [norm.weight, norm.bias, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias]
    if on_cpu(x_BND) and not x_BND.stop_gradient and trains(*weights):
        return _ResidualMlpOnCpu.apply(x_BND, *weights, norm._epsilon, keep_B)
    return residual(x_BND, mlp(norm(x_BND)), keep_B)


def residual_attention(x_BND, norm: nn.LayerNorm, attn: nn.Layer, wanted=None, keep_B=None):
    """`x + keep * attn(norm(x))`, for all tokens, or for start..stop of each image: [B, stop - start, D].

    Args:
        attn: self-attention with `qkv`, `proj` and `num_heads`.
        keep_B: as in `residual_mlp`.
    """
    weights = [norm.weight, norm.bias, attn.qkv.weight, attn.qkv.bias, attn.proj.weight, attn.proj.bias]
    if on_cpu(x_BND) and not x_BND.stop_gradient and trains(*weights):
        settings = norm._epsilon, attn.num_heads, wanted, keep_B
        return _ResidualAttentionOnCpu.apply(x_BND, *weights, *settings)
    return residual(tokens_of(x_BND, wanted), attn(norm(x_BND), wanted), keep_B)
