"""The vision transformer: patches, blocks, the encoder's parts and the classifier.

Parameters carry the official MAE's names, so weights travel under them.

Shapes: B images, C channels, H x W pixels, L patches of a grid (rows x columns), K kept patches,
N tokens (patches and, with a cls token, one more), D width, P pixels a patch (rows x columns x C).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from paddlemae.engine.safe_import import F, nn, paddle
from paddlemae.engine.tensors import tensor_of
from paddlemae.model.kernels import (
    LayerNorm,
    Linear,
    Wanted,
    attention,
    linear,
    mean_rows,
    residual_attention,
    residual_mlp,
    split_heads,
    tokens_of,
)
from paddlemae.model.masking import Mask
from paddlemae.model.positions import resize_positions
from paddlemae.model.shape import pair, patch_grid
from paddlemae.model.sincos import sincos_1d, sincos_2d

NORM_EPSILON = 1e-6  # ViT's; Paddle's default is 1e-5
TOKEN_STD = 0.02  # cls, mask token and learned positions (ViT; BEiT)
HEAD_STD = 2e-5  # a new head starts near uniform predictions (MAE, appendix A.2, after MoCo v3)

FIXED_POSITIONS = {"sincos2d": sincos_2d, "sincos1d": sincos_1d}


def patchify(images_BCHW, patch_size):
    """Cut images into patches whose pixels are ordered row, column, channel.

    Args:
        images_BCHW: tensor, any number of channels.
        patch_size: pixels, one number or (height, width), dividing H and W.
    Returns:
        tensor [B, L, P].
    """
    batch, channels, *size = images_BCHW.shape
    (rows, columns), (height, width) = patch_grid(size, patch_size), pair(patch_size)
    split = images_BCHW.reshape([batch, channels, rows, height, columns, width])
    return split.transpose([0, 2, 4, 3, 5, 1]).reshape([batch, rows * columns, height * width * channels])


def unpatchify(patches_BLP, patch_size, grid: tuple[int, int]):
    """The reverse of `patchify`: tensor [B, C, H, W] from [B, L, P] on a grid (rows, columns)."""
    (rows, columns), (height, width) = grid, pair(patch_size)
    split = patches_BLP.reshape([patches_BLP.shape[0], rows, columns, height, width, -1])
    return split.transpose([0, 5, 1, 3, 2, 4]).reshape([split.shape[0], -1, rows * height, columns * width])


def flat_rows(indices_BK: np.ndarray, num_patches: int):
    """Patch indices [B, K] as row numbers of `[B * L, ...]`, a tensor int64 [B * K]."""
    return tensor_of((indices_BK + np.arange(len(indices_BK))[:, None] * num_patches).ravel())


def take_patches(x_BLD, rows):
    """The patches that `flat_rows` names: tensor [B, K, D]."""
    batch, _, width = x_BLD.shape
    return paddle.gather(x_BLD.reshape([-1, width]), rows).reshape([batch, -1, width])


def take_positions(table_LD, indices_BK: np.ndarray):
    """The position of each patch: tensor [B, K, D]."""
    rows = tensor_of(indices_BK.ravel())
    return paddle.gather(table_LD, rows).reshape([*indices_BK.shape, table_LD.shape[-1]])


class PatchEmbed(nn.Layer):
    """A linear projection of each patch; on disk the official Conv2D weight [D, C, height, width]."""

    def __init__(self, pixels: int, width: int):
        super().__init__()
        self.proj = Linear(pixels, width)

    def forward(self, patches_BLP):
        return self.proj(patches_BLP)


class QkvLinear(Linear):
    """Queries, keys and values. Weights are cut here: group sharding has a layer's at hand in its own forward only."""

    def forward(self, x_BND, wanted: Wanted = None):
        """[B, N, 3D], or with `wanted` those tokens' queries [B, Q, D], and keys and values of all [B, N, 2D]."""
        if wanted is None:
            return super().forward(x_BND)
        width = x_BND.shape[-1]
        weights, biases = self.weight.split([width, -1], axis=1), self.bias.split([width, -1])
        return linear(tokens_of(x_BND, wanted), weights[0], biases[0]), linear(x_BND, weights[1], biases[1])


