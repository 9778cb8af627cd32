"""Softmax attention of several heads.

Shapes: B images, H heads, Q queries, N tokens, d width of a head, E = H * d, D and R as in `rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from paddlemae.engine.precision import convert
from paddlemae.engine.safe_import import F, paddle
from paddlemae.model.kernels import placement, primitives
from paddlemae.model.kernels.layers import sum_rows
from paddlemae.model.kernels.rows import as_rows, constant_matrix, row_pieces, split_views

TokenRange = tuple[int, int] | None  # tokens start..stop of each image whose output is used; None is all of them
LONG_ROW = 128  # Paddle's softmax of shorter rows takes 3.5 to 6 ns a number, exponentials 1 (measured, AMD EPYC core)
SAFE_EXPONENT = 80.0  # exponentials of numbers up to it, and sums of `LONG_ROW` of them, are normal float32 numbers


@lru_cache(maxsize=16)
def head_sum_matrix(heads: int, width: int, dtype: Any) -> paddle.Tensor:
    """Return a read-only matrix [heads * width, heads] that sums the numbers of each head in a row."""
    return paddle.eye(heads, dtype=dtype).repeat_interleave(width, axis=0)


def to_heads(x_BNE: paddle.Tensor, parts: int, num_heads: int) -> paddle.Tensor:
    """Return [parts, B, H, N, d] from [B, N, parts * H * d]."""
    # 0 keeps a size, which may be unknown while a program is traced
    split = x_BNE.reshape([0, 0, parts, num_heads, x_BNE.shape[-1] // (parts * num_heads)])
    return split.transpose([2, 0, 3, 1, 4])


def merge_heads(x_PBHNd: paddle.Tensor) -> paddle.Tensor:
    """Invert `to_heads`."""
    parts, batch, heads, tokens, width = x_PBHNd.shape
    return x_PBHNd.transpose([1, 3, 0, 2, 4]).reshape([batch, tokens, parts * heads * width])


def split_heads(x_BNE: paddle.Tensor, parts: int, num_heads: int) -> list[paddle.Tensor]:
    """Return `parts` tensors [B, H, N, d] from [B, N, parts * H * d]."""
    # unbind, since taking it apart by index costs 20 times as much backward on CPU
    return to_heads(x_BNE, parts, num_heads).unbind(0)


def take_tokens(x_BND: paddle.Tensor, token_range: TokenRange) -> paddle.Tensor:
    """Return the tokens start..stop of each image."""
    if token_range is None:
        return x_BND
    start, stop = token_range
    parts = [start, stop - start, x_BND.shape[1] - stop]
    if parts[0] == parts[2] == 0:
        return x_BND
    # split, since slicing costs 20 times as much backward on CPU
    return x_BND.split([size for size in parts if size], axis=1)[int(start > 0)]


def softmax_(x: paddle.Tensor) -> paddle.Tensor:
    """Apply softmax over the last axis, in place, and return x."""
    if x.shape[-1] >= LONG_ROW or not _exponents_are_safe(x):
        return F.softmax_(x, axis=-1)
    rows_RN = as_rows(x)
    rows_RN.exp_()
    sums_R1 = paddle.matmul(rows_RN, constant_matrix(rows_RN.shape[1], 1, 1.0, x.dtype))
    for rows, sums in row_pieces(rows_RN, sums_R1):
        rows.multiply_(paddle.matmul(sums.reciprocal_(), constant_matrix(1, rows.shape[1], 1.0, x.dtype)))
    return x


def _exponents_are_safe(x: Any) -> bool:
    """Return whether no exponential overflows or vanishes; false for nan."""
    return x.max().item() <= SAFE_EXPONENT and x.min().item() >= -SAFE_EXPONENT


def attend(
    query_BHQd: paddle.Tensor,
    key_BHNd: paddle.Tensor,
    value_BHNd: paddle.Tensor,
    bias_HQN: paddle.Tensor | None = None,
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return (softmax of query key^T + bias [B, H, Q, N], mixed values [B, Q, H * d]) for a query already scaled."""
    scores_BHQN = paddle.matmul(query_BHQd, key_BHNd, transpose_y=True)
    if bias_HQN is not None:
        for scores_HQN in split_views(scores_BHQN):
            scores_HQN.add_(bias_HQN)
    shares_BHQN = softmax_(scores_BHQN)
    return shares_BHQN, merge_heads(paddle.matmul(shares_BHQN, value_BHNd).unsqueeze(0))


