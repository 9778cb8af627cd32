"""MAE's decoder: self-attention over visible and mask tokens (He et al., arXiv 2111.06377, sec. 3).

Shapes: B images, C channels, H x W pixels, L patches, K kept, M = L - K removed, N tokens, D width, P pixels a patch.
"""

from __future__ import annotations

import math

import numpy as np

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.blocks import NORM_EPSILON, activations_of, build_blocks, run_blocks
from paddlemae.model.encoder import Encoder, encode_visible
from paddlemae.model.kernels.layers import LayerNorm, Linear
from paddlemae.model.masking import Mask
from paddlemae.model.patches import flat_rows, take_patches
from paddlemae.model.positions import add_decoder_positions, take_positions, token_init
from paddlemae.model.shape import DecoderShape, EncoderShape


class MaeDecoder(nn.Layer):
    """Blocks over all tokens, then a linear layer to pixels; parameters carry the official names.

    Attributes:
        uses_norm: whether the encoder's last norm is part of the training.
    """

    uses_norm = True

    def __init__(self, encoder: EncoderShape, shape: DecoderShape) -> None:
        super().__init__()
        width = shape.decoder_embed_dim
        assert shape.decoder_depth is not None
        self.encoder_shape, self.shape = encoder, shape
        self.decoder_embed = Linear(encoder.embed_dim, width)
        self.mask_token = self.create_parameter([1, 1, width], default_initializer=token_init())
        add_decoder_positions(self, encoder.positions, width, encoder.grid, encoder.cls_token)
        self.decoder_blocks = build_blocks(shape.decoder_depth, width, shape.decoder_num_heads, encoder.mlp_ratio)
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
        """Predict the removed patches: [B, M, P].

        Raises:
            ValueError: `predicted_BQ`, since every removed patch is predicted; images or mask of another shape.
        """
        if predicted_BQ is not None:
            raise ValueError("MAE's decoder predicts every removed patch; only decoder='cross' can leave some out")
        latent_BND = encode_visible(encoder, images_BCHW, mask, path_noise, recompute=recompute)
        return decode(self, latent_BND, mask, recompute=recompute)

    def every_patch(self, encoder: Encoder, images_BCHW: paddle.Tensor, mask: Mask) -> paddle.Tensor:
        """Predict every patch, kept ones included, in the image's order: [B, L, P]."""
        ordered_BLP = decode(self, encode_visible(encoder, images_BCHW, mask), mask, only_removed=False)
        back_BL = np.argsort(np.concatenate([mask.keep, mask.removed], axis=1), axis=1)
        return take_patches(ordered_BLP, flat_rows(back_BL, ordered_BLP.shape[1]))

    def activations(self, visible: int, predicted: int) -> int:
        """Return the numbers that a block keeps of one image for its gradients.

        Args:
            visible: tokens of the encoder.
            predicted: patches.
        """
        tokens = math.prod(self.encoder_shape.grid) + int(self.encoder_shape.cls_token)
        return activations_of(tokens, self.shape.decoder_embed_dim, self.shape.decoder_num_heads)


def decode(
    decoder: MaeDecoder, latent_BND: paddle.Tensor, mask: Mask, *, only_removed: bool = True, recompute: bool = False
) -> paddle.Tensor:
    """Predict patches from the encoder's output (MAE, sec. 3, "MAE decoder").

    The decoder sees the visible tokens first and the mask tokens behind them, each with its own
    position: attention does not care about order, so the tokens are not put back in order.

    Args:
        latent_BND: from `encode_visible`.
        mask: the mask it was made with.
        only_removed: predict removed patches only; else kept ones too.
    Returns:
        tensor [B, M, P], or [B, L, P] with the kept patches before the removed ones.
    """
    num_keep, num_removed = mask.keep.shape[1], mask.removed.shape[1]
    x_BND = decoder.decoder_embed(latent_BND)
    table_ND = decoder.decoder_pos_embed[0]
    if decoder.encoder_shape.cls_token:
        cls_row, table_LD = table_ND.split([1, table_ND.shape[0] - 1], axis=0)
        cls_B1D, visible_BKD = x_BND.split([1, num_keep], axis=1)
        front = [cls_B1D + cls_row]
    else:
        table_LD, visible_BKD, front = table_ND, x_BND, []
    front.append(visible_BKD + take_positions(table_LD, mask.keep))
    if num_removed:
        front.append(decoder.mask_token + take_positions(table_LD, mask.removed))
    x_BND = paddle.concat(front, axis=1)
    tokens = x_BND.shape[1]
    token_range = tokens - (num_removed if only_removed else num_keep + num_removed), tokens
    x_BND = run_blocks(decoder.decoder_blocks, x_BND, token_range, recompute=recompute)
    return decoder.decoder_pred(decoder.decoder_norm(x_BND))
