"""Make, look up and resize position tables.

Shapes: B images, L patches of a grid (rows x columns), K of them, N tokens (patches and, with a cls token, one
more), D width.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from paddlemae.engine.safe_import import F, nn, paddle
from paddlemae.engine.tensors import tensor_of
from paddlemae.model.kernels.grids import change_grid
from paddlemae.model.sincos import sincos_1d, sincos_2d

TOKEN_STD = 0.02  # cls, mask token and learned positions (ViT; BEiT)
FIXED_POSITIONS = {"sincos2d": sincos_2d, "sincos1d": sincos_1d}


def resize_positions(table_LD: paddle.Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> paddle.Tensor:
    """Resize a table from one patch grid to another by bicubic interpolation (DeiT, sec. 6).

    Args:
        table_LD: Paddle tensor, float [L_old, D], row-major, without a cls row.
        old_grid, new_grid: (rows, columns).
    Returns:
        tensor [L_new, D]; the very same tensor when the grids agree.
    """
    if tuple(old_grid) == tuple(new_grid):
        return table_LD
    picture_1DHW = table_LD.reshape([1, *old_grid, -1]).transpose([0, 3, 1, 2])
    resized = F.interpolate(picture_1DHW, size=list(new_grid), mode="bicubic", align_corners=False)
    return resized.transpose([0, 2, 3, 1]).reshape([new_grid[0] * new_grid[1], -1])


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


def add_decoder_positions(layer: nn.Layer, kind: str, width: int, grid: tuple[int, int], cls_token: bool) -> None:
    """Give `layer` a fixed table `decoder_pos_embed`: the encoder's kind, or "sincos2d" where that is learned."""
    add_positions(layer, "decoder_pos_embed", kind if kind in FIXED_POSITIONS else "sincos2d", width, grid, cls_token)


def token_init() -> nn.initializer.Initializer:
    return nn.initializer.Normal(std=TOKEN_STD)


def take_positions(table_LD: paddle.Tensor, indices_BK: np.ndarray) -> paddle.Tensor:
    """Return the position of each patch: tensor [B, K, D]."""
    rows = tensor_of(indices_BK.ravel())
    return paddle.gather(table_LD, rows).reshape([*indices_BK.shape, table_LD.shape[-1]])


@lru_cache(maxsize=8)
def distance_rows(grid: tuple[int, int], cls_token: bool) -> np.ndarray:
    """Return for each pair of tokens the row of its distance in a table of relative positions, int64 [N * N].

    The table has a row for each distance of two patches, then one from the cls token to patches, one from patches to
    it and one to itself (BEiT, arXiv 2106.08254).
    """
    height, width = grid
    rows, columns = (place.ravel() for place in np.indices(grid))
    down, right = rows[:, None] - rows + height - 1, columns[:, None] - columns + width - 1
    patches = down * (2 * width - 1) + right
    if not cls_token:
        return patches.ravel()
    last = (2 * height - 1) * (2 * width - 1) + 2
    tokens = np.full((len(patches) + 1, len(patches) + 1), last - 1)
    tokens[0], tokens[0, 0], tokens[1:, 1:] = last - 2, last, patches
    return tokens.ravel()


def relative_bias(
    table_TH: paddle.Tensor, own_grid: tuple[int, int], grid: tuple[int, int], cls_token: bool
) -> paddle.Tensor:
    """Return the bias of each head for each pair of tokens, [heads, N, N], from a table of distances.

    Args:
        table_TH: of `own_grid`; for another grid its distances are resized by bilinear interpolation.
    """
    heads = table_TH.shape[1]
    if tuple(grid) != tuple(own_grid):
        old, new = ((2 * rows - 1, 2 * columns - 1) for rows, columns in (own_grid, grid))
        distances, others = table_TH.split([old[0] * old[1], 3])
        resized = change_grid(distances.reshape([1, *old, heads]), new)
        table_TH = paddle.concat([resized.reshape([-1, heads]), others])
    tokens = grid[0] * grid[1] + int(cls_token)
    pairs = paddle.gather(table_TH, tensor_of(distance_rows(tuple(grid), cls_token)))
    return pairs.transpose([1, 0]).reshape([heads, tokens, tokens])
