"""CrossMAE's decoder: removed patches are read out of the visible tokens by cross-attention alone.

Fu et al., "Rethinking Patch Dependence for Masked Autoencoders" (arXiv 2401.14391), sec. 3.2 to 3.4. Mask tokens don't
see each other, so any of them can be left out: only the patches that are asked for pass through the decoder.

Shapes: B images, N visible tokens (kept patches and, with a cls token, one more), Q predicted patches, E the encoder's
width, D the decoder's, P pixels a patch.
"""

from __future__ import annotations

import numpy as np

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.blocks import NORM_EPSILON, Mlp, run_recomputed
from paddlemae.model.encoder import Encoder, check_fit, encode, encode_visible
from paddlemae.model.kernels.attention import attention, split_heads
from paddlemae.model.kernels.halves import residual_cross_attention, residual_mlp
from paddlemae.model.kernels.layers import LayerNorm, Linear, weighted_sums
from paddlemae.model.masking import Mask
from paddlemae.model.positions import add_decoder_positions, take_positions, token_init
from paddlemae.model.shape import DecoderShape, EncoderShape


class InterBlockAttention(nn.Layer):
    """Input of each decoder block: its own learned weighted sum of the encoder's feature maps (sec. 3.4).

    The maps are the input of the encoder's first block and the output of every block. The sums are normalised
    afterwards only (appendix A.3); there each block has a norm of its own here, which the paper leaves open.

    Args:
        num_maps: encoder blocks + 1.
        num_blocks: decoder blocks.
        width: E.
    """

    def __init__(self, num_maps: int, num_blocks: int, width: int) -> None:
        super().__init__()
        # N(0, 1/n), not normalised to a sum of one (sec. 3.4; appendix A.5 found no difference)
        weight_init = nn.initializer.Normal(std=num_maps**-0.5)
        self.weight = self.create_parameter([num_blocks, num_maps], default_initializer=weight_init)
        self.norms = nn.LayerList([LayerNorm(width, epsilon=NORM_EPSILON) for _ in range(num_blocks)])

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        """Return one memory [B, N, E] for each decoder block, from feature maps [B, N, E]."""
        return [norm(sum_BNE) for norm, sum_BNE in zip(self.norms, weighted_sums(self.weight, maps))]


class CrossAttention(nn.Layer):
    """Multi-head attention of queries to a memory of another width.

    Each block projects the memory by itself, so there is no `decoder_embed` (sec. 3.2).
    """

    def __init__(self, width: int, memory_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(width, width)
        self.kv = Linear(memory_width, 2 * width)
        self.proj = Linear(width, width)

    def forward(self, x_BQD: paddle.Tensor, memory_BNE: paddle.Tensor) -> paddle.Tensor:
        (query,) = split_heads(self.q(x_BQD), 1, self.num_heads)
        key, value = split_heads(self.kv(memory_BNE), 2, self.num_heads)
        return self.proj(attention(query, key, value))


class CrossBlock(nn.Layer):
    """A pre-norm block of cross-attention and MLP, without self-attention (sec. 3.2, figure 4b)."""

    def __init__(self, width: int, memory_width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, epsilon=NORM_EPSILON)
        self.attn = CrossAttention(width, memory_width, num_heads)
        self.norm2 = LayerNorm(width, epsilon=NORM_EPSILON)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x_BQD: paddle.Tensor, memory_BNE: paddle.Tensor) -> paddle.Tensor:
        x_BQD = residual_cross_attention(x_BQD, memory_BNE, self.norm1, self.attn)
        return residual_mlp(x_BQD, self.norm2, self.mlp)


def cross_blocks(depth: int, width: int, memory_width: int, num_heads: int, mlp_ratio: float) -> nn.LayerList:
    """Build the blocks of the decoder.

    Raises:
        ValueError: no block at all, or width not divisible by the heads.
    """
    if depth < 1:
        raise ValueError(f"a cross decoder needs at least 1 block, got {depth}")
    if width % num_heads:
        raise ValueError(f"a width of {width} is not divisible by {num_heads} heads; choose a divisor of the width")
    return nn.LayerList([CrossBlock(width, memory_width, num_heads, mlp_ratio) for _ in range(depth)])


