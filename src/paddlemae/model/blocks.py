"""Transformer blocks, one and several in a row.

Shapes: B images, N tokens, Q of them, D width; L blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from paddlemae.engine import private
from paddlemae.engine.safe_import import F, nn, paddle
from paddlemae.model.kernels.attention import TokenRange, attention, split_heads, take_tokens
from paddlemae.model.kernels.halves import residual_attention, residual_mlp
from paddlemae.model.kernels.layers import LayerNorm, Linear, linear
from paddlemae.model.kernels.prepared_blocks import run_prepared
from paddlemae.model.positions import relative_bias
from paddlemae.model.shape import relative_distances

NORM_EPSILON = 1e-6  # ViT's; Paddle's default is 1e-5


class QkvLinear(Linear):
    """Queries, keys and values; it splits its own weights, since group sharding gathers them in its forward only."""

    def forward(self, x_BND: paddle.Tensor, token_range: TokenRange = None) -> Any:
        """Return [B, N, 3D], or with `token_range` its queries [B, Q, D] and all keys and values [B, N, 2D]."""
        if token_range is None:
            return super().forward(x_BND)
        width = x_BND.shape[-1]
        weights, biases = self.weight.split([width, -1], axis=1), self.bias.split([width, -1])
        return linear(take_tokens(x_BND, token_range), weights[0], biases[0]), linear(x_BND, weights[1], biases[1])


class Attention(nn.Layer):
    """Multi-head self-attention with a bias on queries, keys and values."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.grid: tuple[int, int] | None = None  # of the relative positions
        self.qkv = QkvLinear(width, 3 * width)
        self.proj = Linear(width, width)

    def add_relative_positions(self, grid: tuple[int, int], cls_token: bool) -> None:
        """Give attention a bias for each distance of two patches, zero at the start (BEiT, arXiv 2106.08254)."""
        self.grid, self.has_cls = grid, cls_token
        # its name is `shape.RELATIVE_POSITIONS`
        self.relative_position_bias_table = self.create_parameter(
            [relative_distances(grid), self.num_heads], is_bias=True
        )

    def score_bias(self, grid: tuple[int, int] | None) -> paddle.Tensor | None:
        """Return what is added to the scores of patches of a grid, [heads, N, N]; None without relative positions."""
        if self.grid is None:
            return None
        return relative_bias(self.relative_position_bias_table, self.grid, grid or self.grid, self.has_cls)

    def forward(
        self, x_BND: paddle.Tensor, token_range: TokenRange = None, bias_HQN: paddle.Tensor | None = None
    ) -> paddle.Tensor:
        if token_range is None:
            query, key, value = split_heads(self.qkv(x_BND), 3, self.num_heads)
        else:
            queries_BQD, pairs_BNE = self.qkv(x_BND, token_range)
            (query,) = split_heads(queries_BQD, 1, self.num_heads)
            key, value = split_heads(pairs_BNE, 2, self.num_heads)
        return self.proj(attention(query, key, value, bias_HQN))


