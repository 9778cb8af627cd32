"""Build what a fine-tuning needs from its recipe: images, views, model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from paddlemae.data.sources import Source
from paddlemae.data.views.augment import View
from paddlemae.engine import device
from paddlemae.model.vit import VisionTransformer, freeze
from paddlemae.recipe import SCRATCH, FinetuneRecipe
from paddlemae.tasks.models.build import build_classifier, check_memory, classifier_arguments, describe, fitted, named
from paddlemae.tasks.models.preprocess import statistics_of, training_view
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.training.auto_statistics import Measure
from paddlemae.tasks.training.labelled_splits import open_labelled_splits
from paddlemae.train.loop import check_precision
from paddlemae.weights.model_folder import Description, read_description


@dataclass(frozen=True)
class Parts:
    """What a fine-tuning is made of."""

    train: Source
    held_out: Source
    view: View
    model: VisionTransformer
    description: Description


def prepare(
    recipe: FinetuneRecipe, own: Path | None = None, measure: Measure | None = None, *, trust: bool = False
) -> Parts:
    """Build a recipe's parts, with every check that needs no training; arguments as of `pretrain.prepare`."""
    if recipe.data is None:
        raise ValueError("no images named; add --data FOLDER with one folder a class, or --data digits")
    if recipe.init is None:
        raise ValueError("name what to start from: --init RUN (a pretraining run) or --init scratch")
    device.prepare(recipe.training.device, recipe.training.threads)
    check_precision(recipe.training.precision)
    begins = recipe.init != SCRATCH and not own
    checkpoint = fitted(read_checkpoint(recipe.init, trust=trust), named(recipe.model)) if begins else None
    train, held_out = open_labelled_splits(recipe, recipe.data, own)
    if own:
        model, statistics, bits = _saved_shape(own)
    else:
        arguments = classifier_arguments(recipe.model, checkpoint, len(train.classes))
        if measure:
            check_memory("classifier", arguments)
        model = build_classifier(arguments, checkpoint, recipe.training.seed)
        bits = checkpoint.description.bits if checkpoint else None
        plain = training_view(recipe.augment, model.config["image_size"], model.config["channels"], (), bits)
        look = partial(measure, recipe.training.workers, train, plain) if measure else None
        statistics = statistics_of(recipe, plain.channels, checkpoint, look)
    if recipe.trainable_blocks is not None:
        freeze(model, recipe.trainable_blocks)
    model.recompute = recipe.training.recompute
    shape = model.config
    view = training_view(recipe.augment, shape["image_size"], shape["channels"], statistics[0], bits)
    description = describe(
        model,
        statistics,
        eval_crop_ratio=recipe.augment.eval_crop_ratio,
        bits=view.depth,
        classes=train.classes,
        provenance={"task": "finetune", "data": train.name, "images": len(train), "init": recipe.init},
    )
    return Parts(train, held_out, view, model, description)


def _saved_shape(own: Path) -> tuple[VisionTransformer, tuple[list[float], list[float]], Literal[8, 16] | None]:
    """(a new model of the saved one's shape, its mean and std, its images' bits)."""
    saved = read_description(own)
    return VisionTransformer(**saved.architecture), (saved.mean, saved.std), saved.bits
