"""The masked autoencoder, in the paper's order: mask, encode, decode, loss.

Shapes: B images, C channels, H x W pixels, L patches, K kept, M = L - K removed, D width,
Q predicted, P pixels a patch (rows x columns x C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.crossmae import InterBlockAttention, cross_blocks, read_out
from paddlemae.model.kernels import LayerNorm, Linear, mean_of, normal_rows, rows_of
from paddlemae.model.masking import Mask
from paddlemae.model.shape import pair
from paddlemae.model.vit import (
    FIXED_POSITIONS,
    NORM_EPSILON,
    add_encoder,
    add_positions,
    blocks,
    encode,
    evaluating,
    flat_rows,
    initialise,
    patchify,
    run_blocks,
    take_patches,
    take_positions,
    token_init,
    unpatchify,
)

TARGET_EPSILON = 1e-6  # added to a patch's variance; the published models' value
DECODER_DEPTH = {"mae": 8, "cross": 12}  # MAE, sec. 4.1; CrossMAE, sec. 4.1


class MaskedAutoencoder(nn.Layer):
    """MAE (He et al., arXiv 2111.06377, sec. 3): encode the visible patches, decode all, predict pixels.

    Args:
        image_size: pixels, one number or (height, width).
        patch_size: pixels, one number or (height, width).
        channels, embed_dim, depth, num_heads, mlp_ratio: the encoder's shape; see `vit.SIZES`.
        cls_token: whether the encoder has one.
        positions: the encoder's "sincos2d", "sincos1d" or "learned"; the decoder's are always fixed.
        drop_path: rate of the encoder's last block, rising linearly from 0.
        decoder: "mae", self-attention over visible and mask tokens, or "cross", CrossMAE's (see `crossmae`).
        decoder_embed_dim, decoder_depth, decoder_num_heads: the decoder's own shape; the depth is 8 ("mae") or
            12 ("cross") unless given.
        inter_block_attention: a cross decoder's blocks see weighted sums of all the encoder's feature maps; without,
            they all see its normalised output.
        norm_pix_loss: predict pixels normalised by each patch's own mean and deviation.
    Raises:
        ValueError: a shape that does not fit together, or an unknown `decoder` or `positions`.
    """

    def __init__(
        self,
        *,
        image_size=224,
        patch_size=16,
        channels: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        cls_token: bool = True,
        positions: str = "sincos2d",
        drop_path: float = 0.0,
        decoder: str = "mae",
        decoder_embed_dim: int = 512,
        decoder_depth: int | None = None,
        decoder_num_heads: int = 16,
        inter_block_attention: bool = True,
        norm_pix_loss: bool = False,
    ):
        super().__init__()
        if decoder not in DECODER_DEPTH:
            raise ValueError(f"decoder must be one of {', '.join(DECODER_DEPTH)}, got {decoder!r}")
        decoder_depth = DECODER_DEPTH[decoder] if decoder_depth is None else decoder_depth
        encoder: dict[str, Any] = dict(
            image_size=list(pair(image_size)),
            patch_size=list(pair(patch_size)),
            channels=channels,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            cls_token=cls_token,
            positions=positions,
            drop_path=drop_path,
        )
        decoding: dict[str, Any] = dict(
            decoder=decoder,
            decoder_embed_dim=decoder_embed_dim,
            decoder_depth=decoder_depth,
            decoder_num_heads=decoder_num_heads,
            norm_pix_loss=norm_pix_loss,
        )
        if decoder == "cross":
            decoding["inter_block_attention"] = inter_block_attention
        self.config: dict[str, Any] = {**encoder, **decoding}
        add_encoder(self, **encoder)
        self.norm = LayerNorm(embed_dim, epsilon=NORM_EPSILON)

        self.pixels = self.patch_embed.proj.weight.shape[0]
        self.norm_pix_loss = norm_pix_loss
        if norm_pix_loss and self.pixels < 2:
            raise ValueError("norm_pix_loss needs patches of at least 2 values: one alone has no deviation")
        self.decoder = decoder
        if decoder == "mae":
            self.decoder_embed = Linear(embed_dim, decoder_embed_dim)
        self.mask_token = self.create_parameter([1, 1, decoder_embed_dim], default_initializer=token_init())
        fixed = positions if positions in FIXED_POSITIONS else "sincos2d"
        add_positions(self, "decoder_pos_embed", fixed, decoder_embed_dim, self.grid, cls_token)
        if decoder == "mae":
            self.decoder_blocks = blocks(decoder_depth, decoder_embed_dim, decoder_num_heads, mlp_ratio)
        else:
            self.decoder_blocks = cross_blocks(
                decoder_depth, decoder_embed_dim, embed_dim, decoder_num_heads, mlp_ratio
            )
        self.inter_block = None
        if decoder == "cross" and inter_block_attention:
            self.inter_block = InterBlockAttention(depth + 1, decoder_depth, embed_dim)
            for parameter in self.norm.parameters():
                parameter.stop_gradient = True  # not part of this training; it stays as it is for `vit.features`
        self.decoder_norm = LayerNorm(decoder_embed_dim, epsilon=NORM_EPSILON)
        self.decoder_pred = Linear(decoder_embed_dim, self.pixels)
        initialise(self)

    def forward(
        self,
        images_BCHW,
        mask: Mask,
        predicted_BQ: np.ndarray | None = None,
        path_noise: np.ndarray | None = None,
    ):
        """The loss, a scalar: mean squared error over removed patches only (MAE, sec. 3).

        Args:
            images_BCHW: float tensor of the model's own image size.
            mask: which patches are removed, at least one in each image.
            predicted_BQ: the removed patches to predict, from `masking.draw_predicted`; None for all of them.
            path_noise: for drop path, see `vit.encode`.
        Raises:
            ValueError: images or mask of another shape, a mask that removes nothing, or `predicted_BQ` for a
                decoder that predicts all.
        """
        if mask.removed.shape[1] == 0:
            raise ValueError("the loss is taken on removed patches, and this mask removes none; raise mask_ratio")
        if self.decoder == "cross":
            wanted_BQ = mask.removed if predicted_BQ is None else predicted_BQ
            prediction_BQP = read_out(self, encode_memories(self, images_BCHW, mask, path_noise), wanted_BQ)
        elif predicted_BQ is None:
            wanted_BQ = mask.removed
            prediction_BQP = decode(self, encode_visible(self, images_BCHW, mask, path_noise), mask)
        else:
            raise ValueError("MAE's decoder predicts every removed patch; only decoder='cross' can leave some out")
        target_BQP = patch_target(self, images_BCHW, wanted_BQ)
        return mean_of((prediction_BQP - target_BQP).square())


def encode_visible(model: MaskedAutoencoder, images_BCHW, mask: Mask, path_noise: np.ndarray | None = None):
    """Encode the kept patches: [B, N, D] with the encoder's last norm applied.

    Raises:
        ValueError: images or mask that are not of the model's own size.
    """
    check_fit(model, images_BCHW, mask)
    return model.norm(encode(model, images_BCHW, mask, path_noise=path_noise))


def encode_memories(model: MaskedAutoencoder, images_BCHW, mask: Mask, path_noise: np.ndarray | None = None) -> list:
    """Encode the kept patches for a cross decoder: what each of its blocks attends to, [B, N, D] each.

    Raises:
        ValueError: images or mask that are not of the model's own size.
    """
    if model.inter_block is None:
        return [encode_visible(model, images_BCHW, mask, path_noise)] * len(model.decoder_blocks)
    check_fit(model, images_BCHW, mask)
    maps: list = []
    last_BND = encode(model, images_BCHW, mask, block_inputs=maps, path_noise=path_noise)
    return model.inter_block([*maps, last_BND])


def check_fit(model: MaskedAutoencoder, images_BCHW, mask: Mask) -> None:
    """Raise a ValueError unless images and mask are of the model's own size."""
    rows, columns = model.grid
    size = [rows * model.patch_size[0], columns * model.patch_size[1]]
    if list(images_BCHW.shape[2:]) != size:
        raise ValueError(
            f"this model takes images of {size[0]} x {size[1]} pixels, got {list(images_BCHW.shape)}; resize them"
        )
    patches = mask.keep.shape[1] + mask.removed.shape[1]
    if len(mask.keep) != images_BCHW.shape[0] or patches != rows * columns:
        raise ValueError(
            f"the mask is for {len(mask.keep)} images of {patches} patches, "
            f"the batch has {images_BCHW.shape[0]} of {rows * columns}"
        )


