"""The encoder: tokens of the visible patches, blocks, features.

Parameters carry the official MAE's names, behind `encoder.` in a model; see `weights.transfer`.

Shapes: B images, C channels, H x W pixels, L patches of a grid (rows x columns), K kept patches,
N tokens (patches and, with a cls token, one more), D width, P pixels a patch (rows x columns x C).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.engine.tensors import tensor_of
from paddlemae.model.attention_weights import attention_weights
from paddlemae.model.blocks import NORM_EPSILON, build_blocks, run_blocks
from paddlemae.model.kernels.attention import TokenRange, take_tokens
from paddlemae.model.kernels.layers import LayerNorm, Linear
from paddlemae.model.kernels.rows import mean_rows
from paddlemae.model.masking import Mask
from paddlemae.model.patches import flat_rows, patchify, take_patches
from paddlemae.model.positions import add_positions, resize_positions, take_positions, token_init
from paddlemae.model.shape import EncoderShape, pair, patch_grid, pooled_width

MEAN_STD = "mean+std"
POOLS = ("cls", "mean", MEAN_STD)  # ways to make one feature vector of an image's tokens
ASKING = ("cls", "mean")  # tokens whose attention is shown
VARIANCE_EPSILON = 1e-12  # under the root, so that tokens that are all alike have a gradient


class PatchEmbed(nn.Layer):
    """A linear projection of each patch; on disk the official Conv2D weight [D, C, height, width]."""

    def __init__(self, pixels: int, width: int) -> None:
        super().__init__()
        self.proj = Linear(pixels, width)

    def forward(self, patches_BLP: paddle.Tensor) -> paddle.Tensor:
        return self.proj(patches_BLP)


class Encoder(nn.Layer):
    """A ViT without a head (MAE, sec. 3, "MAE encoder"); `encode` and `features` run it.

    Args:
        norms_pooled: the pool behind which the last norm, `fc_norm`, comes; None is a `norm` in front of any pool.
        has_norm: whether there is a last norm; heads that read the blocks' outputs need none.
        relative_positions: whether attention has a bias for each distance of two patches.
    Raises:
        ValueError: a shape that does not fit together, or unknown positions.
    """

    def __init__(
        self,
        shape: EncoderShape,
        *,
        norms_pooled: str | None = None,
        has_norm: bool = True,
        relative_positions: bool = False,
    ) -> None:
        super().__init__()
        self.patch_size: tuple[int, int] = pair(shape.patch_size)
        self.grid = shape.grid
        self.channels = shape.channels
        self.has_cls = shape.cls_token
        self.norms_pooled = norms_pooled
        self.has_norm = has_norm
        self.patch_embed = PatchEmbed(shape.pixels, shape.embed_dim)
        if shape.cls_token:
            self.cls_token = self.create_parameter([1, 1, shape.embed_dim], default_initializer=token_init())
        add_positions(self, "pos_embed", shape.positions, shape.embed_dim, self.grid, shape.cls_token)
        self.blocks: Any = build_blocks(shape.depth, shape.embed_dim, shape.num_heads, shape.mlp_ratio, shape.drop_path)
        if relative_positions:
            for block in self.blocks:
                block.attn.add_relative_positions(self.grid, shape.cls_token)
        if norms_pooled:
            self.fc_norm = LayerNorm(pooled_width(norms_pooled, shape.embed_dim), epsilon=NORM_EPSILON)
        elif has_norm:
            self.norm = LayerNorm(shape.embed_dim, epsilon=NORM_EPSILON)


class EncoderModel(Protocol):
    """A `MaskedAutoencoder`, a `VisionTransformer` or a `Segmenter`."""

    encoder: Encoder
    recompute: bool


def check_images(images_BCHW: paddle.Tensor, channels: int) -> None:
    """Raise a ValueError unless the batch is [B, C, H, W] with the model's number of channels."""
    if images_BCHW.ndim != 4 or images_BCHW.shape[1] != channels:
        raise ValueError(f"images must be [B, {channels}, H, W] for this model, got {list(images_BCHW.shape)}")


def split_positions(encoder: Encoder, grid: tuple[int, int]) -> tuple[paddle.Tensor | None, paddle.Tensor]:
    """Return (cls row [1, 1, D] or None, patch table [L, D]), resized if `grid` is not the encoder's own."""
    table = encoder.pos_embed
    if not encoder.has_cls:
        return None, resize_positions(table[0], encoder.grid, grid)
    cls_row, patches = table.split([1, table.shape[1] - 1], axis=1)
    return cls_row, resize_positions(patches[0], encoder.grid, grid)


