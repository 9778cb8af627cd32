"""Cut images into patches, and join patches to images.

Shapes: B images, C channels, H x W pixels, L patches of a grid (rows x columns), K of them, D width, P pixels a patch
(rows x columns x C).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paddlemae.engine.safe_import import paddle
from paddlemae.engine.tensors import tensor_of
from paddlemae.model.shape import pair, patch_grid


def patchify(images_BCHW: paddle.Tensor, patch_size: Any) -> paddle.Tensor:
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


def unpatchify(patches_BLP: paddle.Tensor, patch_size: Any, grid: tuple[int, int]) -> paddle.Tensor:
    """Invert `patchify`: return [B, C, H, W] from [B, L, P] on a grid (rows, columns)."""
    (rows, columns), (height, width) = grid, pair(patch_size)
    split = patches_BLP.reshape([patches_BLP.shape[0], rows, columns, height, width, -1])
    return split.transpose([0, 5, 1, 3, 2, 4]).reshape([split.shape[0], -1, rows * height, columns * width])


def flat_rows(indices_BK: np.ndarray, num_patches: int) -> paddle.Tensor:
    """Return patch indices [B, K] as row numbers of `[B * L, ...]`, a tensor int64 [B * K]."""
    return tensor_of((indices_BK + np.arange(len(indices_BK))[:, None] * num_patches).ravel())


def take_patches(x_BLD: paddle.Tensor, rows: paddle.Tensor) -> paddle.Tensor:
    """Return the patches at the rows that `flat_rows` gives: tensor [B, K, D]."""
    batch, _, width = x_BLD.shape
    return paddle.gather(x_BLD.reshape([-1, width]), rows).reshape([batch, -1, width])
