"""The classifier: an encoder, pooling and a linear head.

Shapes: B images, C channels, H x W pixels, D width.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.blocks import initialise
from paddlemae.model.encoder import Encoder, check_pool, features
from paddlemae.model.kernels.layers import Linear
from paddlemae.model.shape import architecture_of, document_keys, pooled_width, split_keys

HEAD_STD = 2e-5  # a new head starts near uniform predictions (MAE, appendix A.2, after MoCo v3)


@document_keys
class VisionTransformer(nn.Layer):
    """A ViT classifier over an MAE encoder (MAE, appendix A.2).

    Args:
        <keys>
    Raises:
        TypeError: an unknown key.
        ValueError: a shape that does not fit together, or an unknown `positions` or `pool`.
    """

    kind = "classifier"

    def __init__(self, **keys: Any) -> None:
        super().__init__()
        shape, head = split_keys(self.kind, keys)
        self.config = architecture_of(shape, head)
        check_pool(head.pool, shape.cls_token)
        self.grid: tuple[int, int] = shape.grid
        self.pool: str = head.pool
        self.has_head = head.num_classes > 0
        self.recompute = False  # see `run_blocks`; a setting of the training, not of the model
        self.encoder = Encoder(shape, norms_pooled=None if head.pool == "cls" else head.pool)
        if self.has_head:
            self.head = Linear(pooled_width(head.pool, shape.embed_dim), head.num_classes)
        initialise(self)
        if self.has_head:
            nn.initializer.TruncatedNormal(std=HEAD_STD, a=-2.0, b=2.0)(self.head.weight)

    def forward(self, images_BCHW: paddle.Tensor, path_noise: np.ndarray | None = None) -> paddle.Tensor:
        """Return logits [B, num_classes], or features [B, D] without a head; for `path_noise` see `encode`."""
        x_BD = features(self, images_BCHW, self.pool, path_noise)
        return self.head(x_BD) if self.has_head else x_BD


def freeze(model: VisionTransformer, trainable_blocks: float) -> None:
    """Leave only the last blocks, and what is behind them, to be trained (MAE, sec. 4.3, "partial fine-tuning").

    Args:
        trainable_blocks: 0 trains the last norm and the head alone; 0.5 the MLP of the last block too, with its norm;
            otherwise a whole number of blocks.
    Raises:
        ValueError: a number that there is not.
    """
    encoder, depth = model.encoder, len(model.encoder.blocks)
    if trainable_blocks != 0.5 and (trainable_blocks != int(trainable_blocks) or not 0 <= trainable_blocks <= depth):
        raise ValueError(
            f"trainable_blocks must be 0, 0.5 or a whole number up to the encoder's {depth} blocks, "
            f"got {trainable_blocks:g}"
        )
    frozen = [*encoder.patch_embed.parameters(), *encoder.blocks[: depth - math.ceil(trainable_blocks)].parameters()]
    frozen += [parameter for name, parameter in encoder.named_parameters() if name in ("cls_token", "pos_embed")]
    if trainable_blocks == 0.5:
        frozen += [*encoder.blocks[-1].norm1.parameters(), *encoder.blocks[-1].attn.parameters()]
    for parameter in frozen:
        parameter.stop_gradient = True
