"""The three halves of a transformer block in Paddle's own operations: what `halves` must compute, and its gradients.

Shapes: B images, Q queries, N tokens, D width, E width of a memory; H heads of width d. Weights are [in, out].
"""

from __future__ import annotations

from paddlemae.engine.safe_import import F, paddle

Layer = tuple[paddle.Tensor, paddle.Tensor]  # weight, bias


def mlp_half(x_BND: paddle.Tensor, norm: Layer, fc1: Layer, fc2: Layer, epsilon: float) -> paddle.Tensor:
    """Return the branch that an MLP adds to x: `fc2(gelu(fc1(norm(x))))`, [B, N, D]."""
    return F.linear(F.gelu(F.linear(layer_norm(x_BND, norm, epsilon), *fc1)), *fc2)


def attention_half(
    x_BND: paddle.Tensor, norm: Layer, qkv: Layer, proj: Layer, epsilon: float, heads: int, start: int, stop: int
) -> paddle.Tensor:
    """Return the branch that self-attention adds to the tokens start..stop of x: [B, stop - start, D]."""
    query, key, value = F.linear(layer_norm(x_BND, norm, epsilon), *qkv).chunk(3, axis=-1)
    return F.linear(attention(query[:, start:stop], key, value, heads), *proj)


def cross_attention_half(
    x_BQD: paddle.Tensor,
    memory_BNE: paddle.Tensor,
    norm: Layer,
    q: Layer,
    kv: Layer,
    proj: Layer,
    epsilon: float,
    heads: int,
) -> paddle.Tensor:
    """Return the branch that attention to a memory adds to x: [B, Q, D]."""
    query = F.linear(layer_norm(x_BQD, norm, epsilon), *q)
    key, value = F.linear(memory_BNE, *kv).chunk(2, axis=-1)
    return F.linear(attention(query, key, value, heads), *proj)


def layer_norm(x_BND: paddle.Tensor, norm: Layer, epsilon: float) -> paddle.Tensor:
    """Return `norm(x)` over the last axis."""
    return F.layer_norm(x_BND, x_BND.shape[-1:], *norm, epsilon)


def attention(query_BQD: paddle.Tensor, key_BND: paddle.Tensor, value_BND: paddle.Tensor, heads: int) -> paddle.Tensor:
    """Return softmax attention, queries scaled by d ** -0.5, the heads next to each other: [B, Q, D]."""
    query_BHQd, key_BHNd, value_BHNd = (
        each.reshape([*each.shape[:2], heads, -1]).transpose([0, 2, 1, 3]) for each in (query_BQD, key_BND, value_BND)
    )
    scores_BHQN = paddle.matmul(query_BHQd * query_BHQd.shape[-1] ** -0.5, key_BHNd.transpose([0, 1, 3, 2]))
    mixed_BHQd = paddle.matmul(F.softmax(scores_BHQN, axis=-1), value_BHNd)
    return mixed_BHQd.transpose([0, 2, 1, 3]).reshape(query_BQD.shape)