class Attention(nn.Layer):
    """Multi-head self-attention with a bias on queries, keys and values."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = QkvLinear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x_BND, wanted: Wanted = None):
        if wanted is None:
            query, key, value = split_heads(self.qkv(x_BND), 3, self.num_heads)
        else:
            queries_BQD, pairs_BNE = self.qkv(x_BND, wanted)
            (query,) = split_heads(queries_BQD, 1, self.num_heads)
            key, value = split_heads(pairs_BNE, 2, self.num_heads)
        return self.proj(attention(query, key, value))


class Mlp(nn.Layer):
    """Two linear layers around an exact GELU."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x_BND):
        return self.fc2(F.gelu(self.fc1(x_BND)))


class Block(nn.Layer):
    """A pre-norm transformer block: attention and MLP, each behind a LayerNorm and a residual.

    Args:
        drop_path: probability of dropping a residual branch for a whole image (Huang et al., stochastic depth).
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = LayerNorm(width, epsilon=NORM_EPSILON)
        self.attn = Attention(width, num_heads)
        self.norm2 = LayerNorm(width, epsilon=NORM_EPSILON)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path = drop_path

    def forward(self, x_BND, wanted: Wanted = None, noise_B2=None):
        """All tokens, or with `wanted` those only, at no more cost than theirs: [B, stop - start, D].

        `noise_B2`, uniform in [0, 1), decides which images drop which of the two branches; None drops none.
        """
        drops = noise_B2 is not None and self.drop_path > 0
        keep_attn, keep_mlp = kept(noise_B2, self.drop_path).unbind(1) if drops else (None, None)
        x_BND = residual_attention(x_BND, self.norm1, self.attn, wanted, keep_attn)
        return residual_mlp(x_BND, self.norm2, self.mlp, keep_mlp)


def kept(noise, drop_path: float):
    """0 where the noise drops a branch and 1 / (1 - drop_path) elsewhere, so that its mean stays as it is."""
    return (noise >= drop_path).astype(noise.dtype) / (1 - drop_path)


def blocks(depth: int, width: int, num_heads: int, mlp_ratio: float, drop_path: float = 0.0) -> nn.LayerList:
    """`depth` blocks whose drop path rises linearly from 0 to `drop_path` (Huang et al., stochastic depth).

    Raises:
        ValueError: width not divisible by the heads, or drop_path outside [0, 1).
    """
    if width % num_heads:
        raise ValueError(f"a width of {width} can't be shared by {num_heads} heads; it must be divisible by them")
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path must be in [0, 1), got {drop_path}")
    rates = np.linspace(0, drop_path, depth)
    return nn.LayerList([Block(width, num_heads, mlp_ratio, float(rate)) for rate in rates])


def run_blocks(
    layers: nn.LayerList,
    x_BND,
    wanted: Wanted = None,
    *,
    noise_BL2=None,
    inputs: list | None = None,
    recompute: bool = False,
):
    """All blocks; of the last one only the `wanted` tokens, since what the others become there is not used.

    Args:
        noise_BL2: each image's and block's drop path noise, see `Block`; here L is the number of blocks.
        inputs: a list that gets what goes into each block.
        recompute: keep each block's input only, and compute the rest again in the backward pass.
    """
    noises = [None] * len(layers) if noise_BL2 is None else noise_BL2.unbind(1)
    for number, (block, noise_B2) in enumerate(zip(layers, noises), 1):  # Paddle's tracer knows no `start=`
        if inputs is not None:
            inputs.append(x_BND)
        run = partial(block, wanted=wanted if number == len(layers) else None, noise_B2=noise_B2)
        x_BND = recomputed(run, x_BND) if recompute else run(x_BND)
    return x_BND if len(layers) else tokens_of(x_BND, wanted)


def recomputed(run: Callable, *inputs):
    """`run(*inputs)`, of which only the inputs are kept until its gradient is due (Chen et al., arXiv 1604.06174)."""
    if not paddle.is_grad_enabled() or all(one.stop_gradient for one in inputs):  # else weights would get no gradient
        return run(*inputs)
    # nothing here draws random numbers, and Paddle's generators belong to all threads
    return paddle.distributed.fleet.utils.recompute(run, *inputs, preserve_rng_state=False)


def add_positions(layer: nn.Layer, name: str, kind: str, width: int, grid: tuple[int, int], cls_token: bool) -> None:
    """Give `layer` a position table [1, N, D]: a parameter when learned, else a buffer.

    The cls token's row, if any, comes first; in a fixed table it is zero.
    """
    tokens = grid[0] * grid[1] + int(cls_token)
    if kind == "learned":
        layer.add_parameter(name, layer.create_parameter([1, tokens, width], default_initializer=token_init()))
        return
    if kind not in FIXED_POSITIONS:
        raise ValueError(f"positions must be one of {', '.join([*FIXED_POSITIONS, 'learned'])}, got {kind!r}")
    table = FIXED_POSITIONS[kind](width, grid)
    table = np.concatenate([np.zeros((tokens - len(table), width), np.float32), table])
    layer.register_buffer(name, paddle.to_tensor(table[None]))


def token_init():
    return nn.initializer.Normal(std=TOKEN_STD)


def add_encoder(
    layer: nn.Layer,
    *,
    image_size,
    patch_size,
    channels: int,
    embed_dim: int,
    depth: int,
    num_heads: int,
    mlp_ratio: float,
    cls_token: bool,
    positions: str,
    drop_path: float,
) -> None:
    """Give `layer` the encoder's parts under the official names: patch_embed, cls_token, pos_embed, blocks."""
    layer.patch_size = pair(patch_size)
    layer.grid = patch_grid(image_size, patch_size)
    layer.channels = channels
    layer.has_cls = cls_token
    layer.patch_embed = PatchEmbed(math.prod(layer.patch_size) * channels, embed_dim)
    if cls_token:
        layer.cls_token = layer.create_parameter([1, 1, embed_dim], default_initializer=token_init())
    add_positions(layer, "pos_embed", positions, embed_dim, layer.grid, cls_token)
    layer.blocks = blocks(depth, embed_dim, num_heads, mlp_ratio, drop_path)
    layer.recompute = False  # see `run_blocks`; a setting of the training, not of the model


