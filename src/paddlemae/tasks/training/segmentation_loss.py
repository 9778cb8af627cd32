"""Compute the segmentation loss: cross-entropy, focal and Dice parts of pixels that count.

The loss of an image is the mean over its counted pixels, that of a batch the mean over its images, so that a batch may
be split between threads and processes with the same result. An image without a counted pixel has a loss of 0.

Shapes: B images, K classes, H x W pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.batches import Batch, path_noise
from paddlemae.engine.safe_import import F, nn, paddle
from paddlemae.engine.tensors import tensor_of
from paddlemae.recipe import SegmentRecipe
from paddlemae.tasks.models.preprocess import to_input
from paddlemae.tasks.training.pixel_entropy import pixel_entropy
from paddlemae.train.parallel.loss_layer import LossFn
from paddlemae.weights.model_folder import Description

SMALLEST = 1e-6  # of what a power or a quotient is taken


def loss_function(
    recipe: SegmentRecipe, description: Description, class_weights: NDArray[np.float32] | None = None
) -> LossFn:
    """Return (model, batch of images with masks) -> mean loss.

    Args:
        class_weights: float32 [K], of each class in the cross-entropy; None weighs all alike.
    """
    seed = recipe.training.seed

    def loss_fn(model: nn.Layer, batch: Batch) -> paddle.Tensor:
        noise = path_noise(seed, batch, len(model.encoder.blocks)) if recipe.model.drop_path else None
        logits, auxiliary = model.forward_with_auxiliary(to_input(batch.images, description), noise)
        masks = masks_of(batch)
        loss = segmentation_loss(logits, masks, class_weights, dice=recipe.dice, focal=recipe.focal)
        if auxiliary is None or not recipe.auxiliary_weight:
            return loss
        return loss + recipe.auxiliary_weight * segmentation_loss(auxiliary, masks, class_weights)

    return loss_fn


def masks_of(batch: Batch) -> paddle.Tensor:
    """Return the masks of a batch, int64 [B, H, W]."""
    assert batch.targets is not None and batch.targets.ndim == 3
    return tensor_of(batch.targets.astype(np.int64))


def segmentation_loss(
    logits_BKHW: paddle.Tensor,
    masks_BHW: paddle.Tensor,
    class_weights_K: NDArray[np.float32] | None = None,
    *,
    dice: float = 0.0,
    focal: float = 0.0,
) -> paddle.Tensor:
    """Return the mean loss over the images.

    Args:
        masks_BHW: int64, index of a class, or -1 where nothing counts.
        class_weights_K: of the cross-entropy of each class's pixels; its mean is over pixels, not over weights.
        dice: weight of the Dice part, see `dice_loss`.
        focal: gamma of (1 - probability) ** gamma, a factor on each pixel's cross-entropy (Lin et al., arXiv
            1708.02002, sec. 3).
    """
    counted_BHW = (masks_BHW >= 0).astype("float32")
    entropy_BHW = pixel_entropy(logits_BKHW, masks_BHW)
    pixels_BHW = entropy_BHW * counted_BHW
    if focal:
        pixels_BHW = pixels_BHW * (1 - paddle.exp(-entropy_BHW)).clip(min=SMALLEST) ** focal
    if class_weights_K is not None:
        weights_BHW = paddle.gather(tensor_of(class_weights_K), masks_BHW.clip(min=0).flatten())
        pixels_BHW = pixels_BHW * weights_BHW.reshape(masks_BHW.shape)
    counts_B = counted_BHW.sum(axis=[1, 2]).clip(min=1)
    loss = (pixels_BHW.sum(axis=[1, 2]) / counts_B).mean()
    return loss + dice * dice_loss(logits_BKHW, masks_BHW) if dice else loss


def dice_loss(logits_BKHW: paddle.Tensor, masks_BHW: paddle.Tensor) -> paddle.Tensor:
    """Return the mean over images of 1 - Dice, the soft overlap of the probabilities (Milletari et al., 2016, V-Net).

    That of an image is the mean over the classes which its mask has; of a mask without a counted pixel it is 0.
    """
    classes = logits_BKHW.shape[1]
    counted_BP1 = (masks_BHW >= 0).astype("float32").flatten(1).unsqueeze(2)
    truth_BPK = F.one_hot(masks_BHW.clip(min=0).flatten(1), classes) * counted_BP1
    predicted_BPK = F.softmax(logits_BKHW.flatten(2).transpose([0, 2, 1]), axis=-1) * counted_BP1
    sizes_BK = truth_BPK.sum(axis=1)
    overlap_BK = 2 * (truth_BPK * predicted_BPK).sum(axis=1) / (sizes_BK + predicted_BPK.sum(axis=1)).clip(min=SMALLEST)
    present_BK = (sizes_BK > 0).astype("float32")
    return (((1 - overlap_BK) * present_BK).sum(axis=1) / present_BK.sum(axis=1).clip(min=1)).mean()
