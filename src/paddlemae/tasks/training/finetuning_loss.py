"""Compute the fine-tuning loss: images erased, mixed and classified against soft targets, of one class or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.batches import Batch, batch_rngs, labels_of, path_noise
from paddlemae.data.random_streams import ERASING_STREAM
from paddlemae.data.views.erasing import Erasing, draw_erasing
from paddlemae.data.views.mixup import MixedBatch, mixed_labels
from paddlemae.engine.safe_import import F, nn, paddle
from paddlemae.engine.tensors import tensor_of
from paddlemae.recipe import FinetuneRecipe
from paddlemae.tasks.models.preprocess import to_input
from paddlemae.train.parallel.loss_layer import LossFn
from paddlemae.weights.model_folder import Description


def loss_function(
    recipe: FinetuneRecipe, description: Description, class_weights: NDArray[np.float32] | None = None
) -> LossFn:
    """Return (model, batch) -> mean loss; all randomness is each image's own, so a batch may be split.

    Args:
        class_weights: float32 [classes], see `weighted_cross_entropy`; None weighs all alike.
    """
    seed = recipe.training.seed
    erasing = Erasing(recipe.augment.erasing) if recipe.augment.erasing else None

    def loss_fn(model: nn.Layer, batch: Batch) -> paddle.Tensor:
        noise = path_noise(seed, batch, len(model.encoder.blocks)) if recipe.model.drop_path else None
        logits = model(input_of(batch, description, erasing, seed), noise)
        if description.thresholds is not None:
            targets = multi_label_targets_of(batch, recipe.label_smoothing)
            return F.binary_cross_entropy_with_logits(logits, targets)
        targets = targets_of(batch, logits.shape[1], recipe.label_smoothing)
        if class_weights is not None:
            return weighted_cross_entropy(logits, targets, class_weights)
        return F.cross_entropy(logits, targets, soft_label=True)

    return loss_fn


def weighted_cross_entropy(
    logits_BK: paddle.Tensor, targets_BK: paddle.Tensor, class_weights_K: NDArray[np.float32]
) -> paddle.Tensor:
    """Return the mean over images of -sum(weight * target * log probability) over classes.

    It is PyTorch's `cross_entropy` with class probabilities and weights. The mean is over images and not over weights,
    so a batch may be split; weights with a mean of 1 over the training images keep its scale.
    """
    weighted = targets_BK * tensor_of(class_weights_K)
    return -(weighted * F.log_softmax(logits_BK)).sum(axis=1).mean()


def input_of(batch: Batch, description: Description, erasing: Erasing | None, seed: int) -> paddle.Tensor:
    """Return normalised images, each with its rectangle erased, then mixed (in the order of MAE, appendix A.2)."""
    images = to_input(batch.images, description)
    if erasing:
        images = erase(images, erasing, batch_rngs(seed, ERASING_STREAM, batch))
    if not isinstance(batch, MixedBatch):
        return images
    partners = input_of(batch.partner_batch, description, erasing, seed)
    top, bottom, left, right = batch.regions[0].tolist()
    if bottom > top and right > left:
        taken_HW = np.zeros(images.shape[2:], bool)
        taken_HW[top:bottom, left:right] = True
        return paddle.where(tensor_of(taken_HW), partners, images)
    kept = float(batch.kept[0])
    return images * kept + partners * (1 - kept)


def erase(images_BCHW: Any, erasing: Erasing, rngs: Sequence[np.random.Generator]) -> Any:
    """Fill the rectangle drawn for each image with noise."""
    batch, channels, height, width = images_BCHW.shape
    drawn = [draw_erasing(erasing, channels, height, width, rng) for rng in rngs]
    if not any(drawn):
        return images_BCHW
    noise_BCHW = np.zeros(images_BCHW.shape, np.float32)
    taken_B1HW = np.zeros((batch, 1, height, width), bool)
    for image, rectangle in enumerate(drawn):
        if rectangle:
            (top, bottom, left, right), fill = rectangle
            noise_BCHW[image, :, top:bottom, left:right] = fill
            taken_B1HW[image, :, top:bottom, left:right] = True
    return paddle.where(tensor_of(taken_B1HW), tensor_of(noise_BCHW), images_BCHW)


def targets_of(batch: Batch, num_classes: int, smoothing: float) -> paddle.Tensor:
    """Return smoothed targets, float32 [B, classes]; for mixed images the mixture of both."""
    if not isinstance(batch, MixedBatch):
        return soft_targets(labels_of(batch), num_classes, smoothing)
    parts = [
        soft_targets(labels, num_classes, smoothing) * tensor_of(share[:, None])
        for labels, share in mixed_labels(batch)
    ]
    return parts[0] + parts[1]


def multi_label_targets_of(batch: Batch, smoothing: float) -> paddle.Tensor:
    """Return targets of several classes, float32 [B, classes], moved by half of `smoothing` towards their middle.

    Those of mixed images are the mixture of both.
    """
    assert batch.targets is not None
    if isinstance(batch, MixedBatch):
        parts = [targets * share[:, None] for targets, share in mixed_labels(batch)]
        targets = parts[0] + parts[1]
    else:
        targets = batch.targets
    return tensor_of((targets * (1 - smoothing) + smoothing / 2).astype(np.float32))


def soft_targets(labels: np.ndarray, num_classes: int, smoothing: float) -> paddle.Tensor:
    """Return label-smoothed targets, float32 [B, classes] (Szegedy et al., "Rethinking Inception", sec. 7)."""
    soft = np.full((len(labels), num_classes), smoothing / num_classes, np.float32)
    soft[np.arange(len(labels)), labels] += 1 - smoothing
    return tensor_of(soft)
