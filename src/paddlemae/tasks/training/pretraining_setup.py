"""Build what a pretraining needs from its recipe: images, views, model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from paddlemae.data.sources import Source, open_source
from paddlemae.data.views.augment import View
from paddlemae.engine import device
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.vit import patch_grid
from paddlemae.recipe import PretrainRecipe
from paddlemae.tasks.models.build import autoencoder_arguments, build_autoencoder, check_memory, describe, fitted
from paddlemae.tasks.models.preprocess import statistics_of, training_view
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.training.auto_statistics import Measure
from paddlemae.tasks.training.pretraining_loss import kept_patches, predicted_patches
from paddlemae.train.loop import check_precision
from paddlemae.weights.model_folder import Description, read_description


@dataclass(frozen=True)
class Parts:
    """What a pretraining is made of."""

    source: Source
    view: View
    model: MaskedAutoencoder
    description: Description


def prepare(
    recipe: PretrainRecipe, own: Path | None = None, measure: Measure | None = None, *, trust: bool = False
) -> Parts:
    """Build a recipe's parts, with every check that needs no training.

    Args:
        own: this run's own checkpoint when it is resumed; what it started from is not needed then, and may be gone.
        measure: finds the mean and std that the recipe leaves to be found; without it they are any.
        trust: see `read_checkpoint`.
    """
    if recipe.data is None:
        raise ValueError("no images named; add --data FOLDER, or --data digits for the embedded ones")
    if recipe.mask == "grid" and recipe.mask_ratio != 0.75:
        warnings.warn("mask=grid removes 3 of every 4 patches; mask_ratio has no effect", stacklevel=2)
    device.prepare(recipe.training.device, recipe.training.threads)
    check_precision(recipe.training.precision)
    arguments = autoencoder_arguments(recipe.model)
    grid = patch_grid(arguments["image_size"], arguments["patch_size"])
    if kept_patches(recipe, grid) == grid[0] * grid[1]:
        raise ValueError(
            f"mask_ratio {recipe.mask_ratio} removes none of {grid[0] * grid[1]} patches, so nothing is left to learn"
        )
    predicted_patches(recipe, grid)  # refuses more than are removed
    if measure:
        check_memory("mae", arguments)
    source = open_source(recipe.data, recipe.split or "train")
    checkpoint = fitted(read_checkpoint(recipe.init, trust=trust), arguments) if recipe.init and not own else None
    saved = read_description(own) if own else None
    view = training_view(recipe.augment, recipe.model.image_size, recipe.model.channels)
    model = build_autoencoder(recipe.model, recipe.training.seed, checkpoint)
    model.recompute = recipe.training.recompute
    look = partial(measure, recipe.training.workers, source, view) if measure else None
    statistics = (saved.mean, saved.std) if saved else statistics_of(recipe, view.channels, checkpoint, look)
    description = describe(
        model,
        statistics,
        eval_crop_ratio=recipe.augment.eval_crop_ratio,
        bits=view.depth,
        provenance={
            "task": "pretrain",
            "data": source.name,
            "images": len(source),
            "mask_ratio": recipe.mask_ratio,
            "prediction_ratio": recipe.prediction_ratio,
            **({"init": recipe.init} if recipe.init else {}),
        },
    )
    return Parts(source, view, model, description)