def initialise(layer: nn.Layer) -> None:
    """Xavier-uniform weights and zero biases for every linear layer (MAE, appendix A.1)."""
    weight_init, bias_init = nn.initializer.XavierUniform(), nn.initializer.Constant(0.0)
    for part in layer.sublayers():
        if isinstance(part, Linear):
            weight_init(part.weight)
            bias_init(part.bias)


def check_images(images_BCHW, channels: int) -> None:
    """Raise a ValueError unless the batch is [B, C, H, W] with the model's number of channels."""
    if images_BCHW.ndim != 4 or images_BCHW.shape[1] != channels:
        raise ValueError(f"images must be [B, {channels}, H, W] for this model, got {list(images_BCHW.shape)}")


def split_positions(layer: nn.Layer, grid: tuple[int, int]):
    """(cls row [1, 1, D] or None, patch table [L, D]) of the encoder for `grid`, resized if it is another."""
    table = layer.pos_embed
    if not layer.has_cls:
        return None, resize_positions(table[0], layer.grid, grid)
    cls_row, patches = table.split([1, table.shape[1] - 1], axis=1)
    return cls_row, resize_positions(patches[0], layer.grid, grid)


def encode(
    layer: nn.Layer,
    images_BCHW,
    mask: Mask | None = None,
    *,
    block_inputs: list | None = None,
    path_noise: np.ndarray | None = None,
    wanted: Wanted = None,
    depth: int | None = None,
):
    """Run the encoder's blocks on the visible patches only (MAE, sec. 3, "MAE encoder"), before its last norm.

    Args:
        layer: anything that `add_encoder` filled.
        images_BCHW: float tensor; H and W as the model's, or others that the patch divides (positions resized).
        mask: patches to leave out; None keeps all.
        block_inputs: a list that gets what goes into each block, [B, N, D] each, for decoders that want more than
            the end.
        path_noise: float32 [B, depth, 2] in [0, 1), which drop path compares with its rates in training; None draws
            it from Paddle's generator.
        wanted: the tokens start..stop that are returned; the last block is computed for them alone.
        depth: how many of the blocks are run, from the first; None is all of them.
    Returns:
        tensor [B, N, D]; the cls token, if any, first, then the kept patches in the mask's order.
    Raises:
        ValueError: images of another channel count or of a size that the patch does not divide.
    """
    check_images(images_BCHW, layer.channels)
    cls_row, positions_LD = split_positions(layer, patch_grid(images_BCHW.shape[2:], layer.patch_size))
    patches_BLP = patchify(images_BCHW, layer.patch_size)
    if mask is None:
        x_BND = layer.patch_embed(patches_BLP) + positions_LD
    else:
        # patches are dropped before the projection, so removed ones cost nothing at all
        visible_BKP = take_patches(patches_BLP, flat_rows(mask.keep, patches_BLP.shape[1]))
        x_BND = layer.patch_embed(visible_BKP) + take_positions(positions_LD, mask.keep)
    if cls_row is not None:
        cls_B1D = (layer.cls_token + cls_row).expand([x_BND.shape[0], -1, -1])
        x_BND = paddle.concat([cls_B1D, x_BND], axis=1)
    noise_BL2 = drop_path_noise(layer, x_BND.shape[0], path_noise)
    layers = layer.blocks if depth is None else layer.blocks[:depth]
    return run_blocks(layers, x_BND, wanted, noise_BL2=noise_BL2, inputs=block_inputs, recompute=layer.recompute)


