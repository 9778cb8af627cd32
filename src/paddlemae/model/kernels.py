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
from typing import Any

from paddlemae.engine import private
from paddlemae.engine.safe_import import F, nn, paddle

Wanted = tuple[int, int] | None  # tokens start..stop of each image whose output is used; None is all of them

PIECE = 1 << 19  # numbers: what several operations pass over stays in the processor's cache between them
LONG_ROW = 128  # Paddle's softmax of shorter rows takes 3.5 to 6 ns a number, exponentials 1 (measured, AMD EPYC core)
SAFE_EXPONENT = 80.0  # exponentials of up to so much, and sums of `LONG_ROW` of them, are normal float32 numbers


def on_cpu(x) -> bool:
    """Whether `x` is computed here and now, on CPU: not while a program is traced."""
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()


def all_or_none_train(*tensors) -> bool:
    """Whether all of these get gradients, or none does: a PyLayer gives them to all that it is given."""
    return not paddle.is_grad_enabled() or len({tensor.stop_gradient for tensor in tensors}) == 1


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
    share = degrees / x_RD.shape[1]
    normal_RD, mean_R, variance_R = private.layer_norm(x_RD, None, None, epsilon * share)
    if share != 1:
        normal_RD.scale_(share**0.5)
    scale_R1 = paddle.rsqrt(variance_R + epsilon * share).scale_(share**0.5).reshape([-1, 1])
    return normal_RD, mean_R.reshape([-1, 1]), scale_R1


def scale_channels(images_BCHW: Any, scale_C: Any, shift_C: Any) -> Any:
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


class _LinearOnCpu(paddle.autograd.PyLayer):
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
    both_train = not (weight.stop_gradient or bias.stop_gradient)  # x may be pixels, which need no gradient
    if on_cpu(x) and (both_train or all_or_none_train(x, weight, bias)):
        return _LinearOnCpu.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`paddle.nn.Linear` with a bias, computed by `linear`."""

    def forward(self, x):
        return linear(x, self.weight, self.bias)


def norm_gradients(x_RD, weight, epsilon: float, gradient_RD):
    """Of a layer norm's input, weight and bias."""
    width = weight.shape[0]
    normal_RD, _, scale_R1 = normal_rows(x_RD, width, epsilon)
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


class _LayerNormOnCpu(paddle.autograd.PyLayer):
    """`F.layer_norm` over the last axis, whose backward is 8 ns an element in Paddle's own kernel and 2 here."""

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon: float):
        ctx.epsilon = epsilon
        ctx.save_for_backward(x, weight)
        return private.layer_norm(rows_of(x), weight, bias, epsilon)[0].reshape(x.shape)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensor()
        to_x, to_weight, to_bias = norm_gradients(rows_of(x), weight, ctx.epsilon, rows_of(gradient))
        return to_x.reshape(gradient.shape), to_weight, to_bias


class LayerNorm(nn.LayerNorm):
    """`paddle.nn.LayerNorm` over the last axis, with weight and bias."""

    def forward(self, x):
        if on_cpu(x) and all_or_none_train(x, self.weight, self.bias):
            return _LayerNormOnCpu.apply(x, self.weight, self.bias, private.epsilon_of(self))
        return super().forward(x)


def mean_of(x):
    """Return the mean of all numbers, with as many right digits on CPU as elsewhere.

    Paddle's CPU kernels of means, and of sums along an axis, add float32 numbers one after the other: the mean of 2**24
    squares is 1e-3 too low. Its sum of a whole tensor adds up parts of it and is right within 1e-7.
    """
    return x.sum() / float(x.size) if on_cpu(x) else x.mean()


