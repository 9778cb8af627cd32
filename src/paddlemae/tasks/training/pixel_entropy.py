"""Cross-entropy of every pixel, on CPU in one pass over pieces that stay in the processor's cache.

Paddle's own takes 1.9 s for 150 classes and two images of 512 x 512 pixels on one core, and keeps all probabilities;
this keeps one number a pixel.

Shapes: B images, K classes, H x W pixels, P pixels of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from paddlemae.data.sources import IGNORE
from paddlemae.engine.safe_import import F, paddle
from paddlemae.model.kernels.placement import on_cpu
from paddlemae.train.adamw import flat_view

PIECE_NUMBERS = 1 << 17  # classes x pixels of a piece: 512 kB


def pixel_entropy(logits_BKHW: paddle.Tensor, masks_BHW: paddle.Tensor) -> paddle.Tensor:
    """Return the cross-entropy of each pixel, float32 [B, H, W]; 0 where it is ignored.

    Args:
        masks_BHW: int64, index of a class, or -1 where a pixel is ignored.
    """
    if on_cpu(logits_BKHW) and logits_BKHW.dtype == paddle.float32:
        return _EntropyOnCpu.apply(logits_BKHW, masks_BHW)  # type: ignore[no-untyped-call]
    entropy = F.cross_entropy(logits_BKHW, masks_BHW.unsqueeze(1), axis=1, ignore_index=IGNORE, reduction="none")
    return entropy.squeeze(1)


def _pieces(classes: int, pixels: int) -> Iterator[slice]:
    length = max(1, PIECE_NUMBERS // classes)
    for start in range(0, pixels, length):
        yield slice(start, min(start + length, pixels))


def _view(tensor: paddle.Tensor, *shape: int) -> np.ndarray:
    return flat_view(tensor, tensor.size).reshape(shape)


class _EntropyOnCpu(paddle.autograd.PyLayer):
    """Cross-entropy of each pixel with a backward pass by hand, for `pixel_entropy`."""

    @staticmethod
    def forward(ctx: Any, logits: paddle.Tensor, masks: paddle.Tensor) -> paddle.Tensor:
        logits = logits.contiguous()
        batch, classes, *size = logits.shape
        x_BKP, mask_BP = _view(logits, batch, classes, -1), masks.numpy().reshape(batch, -1)
        totals, entropy = np.zeros(mask_BP.shape, np.float32), np.zeros(mask_BP.shape, np.float32)
        for image in range(batch):
            for piece in _pieces(classes, mask_BP.shape[1]):
                x_KP, mask_P = x_BKP[image, :, piece], mask_BP[image, piece]
                largest = x_KP.max(axis=0)
                powers = np.exp(x_KP - largest)
                total = np.log(powers.sum(axis=0)) + largest
                own = x_KP[np.maximum(mask_P, 0), np.arange(len(mask_P))]
                totals[image, piece] = total
                entropy[image, piece] = np.where(mask_P >= 0, total - own, 0)
        ctx.save_for_backward(logits)
        ctx.masks, ctx.totals = mask_BP, totals
        return paddle.to_tensor(entropy.reshape(batch, *size))

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        (logits,) = ctx.saved_tensor()
        batch, classes, *_ = logits.shape
        found = paddle.empty(logits.shape, logits.dtype)
        x_BKP, found_BKP = _view(logits, batch, classes, -1), _view(found, batch, classes, -1)
        given_BP = np.where(ctx.masks >= 0, gradient.numpy().reshape(batch, -1), 0).astype(np.float32)
        for image in range(batch):
            for piece in _pieces(classes, given_BP.shape[1]):
                mask_P, given_P = ctx.masks[image, piece], given_BP[image, piece]
                share_KP = np.exp(x_BKP[image, :, piece] - ctx.totals[image, piece])
                share_KP[np.maximum(mask_P, 0), np.arange(len(mask_P))] -= 1
                np.multiply(share_KP, given_P, out=found_BKP[image, :, piece])
        return found
