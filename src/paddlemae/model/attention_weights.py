"""The weights with which one block attends, computed from what goes into the block.

Shapes: B images, H heads, Q queries, N keys, D width, E width of a memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from paddlemae.engine.safe_import import F, nn, paddle
from paddlemae.model.kernels.attention import split_heads


@contextmanager
def called_before(layers: Iterable[nn.Layer], call: Callable[[tuple[Any, ...]], None]) -> Iterator[None]:
    """Call a function with the inputs of each call of these layers inside the context; it does not change them."""

    def hook(layer: Any, inputs: Any) -> Any:  # None leaves the inputs as they are
        call(tuple(inputs))

    hooks = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def attention_weights(
    block: Any,
    x_BQD: paddle.Tensor,
    memory_BNE: paddle.Tensor | None = None,
    *,
    grid: tuple[int, int] | None = None,
) -> paddle.Tensor:
    """Return the softmax weights of a block's attention, [B, H, Q, N].

    Args:
        block: a `Block`, or with a memory a `CrossBlock`.
        x_BQD: the tokens that go into the block.
        memory_BNE: what a `CrossBlock` attends to; None for a `Block`, where each token attends to all (N = Q).
        grid: of the patches, for relative positions.
    """
    attn, normed_BQD = block.attn, block.norm1(x_BQD)
    bias_HQN = None
    if memory_BNE is None:
        query, key, _ = split_heads(attn.qkv(normed_BQD), 3, attn.num_heads)
        bias_HQN = attn.score_bias(grid)
    else:
        (query,) = split_heads(attn.q(normed_BQD), 1, attn.num_heads)
        key, _ = split_heads(attn.kv(memory_BNE), 2, attn.num_heads)
    scores_BHQN = paddle.matmul(query, key, transpose_y=True) / math.sqrt(query.shape[-1])
    return F.softmax(scores_BHQN if bias_HQN is None else scores_BHQN + bias_HQN, axis=-1)
