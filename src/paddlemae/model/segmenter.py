"""The segmenter: an encoder and a head that gives every pixel a class.

Shapes: B images, C channels, H x W pixels, h x w patches, N tokens, D width, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.blocks import initialise
from paddlemae.model.encoder import Encoder, encode
from paddlemae.model.heads.conv import ConvHead
from paddlemae.model.heads.linear import LinearHead
from paddlemae.model.heads.upernet import AuxiliaryHead, Pyramid, UperNetHead
from paddlemae.model.kernels.attention import take_tokens
from paddlemae.model.kernels.grids import to_pixels
from paddlemae.model.shape import EncoderShape, SegmenterShape, architecture_of, document_keys, patch_grid, split_keys

LEAST_SHARE = 1e-3  # that a class is expected to have of the pixels, see `Segmenter.expect`

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
        self.taps: tuple[int, ...] = tuple(head.taps or ())
        self.recompute = False  # see `run_blocks`; a setting of the training, not of the model
        self.encoder = Encoder(shape, has_norm=not self.taps, relative_positions=head.relative_positions)
        self._add_head(shape, head)
        initialise(self)
        self.head.initialise()
        if self.taps:
            self.auxiliary.initialise()

    def _add_head(self, shape: EncoderShape, head: SegmenterShape) -> None:
        width, channels, classes = shape.embed_dim, head.head_width or 0, head.num_classes
        if head.head == "linear":
            self.head: Any = LinearHead(width, classes)
        elif head.head == "conv":
            self.head = ConvHead(width, channels, classes)
        else:
            self.neck = Pyramid(width)
            self.head = UperNetHead(width, channels, classes, head.head_dropout)
            self.auxiliary = AuxiliaryHead(width, classes, head.head_dropout)

    def expect(self, shares_K: np.ndarray) -> None:
        """Let new heads begin with these probabilities for every pixel (RetinaNet, arXiv 1708.02002, sec. 4.1).

        Where a class is rare, all features otherwise grow alike first, to make up the difference between the classes,
        and the head can end up with the same logits for every pixel. A share below `LEAST_SHARE` counts as that.

        Args:
            shares_K: of the pixels of each class, times its weight in the loss; their sum does not matter.
        """
        logits_K = np.log(np.maximum(shares_K / shares_K.sum(), LEAST_SHARE)).astype(np.float32)
        for head in (self.head, self.auxiliary) if self.taps else (self.head,):
            head.classifier.bias.set_value(logits_K - logits_K.mean())

    def forward(self, images_BCHW: paddle.Tensor, path_noise: np.ndarray | None = None) -> paddle.Tensor:
        """Return logits [B, K, H, W] of the images' size, any that patches divide; for `path_noise` see `encode`."""
        return to_pixels(self.grid_logits(images_BCHW, path_noise), images_BCHW.shape[2:])

    def grid_logits(self, images_BCHW: paddle.Tensor, path_noise: np.ndarray | None = None) -> paddle.Tensor:
        """Return logits [B, h, w, K] as the head gives them, on its own grid, before `forward` resizes them."""
        maps = self._maps(images_BCHW, path_noise)
        logits_BhwK: paddle.Tensor = self.head(maps if self.taps else maps[0])
        return logits_BhwK

    def forward_with_auxiliary(self, images_BCHW: paddle.Tensor, path_noise: np.ndarray | None = None) -> Logits:
        """Return (logits, logits of the auxiliary head), each [B, K, H, W]; None where there is no such head.

        The second ones are for the loss of a training.
        """
        size = images_BCHW.shape[2:]
        maps = self._maps(images_BCHW, path_noise)
        if not self.taps:
            return to_pixels(self.head(maps[0]), size), None
        return to_pixels(self.head(maps), size), to_pixels(self.auxiliary(maps), size)

    def patch_features(self, images_BCHW: paddle.Tensor) -> paddle.Tensor:
        """Return what a head without taps reads of images: the patch tokens behind the last norm, [B, h, w, D]."""
        assert not self.taps
        return self._maps(images_BCHW, None)[0]

    def logits_of(self, map_BhwD: paddle.Tensor, size: Any) -> paddle.Tensor:
        """Return logits [B, K, H, W] of a size (H, W) from `patch_features`."""
        return to_pixels(self.head(map_BhwD), size)

    def _maps(self, images_BCHW: paddle.Tensor, path_noise: np.ndarray | None) -> list[paddle.Tensor]:
        """Return the maps that the head reads, [B, h, w, D] each: the last one, or a pyramid of those of the taps."""
        size = images_BCHW.shape[2:]
        inputs: list[paddle.Tensor] = []
        last_BND = encode(
            self.encoder, images_BCHW, path_noise=path_noise, block_inputs=inputs, recompute=self.recompute
        )
        if not self.taps:
            return [self._patch_map(self.encoder.norm(last_BND), size)]
        outputs = [*inputs[1:], last_BND]
        pyramid: list[paddle.Tensor] = self.neck([self._patch_map(outputs[tap - 1], size) for tap in self.taps])
        return pyramid

    def _patch_map(self, x_BND: paddle.Tensor, size: Any) -> paddle.Tensor:
        """Return the patch tokens of images of a size (H, W) as a map [B, h, w, D]."""
        rows, columns = patch_grid(size, self.encoder.patch_size)
        front = int(self.encoder.has_cls)
        patches_BLD = take_tokens(x_BND, (front, front + rows * columns))
        return patches_BLD.reshape([patches_BLD.shape[0], rows, columns, patches_BLD.shape[-1]])
