"""bfloat16 on any processor with AVX-512, and PyTorch's autocast in double precision to compare with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddlemae.engine import onednn_primitives, precision
from paddlemae.model.kernels import reference

Layer = tuple[paddle.Tensor, paddle.Tensor]


def _has(instructions: int) -> bool:
    try:
        return onednn_primitives.library().has(instructions)
    except onednn_primitives.Unavailable:
        return False


def has_bfloat16() -> bool:
    """Whether products of bfloat16 are not emulated here."""
    return _has(onednn_primitives.AVX512_BF16)


needs_avx512 = pytest.mark.skipif(
    not _has(onednn_primitives.AVX512), reason="oneDNN computes bfloat16 with AVX-512 only"
)


@contextmanager
def in_bfloat16() -> Iterator[precision.Bfloat16Weights]:
    """Compute with products of bfloat16, whose rounded weights are given."""
    weights = precision.weights_for("bfloat16")
    assert weights is not None
    with precision.bfloat16_products(weights):
        yield weights


class _Rounding(paddle.autograd.PyLayer):
    """Rounding to bfloat16 and back, of the number and of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor) -> paddle.Tensor:
        return x.astype("bfloat16").astype(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        return gradient.astype("bfloat16").astype(gradient.dtype)


def rounded(x: paddle.Tensor) -> paddle.Tensor:
    """Round to bfloat16 what autocast computes in it; x keeps its type."""
    return _Rounding.apply(x)


def linear(x: paddle.Tensor, layer: Layer) -> paddle.Tensor:
    weight, bias = layer
    return rounded(paddle.matmul(rounded(x), rounded(weight)) + rounded(bias))


def mlp_half(x: paddle.Tensor, norm: Layer, fc1: Layer, fc2: Layer, epsilon: float) -> paddle.Tensor:
    """Return what `reference.mlp_half` does, rounded where autocast rounds."""
    return linear(rounded(F.gelu(linear(reference.layer_norm(x, norm, epsilon), fc1))), fc2)


def attention(
    query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor, heads: int, bias: paddle.Tensor | None = None
) -> paddle.Tensor:
    """Return what `reference.attention` does, rounded where autocast rounds."""
    split = [each.reshape([*each.shape[:2], heads, -1]).transpose([0, 2, 1, 3]) for each in (query, key, value)]
    scores = rounded(paddle.matmul(rounded(split[0] * split[0].shape[-1] ** -0.5), split[1].transpose([0, 1, 3, 2])))
    shares = rounded(F.softmax(scores if bias is None else scores + bias, axis=-1))
    mixed = rounded(paddle.matmul(shares, split[2]))
    return mixed.transpose([0, 2, 1, 3]).reshape(query.shape)


def attention_half(
    x: paddle.Tensor, norm: Layer, qkv: Layer, proj: Layer, epsilon: float, heads: int, start: int, stop: int
) -> paddle.Tensor:
    """Return what `reference.attention_half` does, rounded where autocast rounds."""
    query, key, value = linear(reference.layer_norm(x, norm, epsilon), qkv).chunk(3, axis=-1)
    return linear(attention(query[:, start:stop], key, value, heads), proj)


def cross_attention_half(
    x: paddle.Tensor, memory: paddle.Tensor, norm: Layer, q: Layer, kv: Layer, proj: Layer, epsilon: float, heads: int
) -> paddle.Tensor:
    """Return what `reference.cross_attention_half` does, rounded where autocast rounds."""
    query = linear(reference.layer_norm(x, norm, epsilon), q)
    key, value = linear(memory, kv).chunk(2, axis=-1)
    return linear(attention(query, key, value, heads), proj)


def errors(got: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> np.ndarray:
    """Return the norm of each array's difference from the exact one, relative to the latter's norm."""
    return np.array([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(got, exact, strict=True)])