class Mlp(nn.Layer):
    """Two linear layers around an exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x_BND: paddle.Tensor) -> paddle.Tensor:
        return self.fc2(F.gelu(self.fc1(x_BND)))


class Block(nn.Layer):
    """A pre-norm transformer block: attention and MLP, each behind a LayerNorm and a residual.

    Args:
        drop_path: probability of dropping a residual branch for a whole image (Huang et al., stochastic depth).
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, epsilon=NORM_EPSILON)
        self.attn = Attention(width, num_heads)
        self.norm2 = LayerNorm(width, epsilon=NORM_EPSILON)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path = drop_path

    def forward(
        self,
        x_BND: paddle.Tensor,
        token_range: TokenRange = None,
        noise_B2: paddle.Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> paddle.Tensor:
        """Return all tokens, or with `token_range` only those, computed at the cost of those: [B, stop - start, D].

        `noise_B2`, uniform in [0, 1), decides which images drop which of the two branches; None drops none. `grid` is
        that of the patches, for relative positions.
        """
        keep_attn = keep_mlp = None
        if noise_B2 is not None and self.drop_path > 0:
            keep_attn, keep_mlp = keep_factors(noise_B2, self.drop_path).unbind(1)
        bias_HQN = self.attn.score_bias(grid)
        if bias_HQN is not None and token_range is not None:
            bias_HQN = take_tokens(bias_HQN, token_range)
        x_BND = residual_attention(x_BND, self.norm1, self.attn, token_range, keep_attn, bias_HQN)
        return residual_mlp(x_BND, self.norm2, self.mlp, keep_mlp)


def keep_factors(noise: paddle.Tensor, drop_path: float) -> paddle.Tensor:
    """Return 0 where the noise drops a branch and 1 / (1 - drop_path) elsewhere, which preserves its mean."""
    return (noise >= drop_path).astype(noise.dtype) / (1 - drop_path)


def build_blocks(depth: int, width: int, num_heads: int, mlp_ratio: float, drop_path: float = 0.0) -> nn.LayerList:
    """Build `depth` blocks whose drop path rises linearly from 0 to `drop_path` (Huang et al., stochastic depth).

    Raises:
        ValueError: width not divisible by the heads, or drop_path outside [0, 1).
    """
    if width % num_heads:
        raise ValueError(f"a width of {width} is not divisible by {num_heads} heads; choose a divisor of the width")
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path must be in [0, 1), got {drop_path}")
    rates = np.linspace(0, drop_path, depth)
    return nn.LayerList([Block(width, num_heads, mlp_ratio, float(rate)) for rate in rates])


def run_blocks(
    layers: nn.LayerList,
    x_BND: paddle.Tensor,
    token_range: TokenRange = None,
    *,
    noise_BL2: paddle.Tensor | None = None,
    inputs: list[paddle.Tensor] | None = None,
    recompute: bool = False,
    grid: tuple[int, int] | None = None,
) -> paddle.Tensor:
    """Run all blocks; the last one only for the tokens of `token_range`, since its other outputs are not used.

    Args:
        noise_BL2: drop path noise of each image and block, see `Block`; L is the number of blocks.
        inputs: a list to which the input of each block is appended.
        recompute: keep each block's input only, and compute the rest again in the backward pass.
        grid: of the patches, for relative positions.
    """
    done = 0
    if noise_BL2 is None and inputs is None and not recompute:
        x_BND, done = _run_prepared(layers, x_BND, token_range)
    noises = [None] * len(layers) if noise_BL2 is None else noise_BL2.unbind(1)
    for number, (block, noise_B2) in enumerate(zip(layers, noises), 1):  # Paddle's tracer knows no `start=`
        if number <= done:
            continue
        if inputs is not None:
            inputs.append(x_BND)
        last_range = token_range if number == len(layers) else None
        run = partial(block, token_range=last_range, noise_B2=noise_B2, grid=grid)
        x_BND = run_recomputed(run, x_BND) if recompute else run(x_BND)
    return x_BND if len(layers) else take_tokens(x_BND, token_range)


def _run_prepared(layers: nn.LayerList, x_BND: paddle.Tensor, token_range: TokenRange) -> tuple[paddle.Tensor, int]:
    """Return (the output of the first blocks as one operation, their number), or (x, 0) where that does not fit.

    The last one is not among them where one token of it is wanted.
    """
    leaves_last = token_range is not None and token_range[1] - token_range[0] == 1
    blocks = list(layers)[:-1] if leaves_last else list(layers)
    if any(block.attn.grid is not None or private.has_hooks(block) for block in blocks):  # a grid: relative positions
        return x_BND, 0
    out_BND = run_prepared(blocks, x_BND, None if leaves_last else token_range)
    return (x_BND, 0) if out_BND is None else (out_BND, len(blocks))


def run_recomputed(run: Callable[..., paddle.Tensor], *inputs: paddle.Tensor) -> paddle.Tensor:
    """Return `run(*inputs)`; only inputs are kept, and the gradient computes the rest again (arXiv 1604.06174)."""
    if not paddle.is_grad_enabled() or all(tensor.stop_gradient for tensor in inputs):
        return run(*inputs)
    # a gradient reaches weights through inputs only; no random numbers are drawn, and generators belong to all threads
    return paddle.distributed.fleet.utils.recompute(run, *inputs, preserve_rng_state=False)


def activations_of(tokens: int, width: int, heads: int) -> int:
    """Return the numbers that a block keeps of one image for its gradients.

    About 24 a token and width (inputs, norms, qkv twice, hidden layer twice, residuals), and two attention maps.
    """
    return 24 * tokens * width + 2 * heads * tokens**2


def initialise(layer: nn.Layer) -> None:
    """Initialise every linear layer: Xavier-uniform weights, zero biases (MAE, appendix A.1)."""
    weight_init, bias_init = nn.initializer.XavierUniform(), nn.initializer.Constant(0.0)
    for part in layer.sublayers():
        if isinstance(part, Linear):
            weight_init(part.weight)
            bias_init(part.bias)