class CrossDecoder(nn.Layer):
    """Blocks of cross-attention, then a linear layer to pixels; parameters carry the official names.

    Attributes:
        uses_norm: whether the encoder's last norm is part of the training.
    """

    def __init__(self, encoder: EncoderShape, shape: DecoderShape) -> None:
        super().__init__()
        width = shape.decoder_embed_dim
        assert shape.decoder_depth is not None
        self.encoder_shape, self.shape = encoder, shape
        self.uses_norm = not shape.inter_block_attention
        self.mask_token = self.create_parameter([1, 1, width], default_initializer=token_init())
        add_decoder_positions(self, encoder.positions, width, encoder.grid, encoder.cls_token)
        self.decoder_blocks = cross_blocks(
            shape.decoder_depth, width, encoder.embed_dim, shape.decoder_num_heads, encoder.mlp_ratio
        )
        self.inter_block = None
        if shape.inter_block_attention:
            self.inter_block = InterBlockAttention(encoder.depth + 1, shape.decoder_depth, encoder.embed_dim)
        self.decoder_norm = LayerNorm(width, epsilon=NORM_EPSILON)
        self.decoder_pred = Linear(width, encoder.pixels)

    def forward(
        self,
        encoder: Encoder,
        images_BCHW: paddle.Tensor,
        mask: Mask,
        predicted_BQ: np.ndarray | None = None,
        path_noise: np.ndarray | None = None,
        recompute: bool = False,
    ) -> paddle.Tensor:
        """Predict removed patches, those of `predicted_BQ` or all: [B, Q, P]; errors as `encode_memories`."""
        memories = encode_memories(self, encoder, images_BCHW, mask, path_noise, recompute=recompute)
        return read_out(self, memories, mask.removed if predicted_BQ is None else predicted_BQ, recompute=recompute)

    def every_patch(self, encoder: Encoder, images_BCHW: paddle.Tensor, mask: Mask) -> paddle.Tensor:
        """Predict every patch, kept ones included, in the image's order: [B, L, P]."""
        every_L = np.arange(encoder.grid[0] * encoder.grid[1])
        memories = encode_memories(self, encoder, images_BCHW, mask)
        return read_out(self, memories, np.tile(every_L, (len(mask.keep), 1)))

    def activations(self, visible: int, predicted: int) -> int:
        """Return the numbers that a block keeps of one image for its gradients.

        About 20 a query and width (as in `blocks.activations_of`, without keys and values), 4 a memory token and the
        encoder's width (its map, the weighted sum, the normalised sum), 4 a memory token and width (keys and values
        twice), and two attention maps.
        """
        width, heads = self.shape.decoder_embed_dim, self.shape.decoder_num_heads
        memory = visible * 4 * (self.encoder_shape.embed_dim + width)
        return 20 * predicted * width + memory + 2 * heads * predicted * visible


def encode_memories(
    decoder: CrossDecoder,
    encoder: Encoder,
    images_BCHW: paddle.Tensor,
    mask: Mask,
    path_noise: np.ndarray | None = None,
    *,
    recompute: bool = False,
) -> list[paddle.Tensor]:
    """Encode the kept patches: what each of the decoder's blocks attends to, [B, N, E] each.

    Raises:
        ValueError: images or mask that are not of the model's own size.
    """
    if decoder.inter_block is None:
        seen_BNE = encode_visible(encoder, images_BCHW, mask, path_noise, recompute=recompute)
        return [seen_BNE] * len(decoder.decoder_blocks)
    check_fit(encoder, images_BCHW, mask)
    maps: list[paddle.Tensor] = []
    last_BNE = encode(encoder, images_BCHW, mask, block_inputs=maps, path_noise=path_noise, recompute=recompute)
    return decoder.inter_block([*maps, last_BNE])


def read_out(
    decoder: CrossDecoder, memories: list[paddle.Tensor], patches_BQ: np.ndarray, *, recompute: bool = False
) -> paddle.Tensor:
    """Predict the named patches, each for itself (sec. 3.2 and 3.3).

    Queries are the mask token at each patch's position; keys and values carry no positions but the encoder's.

    Args:
        memories: what each decoder block attends to, [B, N, E] each; see `encode_memories`.
        patches_BQ: indices of patches, removed or not.
    Returns:
        tensor [B, Q, P].
    """
    # the table's first row is the cls token's, if there is one
    x_BQD = decoder.mask_token + take_positions(
        decoder.decoder_pos_embed[0], patches_BQ + int(decoder.encoder_shape.cls_token)
    )
    for block, memory_BNE in zip(decoder.decoder_blocks, memories):
        x_BQD = run_recomputed(block, x_BQD, memory_BNE) if recompute else block(x_BQD, memory_BNE)
    return decoder.decoder_pred(decoder.decoder_norm(x_BQD))