def encode(
    encoder: Encoder,
    images_BCHW: paddle.Tensor,
    mask: Mask | None = None,
    *,
    block_inputs: list[paddle.Tensor] | None = None,
    path_noise: np.ndarray | None = None,
    token_range: TokenRange = None,
    depth: int | None = None,
    recompute: bool = False,
) -> paddle.Tensor:
    """Run the encoder's blocks on the visible patches only (MAE, sec. 3, "MAE encoder"), before its last norm.

    Args:
        images_BCHW: float tensor; H and W as the model's, or others that the patch divides (positions resized).
        mask: patches to leave out; None keeps all.
        block_inputs: a list to which the input of each block is appended, [B, N, D] each, for decoders that read all
            of them.
        path_noise: float32 [B, depth, 2] in [0, 1), which drop path compares with its rates in training; None draws
            it from Paddle's generator.
        token_range: the tokens start..stop that are returned; the last block is computed for them alone.
        depth: how many of the blocks are run, from the first; None is all of them.
        recompute: see `run_blocks`.
    Returns:
        tensor [B, N, D]; the cls token, if any, first, then the kept patches in the mask's order.
    Raises:
        ValueError: images of another channel count or of a size that the patch does not divide.
    """
    check_images(images_BCHW, encoder.channels)
    grid = patch_grid(images_BCHW.shape[2:], encoder.patch_size)
    cls_row, positions_LD = split_positions(encoder, grid)
    patches_BLP = patchify(images_BCHW, encoder.patch_size)
    if mask is None:
        x_BND = encoder.patch_embed(patches_BLP) + positions_LD
    else:
        # patches are dropped before the projection, so removed ones cost nothing at all
        visible_BKP = take_patches(patches_BLP, flat_rows(mask.keep, patches_BLP.shape[1]))
        x_BND = encoder.patch_embed(visible_BKP) + take_positions(positions_LD, mask.keep)
    if cls_row is not None:
        cls_B1D = (encoder.cls_token + cls_row).expand([x_BND.shape[0], -1, -1])
        x_BND = paddle.concat([cls_B1D, x_BND], axis=1)
    noise_BL2 = drop_path_noise(encoder, x_BND.shape[0], path_noise)
    layers = encoder.blocks if depth is None else encoder.blocks[:depth]
    return run_blocks(
        layers, x_BND, token_range, noise_BL2=noise_BL2, inputs=block_inputs, recompute=recompute, grid=grid
    )


def drop_path_noise(encoder: Encoder, batch: int, given: np.ndarray | None) -> paddle.Tensor | None:
    """Return the noise that `encode` documents, a tensor; None where nothing is dropped."""
    if not encoder.training or not any(block.drop_path for block in encoder.blocks):
        return None
    return paddle.rand([batch, len(encoder.blocks), 2]) if given is None else tensor_of(given)


def encode_visible(
    encoder: Encoder,
    images_BCHW: paddle.Tensor,
    mask: Mask,
    path_noise: np.ndarray | None = None,
    *,
    recompute: bool = False,
) -> paddle.Tensor:
    """Encode the kept patches: [B, N, D] with the encoder's last norm applied.

    Raises:
        ValueError: images or mask that are not of the model's own size.
    """
    check_fit(encoder, images_BCHW, mask)
    return encoder.norm(encode(encoder, images_BCHW, mask, path_noise=path_noise, recompute=recompute))


def check_fit(encoder: Encoder, images_BCHW: paddle.Tensor, mask: Mask) -> None:
    """Raise a ValueError unless images and mask are of the model's own size."""
    rows, columns = encoder.grid
    size = [rows * encoder.patch_size[0], columns * encoder.patch_size[1]]
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


def check_pool(pool: str, has_cls: bool, pools: Sequence[str] = POOLS) -> None:
    """Raise a ValueError for a `pool` that is not in `pools`, or "cls" of an encoder without a cls token."""
    if pool not in pools:
        raise ValueError(f"pool must be one of {', '.join(pools)}, got {pool!r}")
    if pool == "cls" and not has_cls:
        raise ValueError("this model has no cls token; use pool='mean'")


def check_norm(encoder: Encoder, pool: str) -> None:
    """Raise a ValueError where there is no last norm, or one that is for another pool."""
    if not encoder.has_norm:
        raise ValueError("this model has no norm after its last block; use another norm, such as none or batch")
    fitting = {"mean": ("mean", "cls"), MEAN_STD: (MEAN_STD, "mean")}
    if encoder.norms_pooled and pool not in fitting[encoder.norms_pooled]:
        raise ValueError(
            f"the last norm of this model is for the {encoder.norms_pooled} of its tokens; for {pool} use another norm"
        )


