"""Compute the pretraining loss: a mask for each image, drawn from its own randomness."""

from __future__ import annotations

import numpy as np

from paddlemae.data.batches import Batch, batch_rngs, path_noise
from paddlemae.data.random_streams import MASK_STREAM, PREDICTION_STREAM
from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.masking import Mask, draw_mask, draw_predicted, num_predicted
from paddlemae.recipe import PretrainRecipe
from paddlemae.tasks.models.preprocess import to_input
from paddlemae.train.parallel.loss_layer import LossFn
from paddlemae.weights.model_folder import Description


def loss_function(recipe: PretrainRecipe, description: Description) -> LossFn:
    """Return (model, batch) -> mean loss; all randomness is each image's own, so a batch may be split."""
    seed = recipe.training.seed

    def loss_fn(model: nn.Layer, batch: Batch) -> paddle.Tensor:
        mask = batch_mask(recipe.mask, recipe.mask_ratio, model.grid, seed, batch)
        predicted = batch_predicted(recipe.prediction_ratio, seed, batch, mask)
        noise = path_noise(seed, batch, len(model.encoder.blocks)) if recipe.model.drop_path else None
        return model(to_input(batch.images, description), mask, predicted, noise)

    return loss_fn


def batch_mask(kind: str, ratio: float, grid: tuple[int, int], seed: int, batch: Batch) -> Mask:
    """Draw the masks of a batch, from each image's own randomness: (seed, epoch, index)."""
    return draw_mask(kind, batch_rngs(seed, MASK_STREAM, batch), grid, ratio)


def batch_predicted(ratio: float | None, seed: int, batch: Batch, mask: Mask) -> np.ndarray | None:
    """Draw the removed patches to predict, from each image's own randomness too; None for all of them."""
    if ratio is None:
        return None
    num_removed = mask.removed.shape[1]
    count = num_predicted(mask.keep.shape[1] + num_removed, num_removed, ratio)
    return draw_predicted(batch_rngs(seed, PREDICTION_STREAM, batch), mask.removed, count)