def decode(model: MaskedAutoencoder, latent_BND, mask: Mask, *, only_removed: bool = True):
    """Predict patches from the encoder's output (MAE, sec. 3, "MAE decoder").

    The decoder sees the visible tokens first and the mask tokens behind them, each with its own
    position: attention does not care about order, so nothing is put back into place and forth.

    Args:
        latent_BND: from `encode_visible`.
        mask: the mask it was made with.
        only_removed: predict removed patches only; else kept ones too.
    Returns:
        tensor [B, M, P], or [B, L, P] with the kept patches before the removed ones.
    """
    num_keep, num_removed = mask.keep.shape[1], mask.removed.shape[1]
    x_BND = model.decoder_embed(latent_BND)
    table_ND = model.decoder_pos_embed[0]
    if model.has_cls:
        cls_row, table_LD = table_ND.split([1, table_ND.shape[0] - 1], axis=0)
        cls_B1D, visible_BKD = x_BND.split([1, num_keep], axis=1)
        front = [cls_B1D + cls_row]
    else:
        table_LD, visible_BKD, front = table_ND, x_BND, []
    front.append(visible_BKD + take_positions(table_LD, mask.keep))
    if num_removed:
        front.append(model.mask_token + take_positions(table_LD, mask.removed))
    x_BND = paddle.concat(front, axis=1)
    tokens = x_BND.shape[1]
    wanted = tokens - (num_removed if only_removed else num_keep + num_removed), tokens
    x_BND = run_blocks(model.decoder_blocks, x_BND, wanted, recompute=model.recompute)
    return model.decoder_pred(model.decoder_norm(x_BND))


