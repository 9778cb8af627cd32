"""CrossMAE's decoder: removed patches are read out of the visible tokens by cross-attention alone.

Fu et al., "Rethinking Patch Dependence for Masked Autoencoders" (arXiv 2401.14391), sec. 3.2 to 3.4. Mask tokens don't
see each other, so any of them can be left out: only the patches that are asked for pass through the decoder.

Shapes: B images, N visible tokens (kept patches and, with a cls token, one more), Q predicted patches, E the encoder's
width, D the decoder's, P pixels a patch.
"""

from __future__ import annotations

import numpy as np

from paddlemae.engine.safe_import import nn
from paddlemae.model.kernels import (
    LayerNorm,
    Linear,
    attention,
    residual_cross_attention,
    residual_mlp,
    split_heads,
    weighted_sums,
)
from paddlemae.model.vit import NORM_EPSILON, Mlp, recomputed, take_positions


class InterBlockAttention(nn.Layer):
    """What each decoder block sees: its own learned weighted sum of the encoder's feature maps (sec. 3.4).

    The maps are the input of the encoder's first block and the output of every block. The sums are normalised
    afterwards only (appendix A.3); there each block has a norm of its own here, which the paper leaves open.

    Args:
        num_maps: encoder blocks + 1.
        num_blocks: decoder blocks.
        width: E.
    """

    def __init__(self, num_maps: int, num_blocks: int, width: int):
        super().__init__()
        # N(0, 1/n), not brought to a sum of one (sec. 3.4; appendix A.5 found no difference)
        weight_init = nn.initializer.Normal(std=num_maps**-0.5)
        self.weight = self.create_parameter([num_blocks, num_maps], default_initializer=weight_init)
        self.norms = nn.LayerList([LayerNorm(width, epsilon=NORM_EPSILON) for _ in range(num_blocks)])

    def forward(self, maps: list) -> list:
        """One memory [B, N, E] for each decoder block, from feature maps [B, N, E]."""
        return [norm(sum_BNE) for norm, sum_BNE in zip(self.norms, weighted_sums(self.weight, maps))]


class CrossAttention(nn.Layer):
    """Multi-head attention of queries to a memory of another width.

    The memory is projected here, for each block anew, so there is no `decoder_embed` (sec. 3.2).
    """

    def __init__(self, width: int, memory_width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(width, width)
        self.kv = Linear(memory_width, 2 * width)
        self.proj = Linear(width, width)

    def forward(self, x_BQD, memory_BNE):
        (query,) = split_heads(self.q(x_BQD), 1, self.num_heads)
        key, value = split_heads(self.kv(memory_BNE), 2, self.num_heads)
        return self.proj(attention(query, key, value))


class CrossBlock(nn.Layer):
    """A pre-norm block of cross-attention and MLP, without self-attention (sec. 3.2, figure 4b)."""

    def __init__(self, width: int, memory_width: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1 = LayerNorm(width, epsilon=NORM_EPSILON)
        self.attn = CrossAttention(width, memory_width, num_heads)
        self.norm2 = LayerNorm(width, epsilon=NORM_EPSILON)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x_BQD, memory_BNE):
        x_BQD = residual_cross_attention(x_BQD, memory_BNE, self.norm1, self.attn)
        return residual_mlp(x_BQD, self.norm2, self.mlp)


def cross_blocks(depth: int, width: int, memory_width: int, num_heads: int, mlp_ratio: float) -> nn.LayerList:
    """The decoder's blocks.

    Raises:
        ValueError: no block at all, or width not divisible by the heads.
    """
    if depth < 1:
        raise ValueError(f"a cross decoder needs at least 1 block to see anything of the image, got {depth}")
    if width % num_heads:
        raise ValueError(f"a width of {width} can't be shared by {num_heads} heads; it must be divisible by them")
    return nn.LayerList([CrossBlock(width, memory_width, num_heads, mlp_ratio) for _ in range(depth)])


def read_out(model: nn.Layer, memories: list, patches_BQ: np.ndarray):
    """Predict the named patches, each for itself (sec. 3.2 and 3.3).

    Queries are the mask token at each patch's position; keys and values carry no positions but the encoder's.

    Args:
        model: a `MaskedAutoencoder` with the cross decoder.
        memories: what each decoder block attends to, [B, N, E] each; see `mae.encode_visible`.
        patches_BQ: indices of patches, removed or not.
    Returns:
        tensor [B, Q, P].
    """
    # the table's first row is the cls token's, if there is one
    x_BQD = model.mask_token + take_positions(model.decoder_pos_embed[0], patches_BQ + int(model.has_cls))
    for block, memory_BNE in zip(model.decoder_blocks, memories):
        x_BQD = recomputed(block, x_BQD, memory_BNE) if model.recompute else block(x_BQD, memory_BNE)
    return model.decoder_pred(model.decoder_norm(x_BQD))