def drop_path_noise(layer: nn.Layer, batch: int, given: np.ndarray | None):
    """The noise that `encode` documents, a tensor; None where nothing is dropped."""
    if not layer.training or not any(block.drop_path for block in layer.blocks):
        return None
    return paddle.rand([batch, len(layer.blocks), 2]) if given is None else tensor_of(given)


def pool_tokens(x_BND, pool: str, has_cls: bool):
    """[B, D]: the cls token, or the mean of the patch tokens without it.

    Raises:
        ValueError: another `pool`, or "cls" from a model without a cls token.
    """
    if pool not in ("cls", "mean"):
        raise ValueError(f"pool must be 'cls' or 'mean', got {pool!r}")
    if pool == "cls" and not has_cls:
        raise ValueError("this model has no cls token; use pool='mean'")
    if not has_cls:
        return mean_rows(x_BND)
    if pool == "cls":
        return tokens_of(x_BND, (0, 1)).squeeze(1)
    return mean_rows(tokens_of(x_BND, (1, x_BND.shape[1])))


class VisionTransformer(nn.Layer):
    """A ViT classifier over an MAE encoder (MAE, appendix A.2).

    Args:
        image_size: pixels, one number or (height, width).
        patch_size: pixels, one number or (height, width).
        channels, embed_dim, depth, num_heads, mlp_ratio: the encoder's shape; see `SIZES`.
        cls_token: whether there is one.
        positions: "sincos2d", "sincos1d" or "learned".
        drop_path: rate of the last block, rising linearly from 0.
        num_classes: width of the head; 0 is an encoder without one.
        pool: "mean" (global average pooling, then `fc_norm`; the paper's fine-tuning) or "cls".
    Raises:
        ValueError: a shape that does not fit together, or an unknown `positions` or `pool`.
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
        num_classes: int = 1000,
        pool: str = "mean",
    ):
        super().__init__()
        self.config: dict[str, Any] = dict(
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
            num_classes=num_classes,
            pool=pool,
        )
        encoder = {name: value for name, value in self.config.items() if name not in ("num_classes", "pool")}
        add_encoder(self, **encoder)
        self.pool = pool
        norm = LayerNorm(embed_dim, epsilon=NORM_EPSILON)
        if pool == "mean":
            self.fc_norm = norm
        else:
            self.norm = norm
        if num_classes:
            self.head = Linear(embed_dim, num_classes)
        initialise(self)
        if num_classes:
            nn.initializer.TruncatedNormal(std=HEAD_STD, a=-2.0, b=2.0)(self.head.weight)
        pool_tokens(paddle.zeros([1, 2, 1]), pool, cls_token)  # refuses a pool that the model can't do

    def forward(self, images_BCHW, path_noise: np.ndarray | None = None):
        """Logits [B, num_classes], or features [B, D] without a head; for `path_noise` see `encode`."""
        x_BD = features(self, images_BCHW, self.pool, path_noise)
        return self.head(x_BD) if self.config["num_classes"] else x_BD


def freeze(model: VisionTransformer, trainable_blocks: float) -> None:
    """Leave only the last blocks, and what is behind them, to be trained (MAE, sec. 4.3, "partial fine-tuning").

    Args:
        trainable_blocks: 0 trains the last norm and the head alone; 0.5 the MLP of the last block too, with its norm;
            otherwise a whole number of blocks.
    Raises:
        ValueError: a number that there is not.
    """
    depth = len(model.blocks)
    if trainable_blocks != 0.5 and (trainable_blocks != int(trainable_blocks) or not 0 <= trainable_blocks <= depth):
        raise ValueError(
            f"trainable_blocks must be 0, 0.5 or a whole number up to the encoder's {depth} blocks, "
            f"got {trainable_blocks:g}"
        )
    frozen = [*model.patch_embed.parameters(), *model.blocks[: depth - math.ceil(trainable_blocks)].parameters()]
    frozen += [parameter for name, parameter in model.named_parameters() if name in ("cls_token", "pos_embed")]
    if trainable_blocks == 0.5:
        frozen += [*model.blocks[-1].norm1.parameters(), *model.blocks[-1].attn.parameters()]
    for parameter in frozen:
        parameter.stop_gradient = True


@paddle.no_grad()
def attention_maps(layer: nn.Layer, images_BCHW, token: str):
    """How much of its attention a token gives to each patch in the last block (DINO, arXiv 2104.14294, figure 1).

    Args:
        layer: a `MaskedAutoencoder` or a `VisionTransformer`; the patches of whole images are looked at.
        token: "cls", or "mean" of the patch tokens.
    Returns:
        tensor [B, heads, L], in the image's order; of each head's attention the cls token's own share is missing.
    Raises:
        ValueError: "cls" from a model without a cls token, or another token.
    """
    pool_tokens(paddle.zeros([1, 2, 1]), token, layer.has_cls)  # refuses a token that it doesn't have
    with evaluating(layer):
        x_BND = encode(layer, images_BCHW, depth=len(layer.blocks) - 1)
    last = layer.blocks[-1]
    query, key, _ = split_heads(last.attn.qkv(last.norm1(x_BND)), 3, last.attn.num_heads)
    weights_BHNN = F.softmax(paddle.matmul(query, key, transpose_y=True) / math.sqrt(query.shape[-1]), axis=-1)
    front = int(layer.has_cls)
    asking = weights_BHNN[:, :, :1] if token == "cls" else weights_BHNN[:, :, front:]
    mean_RN = mean_rows(asking.reshape([-1, *asking.shape[2:]]))
    return mean_RN.reshape([*asking.shape[:2], -1])[:, :, front:]


@contextmanager
def evaluating(layer: nn.Layer) -> Iterator[None]:
    """Eval mode inside, so that drop path draws nothing; before and after as it was."""
    was_training = layer.training
    layer.eval()
    try:
        yield
    finally:
        if was_training:
            layer.train()


def features(
    layer: nn.Layer,
    images_BCHW,
    pool: str = "cls",
    path_noise: np.ndarray | None = None,
    *,
    depth: int | None = None,
    normalise: bool = True,
):
    """What the encoder makes of whole, unmasked images; deterministic in eval mode (see `evaluating`).

    Args:
        layer: a `MaskedAutoencoder` or a `VisionTransformer`.
        images_BCHW: float tensor.
        pool: "cls" or "mean" (of the patch tokens).
        path_noise: in training, see `encode`.
        depth: how many of the blocks are run; None is all of them.
        normalise: whether the encoder's last norm is applied.
    Returns:
        tensor [B, D]. A model with `fc_norm` normalises after pooling, one with `norm` before.
    """
    wanted = (0, 1) if pool == "cls" and layer.has_cls else None
    x_BND = encode(layer, images_BCHW, path_noise=path_noise, wanted=wanted, depth=depth)
    if not normalise:
        return pool_tokens(x_BND, pool, layer.has_cls)
    if hasattr(layer, "fc_norm"):
        return layer.fc_norm(pool_tokens(x_BND, pool, layer.has_cls))
    return pool_tokens(layer.norm(x_BND), pool, layer.has_cls)