@lru_cache(maxsize=16)
def block_sums(rows: int, dtype):
    """A matrix [G, rows] of 0 and 1 that adds up blocks of about the root of `rows` rows each. Don't write into it."""
    size = math.isqrt(rows - 1) + 1
    return paddle.eye(-(-rows // size), dtype=dtype).repeat_interleave(size, axis=1)[:, :rows].contiguous()


def mean_rows(x_BND):
    """Return the mean over N, [B, D]; on CPU of sums of blocks, which keeps the digits that `mean_of` tells of."""
    if not on_cpu(x_BND):
        return x_BND.mean(axis=1)
    rows = x_BND.shape[1]
    return paddle.matmul(block_sums(rows, x_BND.dtype), x_BND).sum(axis=1) / rows


def pieces(*tensors_RD):
    """The same rows of each, about `PIECE` numbers at a time, as views of the same memory."""
    rows, width = tensors_RD[0].shape
    step = max(1, PIECE // width)
    if step >= rows:
        yield tensors_RD
        return
    for start in range(0, rows, step):
        yield [private.rows_view(one, start, min(start + step, rows)) for one in tensors_RD]


def gelu_backward(hidden_RE, gradient_RE):
    """In place: hidden becomes its exact GELU, and the gradient of that the gradient of hidden."""
    for hidden, gradient in pieces(hidden_RE, gradient_RE):
        cumulative = paddle.erf(hidden * 0.5**0.5).scale_(0.5, 0.5)  # scale_ multiplies, then adds
        density = hidden.square().scale_(-0.5, -0.5 * math.log(2 * math.pi)).exp_()
        gradient.multiply_(density.multiply_(hidden).add_(cumulative))  # the slope is Phi(x) + x phi(x)
        hidden.multiply_(cumulative)


def heads_of(x_BNE, parts: int, num_heads: int):
    """[parts, B, H, N, d] from [B, N, parts * H * d]."""
    # 0 is what it was, which need not be known while a program is traced
    split = x_BNE.reshape([0, 0, parts, num_heads, x_BNE.shape[-1] // (parts * num_heads)])
    return split.transpose([2, 0, 3, 1, 4])


def parts_of(x) -> list:
    """Return the parts along the first axis, without gradients: views of the same memory.

    Where `x` itself is a strided view, they are views of a copy: what is written into them reaches `x` only if that is
    contiguous, as a new tensor is.
    """
    x = x.contiguous()
    return [private.rows_view(x, number, number + 1).squeeze(0) for number in range(x.shape[0])]


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


def softmax_(x):
    """`F.softmax_` over the last axis."""
    if x.shape[-1] >= LONG_ROW or not _exponents_are_safe(x):
        return F.softmax_(x, axis=-1)
    rows_RN = rows_of(x)
    rows_RN.exp_()
    sums_R1 = paddle.matmul(rows_RN, constant(rows_RN.shape[1], 1, 1.0, x.dtype))
    for rows, sums in pieces(rows_RN, sums_R1):
        rows.multiply_(paddle.matmul(sums.reciprocal_(), constant(1, rows.shape[1], 1.0, x.dtype)))
    return x


def _exponents_are_safe(x) -> bool:
    """False for nan too."""
    return x.max().item() <= SAFE_EXPONENT and x.min().item() >= -SAFE_EXPONENT


def attend(query_BHQd, key_BHNd, value_BHNd):
    """(softmax of query key^T [B, H, Q, N], mixed values [B, Q, H * d]); the query is scaled already."""
    shares_BHQN = softmax_(paddle.matmul(query_BHQd, key_BHNd, transpose_y=True))
    return shares_BHQN, merged(paddle.matmul(shares_BHQN, value_BHNd).unsqueeze(0))


def attend_gradients(attended, gradient_BQE, out=(None, None, None)):
    """Of `attend`'s query, key and value.

    Args:
        attended: query [B, H, Q, d], key, value [B, H, N, d] and what `attend` made of them.
        gradient_BQE: of the mixed values.
        out: what the three gradients are written into, or None.

    softmax's gradient is P * (dP - delta), where delta, a number a query, is the product of the mixed values with
    their gradient (Dao et al., FlashAttention-2, sec. 2.3); one more column of a matrix product subtracts it.
    """
    query_BHQd, key_BHNd, value_BHNd, shares_BHQN, mixed_BQE = attended
    heads, width = query_BHQd.shape[1], query_BHQd.shape[3]
    gradient_BHQd = heads_of(gradient_BQE, 1, heads).squeeze(0)
    to_value = paddle.matmul(shares_BHQN, gradient_BHQd, transpose_x=True, out=out[2])
    sums_EH = head_sums(heads, width, mixed_BQE.dtype)
    delta_BHQ1 = paddle.matmul(gradient_BQE * mixed_BQE, sums_EH).transpose([0, 2, 1]).unsqueeze(-1)
    longer_BHQd = paddle.concat([gradient_BHQd, -delta_BHQ1], axis=-1)
    ones_BHN1 = paddle.ones([*value_BHNd.shape[:-1], 1], value_BHNd.dtype)
    inner_BHQN = paddle.matmul(longer_BHQd, paddle.concat([value_BHNd, ones_BHN1], axis=-1), transpose_y=True)
    inner_BHQN.multiply_(shares_BHQN)
    to_query = paddle.matmul(inner_BHQN, key_BHNd, out=out[0])
    return to_query, paddle.matmul(inner_BHQN, query_BHQd, transpose_x=True, out=out[1]), to_value


class _AttentionOnCpu(paddle.autograd.PyLayer):
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
        to_query, to_key, to_value = attend_gradients(ctx.saved_tensor(), gradient)
        return to_query.scale_(ctx.scale), to_key, to_value


def attention(query_BHQd, key_BHNd, value_BHNd):
    """Softmax attention, queries scaled by d ** -0.5.

    Returns:
        tensor [B, Q, H * d], heads side by side.
    """
    batch, heads, queries, width = query_BHQd.shape
    if on_cpu(query_BHQd):
        if all_or_none_train(query_BHQd, key_BHNd, value_BHNd):
            return _AttentionOnCpu.apply(query_BHQd, key_BHNd, value_BHNd)
    elif paddle.in_dynamic_mode():  # a GPU's flash attention takes the heads third
        swapped = [x.transpose([0, 2, 1, 3]) for x in (query_BHQd, key_BHNd, value_BHNd)]
        return F.scaled_dot_product_attention(*swapped).reshape([batch, queries, heads * width])
    scores_BHQN = paddle.matmul(query_BHQd * width**-0.5, key_BHNd, transpose_y=True)
    mixed_BQHd = paddle.matmul(F.softmax(scores_BHQN, axis=-1), value_BHNd).transpose([0, 2, 1, 3])
    return mixed_BQHd.reshape([0, 0, heads * width])


def kept_rows(keep_B, rows: int):
    """The factor of each of `rows` rows [R, 1], from one an image."""
    return keep_B.repeat_interleave(rows // keep_B.shape[0]).reshape([-1, 1])


class _ResidualMlpOnCpu(paddle.autograd.PyLayer):
    """`x + keep * mlp(norm(x))`; of [R, 4D] it keeps the hidden layer before its GELU and nothing else."""

    @staticmethod
    def forward(ctx, x, norm_weight, norm_bias, weight1, bias1, weight2, bias2, epsilon: float, keep):
        x_RD = rows_of(x)
        hidden = linear_rows(private.layer_norm(x_RD, norm_weight, norm_bias, epsilon)[0], weight1, bias1)
        active = F.gelu(hidden)
        ctx.epsilon, ctx.keep = epsilon, keep
        ctx.save_for_backward(x, hidden, norm_weight, norm_bias, weight1, weight2)
        return _residual(x_RD, active, weight2, bias2, keep).reshape(x.shape)

    @staticmethod
    def backward(ctx, gradient):
        x, hidden, norm_weight, norm_bias, weight1, weight2 = ctx.saved_tensor()
        x_RD, branch_RD = rows_of(x), _branch_gradient(rows_of(gradient), ctx.keep)
        to_hidden = paddle.matmul(branch_RD, weight2, transpose_y=True)
        gelu_backward(hidden, to_hidden)
        to_weight2, to_bias2 = linear_gradients(hidden, branch_RD)
        seen_RD = private.layer_norm(x_RD, norm_weight, norm_bias, ctx.epsilon)[0]
        to_weight1, to_bias1 = linear_gradients(seen_RD, to_hidden)
        del seen_RD
        to_seen = paddle.matmul(to_hidden, weight1, transpose_y=True)
        to_x, *to_norm = norm_gradients(x_RD, norm_weight, ctx.epsilon, to_seen)
        to_x = to_x.add_(rows_of(gradient)).reshape(gradient.shape)
        return to_x, *to_norm, to_weight1, to_bias1, to_weight2, to_bias2


class _ResidualAttentionOnCpu(paddle.autograd.PyLayer):
    """`x + keep * attention(norm(x))`, for all tokens or for those that are wanted."""

    @staticmethod
    def forward(ctx, x, norm_weight, norm_bias, weight, bias, proj_weight, proj_bias, epsilon, heads, wanted, keep):
        width = x.shape[-1]
        seen_BND = private.layer_norm(rows_of(x), norm_weight, norm_bias, epsilon)[0].reshape(x.shape)
        if wanted is None:
            query, key, value = parts_of(heads_of(_linear_of(seen_BND, weight, bias), 3, heads))
        else:
            of_query, of_pair = _query_and_pair(weight, bias)
            query, key, value = _queries_and_pairs(tokens_of(seen_BND, wanted), seen_BND, of_query, of_pair, heads)
        ctx.epsilon, ctx.query_scale, ctx.wanted, ctx.keep = epsilon, (width // heads) ** -0.5, wanted, keep
        query.scale_(ctx.query_scale)
        shares, mixed = attend(query, key, value)
        ctx.save_for_backward(x, norm_weight, norm_bias, weight, bias, proj_weight, query, key, value, shares, mixed)
        x_BQD = tokens_of(x, wanted)
        return _residual(rows_of(x_BQD), rows_of(mixed), proj_weight, proj_bias, keep).reshape(x_BQD.shape)

    @staticmethod
    def backward(ctx, gradient):
        x, norm_weight, norm_bias, weight, bias, proj_weight, *attended = ctx.saved_tensor()
        query, mixed = attended[0], attended[-1]
        branch_RD = _branch_gradient(rows_of(gradient), ctx.keep)
        to_proj = linear_gradients(rows_of(mixed), branch_RD)
        to_mixed = paddle.matmul(branch_RD, proj_weight, transpose_y=True).reshape(mixed.shape)
        seen_RD = private.layer_norm(rows_of(x), norm_weight, norm_bias, ctx.epsilon)[0]
        if ctx.wanted is None:
            to_parts = paddle.empty([3, *query.shape], query.dtype)
            to_query, *_ = attend_gradients(attended, to_mixed, parts_of(to_parts))
            to_query.scale_(ctx.query_scale)
            to_all = rows_of(merged(to_parts))
            to_qkv = linear_gradients(seen_RD, to_all)
            to_seen = paddle.matmul(to_all, weight, transpose_y=True)
        else:
            (query_weight, _), (pair_weight, _) = _query_and_pair(weight, bias)
            seen_BND = seen_RD.reshape(x.shape)
            to_queries, to_pair = _to_queries_and_pairs(attended, to_mixed, ctx.query_scale)
            of_query = linear_gradients(rows_of(tokens_of(seen_BND, ctx.wanted)), to_queries)
            of_pair = linear_gradients(seen_RD, to_pair)
            to_qkv = [paddle.concat(each, axis=-1) for each in zip(of_query, of_pair)]
            to_seen = paddle.matmul(to_pair, pair_weight, transpose_y=True).reshape(seen_BND.shape)
            added = paddle.matmul(to_queries, query_weight, transpose_y=True).reshape(gradient.shape)
            to_seen = rows_of(_add_to_tokens(to_seen, ctx.wanted, added))
        to_x, *to_norm = norm_gradients(rows_of(x), norm_weight, ctx.epsilon, to_seen)
        if ctx.wanted is None:
            to_x = to_x.add_(rows_of(gradient)).reshape(gradient.shape)
        else:
            to_x = _add_to_tokens(to_x.reshape(x.shape), ctx.wanted, gradient)
        return to_x, *to_norm, *to_qkv, *to_proj


class _ResidualCrossAttentionOnCpu(paddle.autograd.PyLayer):
    """`x + attention(norm(x), memory)`."""

    @staticmethod
    def forward(ctx, x, memory, norm_weight, norm_bias, *rest):
        query_weight, query_bias, pair_weight, pair_bias, proj_weight, proj_bias, epsilon, heads = rest
        seen_BQD = private.layer_norm(rows_of(x), norm_weight, norm_bias, epsilon)[0].reshape(x.shape)
        of_query, of_pair = (query_weight, query_bias), (pair_weight, pair_bias)
        query, key, value = _queries_and_pairs(seen_BQD, memory, of_query, of_pair, heads)
        ctx.epsilon, ctx.query_scale = epsilon, query.shape[-1] ** -0.5
        query.scale_(ctx.query_scale)
        shares, mixed = attend(query, key, value)
        weights = (norm_weight, norm_bias, query_weight, pair_weight, proj_weight)
        ctx.save_for_backward(x, memory, *weights, query, key, value, shares, mixed)
        return _residual(rows_of(x), rows_of(mixed), proj_weight, proj_bias, None).reshape(x.shape)

    @staticmethod
    def backward(ctx, gradient):
        saved = ctx.saved_tensor()
        x, memory, norm_weight, norm_bias, query_weight, pair_weight, proj_weight, *attended = saved
        x_RD, gradient_RD, mixed = rows_of(x), rows_of(gradient), attended[-1]
        to_proj = linear_gradients(rows_of(mixed), gradient_RD)
        to_mixed = paddle.matmul(gradient_RD, proj_weight, transpose_y=True).reshape(mixed.shape)
        to_queries, to_pair = _to_queries_and_pairs(attended, to_mixed, ctx.query_scale)
        seen_RD = private.layer_norm(x_RD, norm_weight, norm_bias, ctx.epsilon)[0]
        to_query = linear_gradients(seen_RD, to_queries)
        to_seen = paddle.matmul(to_queries, query_weight, transpose_y=True)
        to_x, *to_norm = norm_gradients(x_RD, norm_weight, ctx.epsilon, to_seen)
        to_memory = paddle.matmul(to_pair, pair_weight, transpose_y=True).reshape(memory.shape)
        to_pair_layer = linear_gradients(rows_of(memory), to_pair)
        to_x = to_x.add_(gradient_RD).reshape(x.shape)
        return to_x, to_memory, *to_norm, *to_query, *to_pair_layer, *to_proj


class _WeightedSumsOnCpu(paddle.autograd.PyLayer):
    """`weighted_sums`, whose gradients are taken and given as views of one tensor instead of copies."""

    @staticmethod
    def forward(ctx, weight_JK, *maps):
        numbers = paddle.stack(maps).reshape([len(maps), -1])
        ctx.save_for_backward(weight_JK, numbers)
        return tuple(sum_.reshape(maps[0].shape) for sum_ in parts_of(paddle.matmul(weight_JK, numbers)))

    @staticmethod
    def backward(ctx, *gradients):
        weight_JK, numbers = ctx.saved_tensor()
        gradient = paddle.stack(gradients).reshape([len(gradients), -1])
        to_maps = parts_of(paddle.matmul(weight_JK, gradient, transpose_x=True))
        to_weight = paddle.matmul(gradient, numbers, transpose_y=True)
        return to_weight, *(each.reshape(gradients[0].shape) for each in to_maps)


def _linear_of(x, weight, bias):
    return linear_rows(rows_of(x), weight, bias).reshape([*x.shape[:-1], -1])


def _query_and_pair(weight, bias):
    """(weight, bias) of queries, and of keys and values."""
    width = weight.shape[0]
    return zip(weight.split([width, 2 * width], axis=1), bias.split([width, 2 * width]))


def _queries_and_pairs(x_BQD, memory_BNE, of_query, of_pair, heads: int) -> list:
    """Query, key and value, each [B, H, its tokens, d]."""
    return [
        *parts_of(heads_of(_linear_of(x_BQD, *of_query), 1, heads)),
        *parts_of(heads_of(_linear_of(memory_BNE, *of_pair), 2, heads)),
    ]


def _to_queries_and_pairs(attended, to_mixed, query_scale: float):
    """The gradients of the two linear layers' outputs: [B * Q, D] and [B * N, 2D]."""
    to_parts = paddle.empty([2, *attended[1].shape], to_mixed.dtype)
    to_query, *_ = attend_gradients(attended, to_mixed, (None, *parts_of(to_parts)))
    return rows_of(merged(to_query.scale_(query_scale).unsqueeze(0))), rows_of(merged(to_parts))


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
    if on_cpu(x_BND) and all_or_none_train(x_BND, *weights):
        return _ResidualMlpOnCpu.apply(x_BND, *weights, private.epsilon_of(norm), keep_B)
    return residual(x_BND, mlp(norm(x_BND)), keep_B)


def residual_attention(x_BND, norm: nn.LayerNorm, attn: nn.Layer, wanted=None, keep_B=None):
    """`x + keep * attn(norm(x))`, for all tokens, or for start..stop of each image: [B, stop - start, D].

    Args:
        attn: self-attention with `qkv`, `proj` and `num_heads`.
        keep_B: as in `residual_mlp`.
    """
    weights = [norm.weight, norm.bias, attn.qkv.weight, attn.qkv.bias, attn.proj.weight, attn.proj.bias]
    if on_cpu(x_BND) and all_or_none_train(x_BND, *weights):
        settings = private.epsilon_of(norm), attn.num_heads, wanted, keep_B
        return _ResidualAttentionOnCpu.apply(x_BND, *weights, *settings)
    return residual(tokens_of(x_BND, wanted), attn(norm(x_BND), wanted), keep_B)


def residual_cross_attention(x_BQD, memory_BNE, norm: nn.LayerNorm, attn: nn.Layer):
    """`x + attn(norm(x), memory)`.

    Args:
        attn: attention with `q` of x, `kv` of the memory, `proj` and `num_heads`.
    """
    layers = (norm, attn.q, attn.kv, attn.proj)
    weights = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    if on_cpu(x_BQD) and all_or_none_train(x_BQD, memory_BNE, *weights):
        return _ResidualCrossAttentionOnCpu.apply(x_BQD, memory_BNE, *weights, private.epsilon_of(norm), attn.num_heads)
    return x_BQD + attn(norm(x_BQD), memory_BNE)


def weighted_sums(weight_JK, maps: list) -> list:
    """J sums of K tensors of one shape."""
    if on_cpu(weight_JK) and all_or_none_train(weight_JK, *maps):
        return list(_WeightedSumsOnCpu.apply(weight_JK, *maps))
    numbers = paddle.stack(maps).reshape([len(maps), -1])
    return paddle.matmul(weight_JK, numbers).reshape([-1, *maps[0].shape]).unbind(0)