def attend_gradients(
    attended: Sequence[paddle.Tensor],
    gradient_BQE: paddle.Tensor,
    out: Sequence[paddle.Tensor | None] = (None, None, None),
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Return the gradients of the query, key and value of `attend`, and of its scores [B, H, Q, N].

    Args:
        attended: query [B, H, Q, d], key and value [B, H, N, d], and the two results of `attend`.
        gradient_BQE: of the mixed values.
        out: tensors to write the three gradients into; None allocates.

    softmax's gradient is P * (dP - delta), where delta, a number a query, is the product of the mixed values with
    their gradient (Dao et al., FlashAttention-2, sec. 2.3); one more column of a matrix product subtracts it.
    """
    query_BHQd, key_BHNd, value_BHNd, shares_BHQN, mixed_BQE = attended
    heads, width = query_BHQd.shape[1], query_BHQd.shape[3]
    gradient_BHQd = to_heads(gradient_BQE, 1, heads).squeeze(0)
    to_value = paddle.matmul(shares_BHQN, gradient_BHQd, transpose_x=True, out=out[2])
    sums_EH = head_sum_matrix(heads, width, mixed_BQE.dtype)
    delta_BHQ1 = paddle.matmul(gradient_BQE * mixed_BQE, sums_EH).transpose([0, 2, 1]).unsqueeze(-1)
    longer_BHQd = paddle.concat([gradient_BHQd, -delta_BHQ1], axis=-1)
    ones_BHN1 = paddle.ones([*value_BHNd.shape[:-1], 1], value_BHNd.dtype)
    inner_BHQN = paddle.matmul(longer_BHQd, paddle.concat([value_BHNd, ones_BHN1], axis=-1), transpose_y=True)
    inner_BHQN.multiply_(shares_BHQN)
    to_query = paddle.matmul(inner_BHQN, key_BHNd, out=out[0])
    to_key = paddle.matmul(inner_BHQN, query_BHQd, transpose_x=True, out=out[1])
    return to_query, to_key, to_value, inner_BHQN


def bias_gradient(to_scores_BHQN: paddle.Tensor) -> paddle.Tensor:
    """Return the gradient of a bias that is added to the scores of every image, [H, Q, N]."""
    return sum_rows(to_scores_BHQN.reshape([to_scores_BHQN.shape[0], -1])).reshape(to_scores_BHQN.shape[1:])


def attend_projected(
    projections: Sequence[paddle.Tensor], heads: int, bias_HQN: paddle.Tensor | None = None
) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
    """Compute softmax attention of what linear layers wrote.

    Args:
        projections: queries, keys and values [B, N, 3D]; or queries [B, Q, D], keys and values [B, N, 2D].
    Returns:
        (mixed values [B, Q, D], what `projected_gradients` needs).
    """
    width = projections[0].shape[-1] // (3 if len(projections) == 1 else 1) // heads
    # of one token oneDNN 3.6 mixes the wrong values: products of several matrices with an inner size of 1
    if placement.by_onednn(projections[0]) and projections[-1].shape[1] > 1:
        bias_HQN = None if bias_HQN is None else bias_HQN.contiguous()
        pieces, mixed = primitives.attend(projections, heads, width, bias_HQN)
        needed = pieces if pieces or bias_HQN is None else [bias_HQN]
        return mixed, [*projections, *needed, mixed]
    counts = [3] if len(projections) == 1 else [1, 2]
    parts = [to_heads(_widen(each), count, heads) for each, count in zip(projections, counts)]
    query, key, value = (view for part in parts for view in split_views(part))
    query.scale_(width**-0.5)
    shares, mixed = attend(query, key, value, bias_HQN)
    return convert(mixed, projections[0].dtype), [query, key, value, shares, mixed]


def _widen(x: paddle.Tensor) -> paddle.Tensor:
    """Return `x`, of bfloat16 a float32 copy, for Paddle's operations."""
    return convert(x, paddle.float32) if x.dtype == paddle.bfloat16 else x


def projected_gradients(
    attended: Sequence[paddle.Tensor], to_mixed_BQD: paddle.Tensor, heads: int, parts: int, needs_scores: bool
) -> tuple[list[paddle.Tensor], paddle.Tensor | None]:
    """Return the gradients of the projections of `attend_projected`, and of its scores, [B, H, Q, N].

    Args:
        attended: its second result.
        parts: how many projections there were.
        needs_scores: whether the latter may not be None.
    """
    if attended[0].ndim == 3:  # projections, by primitives
        projections, needed = attended[:parts], attended[parts:-1]
        is_bias = bool(needed) and needed[0].ndim == 3
        shares, bias_HQN = ([], needed[0]) if is_bias else (needed, None)
        return primitives.attend_gradients(projections, heads, shares, bias_HQN, to_mixed_BQD, needs_scores)
    query, key = attended[:2]
    scale = query.shape[-1] ** -0.5
    counts = [3] if parts == 1 else [1, 2]
    sizes = [query.shape, key.shape][-parts:]  # of one projection: those of the keys, as many as queries
    gradients = [paddle.empty([count, *size], query.dtype) for count, size in zip(counts, sizes)]
    out = [view for each in gradients for view in split_views(each)]
    to_query, *_, to_scores = attend_gradients(attended, _widen(to_mixed_BQD), out)
    to_query.scale_(scale)
    return [convert(merge_heads(each), to_mixed_BQD.dtype) for each in gradients], to_scores


class _AttentionOnCpu(paddle.autograd.PyLayer):
    """`attention` with a backward that passes over the queries' shares three times instead of nine."""

    @staticmethod
    def forward(ctx: Any, query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
        ctx.scale = query.shape[-1] ** -0.5
        query = query * ctx.scale
        shares, mixed = attend(query, key, value)
        ctx.save_for_backward(query, key, value, shares, mixed)
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Any:
        to_query, to_key, to_value, _ = attend_gradients(ctx.saved_tensor(), gradient)
        return to_query.scale_(ctx.scale), to_key, to_value


def attention(
    query_BHQd: paddle.Tensor,
    key_BHNd: paddle.Tensor,
    value_BHNd: paddle.Tensor,
    bias_HQN: paddle.Tensor | None = None,
) -> paddle.Tensor:
    """Compute softmax attention, queries scaled by d ** -0.5.

    Args:
        bias_HQN: added to the scores of every image; None is 0.
    Returns:
        tensor [B, Q, H * d], the heads next to each other.
    """
    batch, heads, queries, width = query_BHQd.shape
    if bias_HQN is not None:
        pass  # flash attention gives a bias no gradient
    elif placement.on_cpu(query_BHQd):
        if placement.all_or_none_train(query_BHQd, key_BHNd, value_BHNd):
            return _AttentionOnCpu.apply(query_BHQd, key_BHNd, value_BHNd)
    elif paddle.in_dynamic_mode():  # a GPU's flash attention takes the heads third
        swapped: Any = [x.transpose([0, 2, 1, 3]) for x in (query_BHQd, key_BHNd, value_BHNd)]
        return F.scaled_dot_product_attention(*swapped).reshape([batch, queries, heads * width])
    scores_BHQN = paddle.matmul(query_BHQd * width**-0.5, key_BHNd, transpose_y=True)
    if bias_HQN is not None:
        scores_BHQN = scores_BHQN + bias_HQN
    mixed_BQHd = paddle.matmul(F.softmax(scores_BHQN, axis=-1), value_BHNd).transpose([0, 2, 1, 3])
    return mixed_BQHd.reshape([0, 0, heads * width])