@paddle.no_grad()
def patch_target(model: MaskedAutoencoder, images_BCHW, patches_BQ: np.ndarray):
    """What the named patches should be predicted as: [B, Q, P] (MAE, sec. 3, "Reconstruction target")."""
    patches_BLP = patchify(images_BCHW, model.patch_size)
    target_BQP = take_patches(patches_BLP, flat_rows(patches_BQ, patches_BLP.shape[1]))
    return normal_patches(target_BQP)[0] if model.norm_pix_loss else target_BQP


def normal_patches(patches_BLP):
    """(patches less their mean, over their deviation [B, L, P]; mean, 1 / deviation [B, L, 1]).

    The variance is unbiased, as in the published models.
    """
    batch, patches, pixels = patches_BLP.shape
    parts = normal_rows(rows_of(patches_BLP), pixels - 1, TARGET_EPSILON)
    return [part.reshape([batch, patches, -1]) for part in parts]


def predict(model: MaskedAutoencoder, images_BCHW, mask: Mask):
    """The decoder's output for every patch, kept ones included, in the image's order: [B, L, P]."""
    if model.decoder == "cross":
        every_L = np.arange(model.grid[0] * model.grid[1])
        return read_out(model, encode_memories(model, images_BCHW, mask), np.tile(every_L, (len(mask.keep), 1)))
    ordered_BLP = decode(model, encode_visible(model, images_BCHW, mask), mask, only_removed=False)
    back_BL = np.argsort(np.concatenate([mask.keep, mask.removed], axis=1), axis=1)
    return take_patches(ordered_BLP, flat_rows(back_BL, ordered_BLP.shape[1]))


@dataclass(frozen=True)
class Reconstruction:
    """Pictures [B, C, H, W] in the pixel scale of the images that went in.

    Attributes:
        original: the images.
        masked: removed patches filled.
        prediction: every patch as predicted. With `norm_pix_loss` each prediction is given back the
            mean and deviation of the *original* patch, which the model never saw.
        completed: `prediction` with the visible patches put back.
        plain: the decoder's output as it is (the same as `prediction` without `norm_pix_loss`).
    """

    original: paddle.Tensor
    masked: paddle.Tensor
    prediction: paddle.Tensor
    completed: paddle.Tensor
    plain: paddle.Tensor


@paddle.no_grad()
def reconstruct(model: MaskedAutoencoder, images_BCHW, mask: Mask, fill=0.0) -> Reconstruction:
    """Draw what the model makes of images whose removed patches it can't see (MAE, figures 2 to 4).

    Args:
        images_BCHW: float tensor, normalised as in pretraining.
        mask: from `masking`.
        fill: value of removed patches in `masked`, one number or one a channel; 0 is the mean colour of
            normalised images.
    """
    patches_BLP = patchify(images_BCHW, model.patch_size)
    with evaluating(model):
        plain_BLP = predict(model, images_BCHW, mask)
    prediction_BLP = plain_BLP
    if model.norm_pix_loss:
        _, mean_BL1, scale_BL1 = normal_patches(patches_BLP)
        prediction_BLP = plain_BLP / scale_BL1 + mean_BL1
    fill_P = paddle.to_tensor(np.resize(np.asarray(fill, np.float32), model.pixels))  # channels come last
    removed_BL1 = paddle.to_tensor(mask.as_map().astype(np.float32)).unsqueeze(-1)

    def picture(x_BLP):
        return unpatchify(x_BLP, model.patch_size, model.grid)

    return Reconstruction(
        original=images_BCHW,
        masked=picture(patches_BLP * (1 - removed_BL1) + fill_P * removed_BL1),
        prediction=picture(prediction_BLP),
        completed=picture(patches_BLP * (1 - removed_BL1) + prediction_BLP * removed_BL1),
        plain=picture(plain_BLP),
    )
