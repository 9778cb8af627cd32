"""The segmenter: an encoder and a head that gives every pixel a class.

Shapes: B images, C channels, H x W pixels, h x w patches, D width, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paddlemae.engine.safe_import import F, nn, paddle
from paddlemae.model.blocks import initialise
from paddlemae.model.encoder import Encoder, encode
from paddlemae.model.heads.linear import LinearHead
from paddlemae.model.kernels.attention import take_tokens
from paddlemae.model.shape import architecture_of, document_keys, patch_grid, split_keys

Logits = tuple[paddle.Tensor, paddle.Tensor | None]


@document_keys
class Segmenter(nn.Layer):
    """A ViT segmenter over an MAE encoder (MAE, sec. 5, "semantic segmentation").

    Args:
        <keys>
    Raises:
        TypeError: an unknown key.
        ValueError: a shape that does not fit together, or an unknown `positions` or `head`.
    """

    kind = "segmenter"
    has_head = False  # of whole images

    def __init__(self, **keys: Any) -> None:
        super().__init__()
        shape, head = split_keys(self.kind, keys)
        head = head.completed(shape.depth, shape.embed_dim)
        self.config = architecture_of(shape, head)
        self.grid: tuple[int, int] = shape.grid
        self.recompute = False  # see `run_blocks`; a setting of the training, not of the model
        self.encoder = Encoder(shape)
        self.head = LinearHead(shape.embed_dim, head.num_classes)
        initialise(self)
        self.head.initialise()

    def forward(self, images_BCHW: paddle.Tensor, path_noise: np.ndarray | None = None) -> paddle.Tensor:
        """Return logits [B, K, H, W] of the images' size, any that patches divide; for `path_noise` see `encode`."""
        return self.forward_with_auxiliary(images_BCHW, path_noise)[0]

    def forward_with_auxiliary(self, images_BCHW: paddle.Tensor, path_noise: np.ndarray | None = None) -> Logits:
        """Return (logits, logits of the auxiliary head), each [B, K, H, W]; None where the head has none.

        The second ones are for the loss of a training.
        """
        size = images_BCHW.shape[2:]
        x_BND = encode(self.encoder, images_BCHW, path_noise=path_noise, recompute=self.recompute)
        logits_BhwK = self.head(self.patch_map(self.encoder.norm(x_BND), size))
        return to_pixels(logits_BhwK, size), None

    def patch_map(self, x_BND: paddle.Tensor, size: Any) -> paddle.Tensor:
        """Return the patch tokens of images of a size (H, W) as a map [B, h, w, D]."""
        rows, columns = patch_grid(size, self.encoder.patch_size)
        front = int(self.encoder.has_cls)
        patches_BLD = take_tokens(x_BND, (front, front + rows * columns))
        return patches_BLD.reshape([patches_BLD.shape[0], rows, columns, patches_BLD.shape[-1]])


def to_pixels(logits_BhwK: paddle.Tensor, size: Any) -> paddle.Tensor:
    """Return logits [B, K, H, W] from those of a coarser grid by bilinear interpolation, pixels as areas."""
    logits_BKhw = logits_BhwK.transpose([0, 3, 1, 2])
    return F.interpolate(logits_BKhw, size=list(size), mode="bilinear", align_corners=False)
