"""Build what a pretraining needs from its recipe: images, views, model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from paddlemae.data.sources import Source, open_source
from paddlemae.data.views.augment import View
from paddlemae.engine import device
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.masking import MASKS, num_predicted
from paddlemae.model.shape import patch_grid
from paddlemae.recipe import PretrainRecipe
from paddlemae.tasks.models.build import arguments_of, build_autoencoder, describe, fit_shape
from paddlemae.tasks.models.preprocess import statistics_of, training_view
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.training.image_checks import check_images
from paddlemae.tasks.training.resolve import Inputs
from paddlemae.weights.model_folder import Description, read_description


@dataclass(frozen=True)
class Parts:
    """Everything that a pretraining needs."""

    source: Source
    view: View
    model: MaskedAutoencoder
    description: Description


def prepare(recipe: PretrainRecipe) -> Parts:
    """Build a recipe's parts; statistics that are `auto` are the defaults."""
    return build(recipe, open_inputs(recipe))


def open_inputs(recipe: PretrainRecipe, resumed: Path | None = None, trust: bool = False) -> Inputs:
    """Check a recipe, and open its images and initial weights.

    Args:
        resumed: this run's own checkpoint when it is resumed; what it started from is not needed then, and may be gone.
        trust: see `read_checkpoint`.
    """
    if recipe.data is None:
        raise ValueError("no images named; add --data FOLDER, or --data digits for the embedded ones")
    fixed_ratio = MASKS[recipe.mask].fixed_ratio
    if fixed_ratio and recipe.mask_ratio != fixed_ratio:
        warnings.warn(
            f"mask={recipe.mask} removes {fixed_ratio:.0%} of the patches; mask_ratio has no effect", stacklevel=2
        )
    device.prepare(recipe.training.device, recipe.training.threads, recipe.training.precision)
    arguments = arguments_of(recipe.model)
    grid = patch_grid(arguments["image_size"], arguments["patch_size"])
    patches, kept = grid[0] * grid[1], MASKS[recipe.mask].num_kept(grid, recipe.mask_ratio)
    if kept == patches:
        raise ValueError(
            f"mask_ratio {recipe.mask_ratio} removes none of {patches} patches, so nothing is left to learn"
        )
    num_predicted(patches, patches - kept, recipe.prediction_ratio)  # refuses more than are removed
    source = open_source(recipe.data, recipe.split or "train")
    check_images(source, arguments, "the recipe")
    init = None if resumed else recipe.init
    initial = fit_shape(read_checkpoint(init, trust=trust), arguments) if init else None
    return Inputs("mae", arguments, source, initial=initial, saved=read_description(resumed) if resumed else None)


def build(recipe: PretrainRecipe, inputs: Inputs) -> Parts:
    """Build the model, and the views and description that go with it."""
    source, saved = inputs.train, inputs.saved
    view = training_view(recipe.augment, recipe.model.image_size, recipe.model.channels)
    model = build_autoencoder(recipe.model, recipe.training.seed, inputs.initial)
    model.recompute = recipe.training.recompute
    statistics = (saved.mean, saved.std) if saved else statistics_of(recipe, view.channels, inputs.initial)
    description = describe(
        model,
        statistics,
        eval_crop_ratio=recipe.augment.eval_crop_ratio,
        fit=recipe.augment.fit,
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