def pool_tokens(x_BND: paddle.Tensor, pool: str, has_cls: bool) -> paddle.Tensor:
    """Return the cls token or statistics of the patch tokens: [B, D], "mean+std" [B, 2 D]; errors as `check_pool`."""
    check_pool(pool, has_cls)
    if pool == "cls":
        return take_tokens(x_BND, (0, 1)).squeeze(1)
    patches_BLD = take_tokens(x_BND, (1, x_BND.shape[1])) if has_cls else x_BND
    mean_BD = mean_rows(patches_BLD)
    if pool == "mean":
        return mean_BD
    variance_BD = mean_rows((patches_BLD - mean_BD.unsqueeze(1)).square())
    return paddle.concat([mean_BD, (variance_BD + VARIANCE_EPSILON).sqrt()], axis=1)


def features(
    model: EncoderModel,
    images_BCHW: paddle.Tensor,
    pool: str = "cls",
    path_noise: np.ndarray | None = None,
    *,
    depth: int | None = None,
    normalise: bool = True,
) -> paddle.Tensor:
    """Compute one feature per whole, unmasked image; deterministic in eval mode (see `evaluating`).

    Args:
        images_BCHW: float tensor.
        pool: "cls", or "mean" or "mean+std" (mean and standard deviation) of the patch tokens.
        path_noise: in training, see `encode`.
        depth: how many of the blocks are run; None is all of them.
        normalise: whether the encoder's last norm is applied.
    Returns:
        tensor [B, D], of "mean+std" [B, 2 D]; see `pool_normalised`.
    Raises:
        ValueError: as `check_pool` and `check_norm`.
    """
    encoder = model.encoder
    tokens = (0, 1) if pool == "cls" and encoder.has_cls else None
    x_BND = encode(
        encoder, images_BCHW, path_noise=path_noise, token_range=tokens, depth=depth, recompute=model.recompute
    )
    return pool_normalised(encoder, x_BND, pool) if normalise else pool_tokens(x_BND, pool, encoder.has_cls)


def pool_normalised(encoder: Encoder, x_BND: paddle.Tensor, pool: str) -> paddle.Tensor:
    """Pool tokens of the last block, all of an image or the visible ones, with the encoder's last norm applied.

    Returns:
        tensor [B, D], of "mean+std" [B, 2 D]; of a norm for "mean+std", "mean" is its first half.
    Raises:
        ValueError: as `check_pool` and `check_norm`.
    """
    check_norm(encoder, pool)
    if encoder.norms_pooled == MEAN_STD:
        pooled_BF = encoder.fc_norm(pool_tokens(x_BND, MEAN_STD, encoder.has_cls))
        return pooled_BF if pool == MEAN_STD else pooled_BF[:, : x_BND.shape[-1]]
    if encoder.norms_pooled:
        return encoder.fc_norm(pool_tokens(x_BND, pool, encoder.has_cls))
    return pool_tokens(encoder.norm(x_BND), pool, encoder.has_cls)


@paddle.no_grad()
def attention_maps(model: EncoderModel, images_BCHW: paddle.Tensor, token: str) -> paddle.Tensor:
    """Return the attention of a token to each patch in the last block (DINO, arXiv 2104.14294, figure 1).

    Args:
        images_BCHW: float tensor; whole images, without a mask.
        token: "cls", or "mean" of the patch tokens.
    Returns:
        tensor [B, heads, L], in the image's order; the attention to the cls token itself is left out.
    Raises:
        ValueError: "cls" from a model without a cls token, or another token.
    """
    encoder = model.encoder
    check_pool(token, encoder.has_cls, ASKING)
    with evaluating(encoder):
        x_BND = encode(encoder, images_BCHW, depth=len(encoder.blocks) - 1)
    grid = patch_grid(images_BCHW.shape[2:], encoder.patch_size)
    weights_BHNN = attention_weights(encoder.blocks[-1], x_BND, grid=grid)
    front = int(encoder.has_cls)
    asking = weights_BHNN[:, :, :1] if token == "cls" else weights_BHNN[:, :, front:]
    mean_RN = mean_rows(asking.reshape([-1, *asking.shape[2:]]))
    return mean_RN.reshape([*asking.shape[:2], -1])[:, :, front:]


@contextmanager
def evaluating(layer: nn.Layer) -> Iterator[None]:
    """Put a layer into eval mode inside the context, without drop path, and into its earlier mode afterwards."""
    was_training = layer.training
    layer.eval()
    try:
        yield
    finally:
        if was_training:
            layer.train()
