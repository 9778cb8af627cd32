"""Build what a fine-tuning needs from its recipe: images, views, model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from paddlemae.data.decode.pixel_format import default_bits
from paddlemae.data.sources import MultiLabelTargets, Source
from paddlemae.model.classifier import freeze
from paddlemae.model.shape import architecture_of, split_keys
from paddlemae.recipe import SCRATCH, Choice, FinetuneRecipe, Labelled, choose
from paddlemae.runs.multi_label_metrics import DEFAULT_THRESHOLD
from paddlemae.tasks.models.build import arguments_with_head, build_classifier, describe
from paddlemae.tasks.models.preprocess import statistics_of, training_view
from paddlemae.tasks.training.class_balance import class_weights, epoch_of, unequal_views
from paddlemae.tasks.training.image_checks import check_images
from paddlemae.tasks.training.labelled_splits import open_labelled_splits
from paddlemae.tasks.training.resolve import Inputs, open_start
from paddlemae.tasks.training.supervised import Parts
from paddlemae.weights.model_folder import Description, read_description


def prepare(recipe: FinetuneRecipe, resumed: Path | None = None, trust: bool = False) -> Parts:
    """Build a recipe's parts; arguments as of `open_inputs`. Statistics that are `auto` are the defaults."""
    chosen, inputs, _ = choose_defaults(recipe, open_inputs(recipe, resumed, trust))
    return build(chosen, inputs)


def open_inputs(recipe: FinetuneRecipe, resumed: Path | None = None, trust: bool = False) -> Inputs:
    """Check a recipe, and open its images and initial weights; arguments as of `pretraining_setup.open_inputs`."""
    data, initial = open_start(recipe, resumed, trust, "--data FOLDER with one folder per class, or --data digits")
    splits = open_labelled_splits(recipe, data, resumed)
    saved = read_description(resumed) if resumed else None
    arguments = saved.architecture if saved else arguments_with_head(recipe.model, initial, len(splits.train.classes))
    shape = architecture_of(*split_keys("classifier", arguments))
    check_images(splits.train, shape, "the recipe" if recipe.init == SCRATCH else str(recipe.init))
    return Inputs("classifier", arguments, splits.train, splits, initial, saved)


def choose_defaults(recipe: FinetuneRecipe, inputs: Inputs) -> tuple[FinetuneRecipe, Inputs, tuple[Choice, ...]]:
    """Return the recipe and inputs with the settings that nobody named, and these; see `recipe.label_defaults`."""
    shape = architecture_of(*split_keys(inputs.kind, inputs.arguments))
    order = epoch_of(recipe, inputs.train)
    images, labels = len(inputs.train), inputs.train.labels
    labelled = Labelled(
        images,
        images if order is None else len(order),
        shape["embed_dim"],
        shape["depth"],
        is_pretrained=recipe.init != SCRATCH,
        is_multi_label=isinstance(inputs.train.targets, MultiLabelTargets),
        is_picture=shape["channels"] in (1, 3) and _bits(recipe, inputs, shape["channels"]) == 8,
        balanced_views=None if labels is None else unequal_views(labels),
        fit=inputs.initial.description.fit if inputs.initial else "crop",
    )
    chosen, choices = choose(recipe, labelled)
    if not inputs.saved:
        model = {"drop_path": chosen.model.drop_path, "pool": chosen.model.pool}
        inputs = replace(inputs, arguments={**inputs.arguments, **model})
    return chosen, inputs, choices


def _bits(recipe: FinetuneRecipe, inputs: Inputs, channels: int) -> int:
    """Return the bits of a value that views have."""
    description = inputs.saved or (inputs.initial.description if inputs.initial else None)
    return recipe.augment.bits or (description.bits if description else None) or default_bits(channels)


def build(recipe: FinetuneRecipe, inputs: Inputs) -> Parts:
    """Build the model, and the views and description that go with it."""
    train, splits, initial, saved = inputs.train, inputs.splits, inputs.initial, inputs.saved
    assert splits is not None
    model = build_classifier(inputs.arguments, initial, recipe.training.seed)
    description = saved or (initial.description if initial else None)
    bits = description.bits if description else None
    statistics = (saved.mean, saved.std) if saved else statistics_of(recipe, model.config["channels"], initial)
    if recipe.trainable_blocks is not None:
        freeze(model, recipe.trainable_blocks)
    model.recompute = recipe.training.recompute
    shape = model.config
    view = training_view(recipe.augment, shape["image_size"], shape["channels"], statistics[0], bits)
    description = describe(
        model,
        statistics,
        eval_crop_ratio=recipe.augment.eval_crop_ratio,
        fit=recipe.augment.fit,
        bits=view.depth,
        classes=train.classes,
        provenance={"task": "finetune", "data": train.name, "images": len(train), "init": recipe.init}
        | splits.provenance,
        thresholds=_thresholds(train, saved),
    )
    return Parts(splits, view, model, description, epoch_of(recipe, train), class_weights(recipe, train))


def _thresholds(train: Source, saved: Description | None) -> list[float] | None:
    """Return the thresholds that a multi-label classifier has until an evaluation chooses others; None of others."""
    if not isinstance(train.targets, MultiLabelTargets):
        return None
    return saved.thresholds if saved and saved.thresholds else [DEFAULT_THRESHOLD] * len(train.classes)
