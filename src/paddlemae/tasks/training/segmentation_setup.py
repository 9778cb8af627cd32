"""Build what a segmentation needs from its recipe: images with masks, views, model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.sources import Source
from paddlemae.data.views.scenes import SceneView
from paddlemae.model.shape import SegmenterShape, architecture_of, names_of, pair, split_keys
from paddlemae.recipe import SCRATCH, Choice, SegmentRecipe, choose_for_masks
from paddlemae.tasks.models.build import arguments_with_head, build_segmenter, describe
from paddlemae.tasks.models.preprocess import statistics_of
from paddlemae.tasks.models.read_model import Checkpoint
from paddlemae.tasks.training.class_balance import balanced_order, scale_weights
from paddlemae.tasks.training.image_checks import check_images
from paddlemae.tasks.training.mask_checks import PixelCounts, check_masks
from paddlemae.tasks.training.mask_splits import open_mask_splits
from paddlemae.tasks.training.resolve import Inputs, open_start
from paddlemae.tasks.training.supervised import Parts
from paddlemae.weights.model_folder import read_description


def prepare(recipe: SegmentRecipe, resumed: Path | None = None, trust: bool = False) -> Parts:
    """Build a recipe's parts; arguments as of `open_inputs`. Statistics that are `auto` are the defaults."""
    chosen, inputs, _ = choose_defaults(recipe, open_inputs(recipe, resumed, trust))
    return build(chosen, inputs)


def open_inputs(recipe: SegmentRecipe, resumed: Path | None = None, trust: bool = False) -> Inputs:
    """Check a recipe, and open its images and initial weights; arguments as of `pretraining_setup.open_inputs`."""
    data, initial = open_start(recipe, resumed, trust, "--data FOLDER with images/ and masks/, or --data digit-scenes")
    splits = open_mask_splits(recipe, data, resumed)
    saved = read_description(resumed) if resumed else None
    arguments = saved.architecture if saved else _arguments(recipe, initial, len(splits.train.classes))
    shape = architecture_of(*split_keys("segmenter", arguments))
    check_images(splits.train, shape, "the recipe" if recipe.init == SCRATCH else str(recipe.init))
    counts = check_masks(splits, shape["channels"], recipe.training.workers)
    return Inputs("segmenter", arguments, splits.train, splits, initial, saved, counts)


def _arguments(recipe: SegmentRecipe, initial: Checkpoint | None, num_classes: int) -> Mapping[str, Any]:
    """Return the model's keyword arguments; what nobody named of the head is the initial segmenter's, if it is one."""
    arguments = arguments_with_head(recipe.model, initial, num_classes)
    if initial and initial.description.kind == "segmenter":
        kept = set(names_of(SegmenterShape)) - recipe.model.model_fields_set - {"num_classes"}
        arguments |= {name: value for name, value in initial.description.architecture.items() if name in kept}
    return {**arguments, "drop_path": 0.0} if recipe.frozen else arguments  # features would be noisy


def choose_defaults(recipe: SegmentRecipe, inputs: Inputs) -> tuple[SegmentRecipe, Inputs, tuple[Choice, ...]]:
    """Return the recipe and inputs with the settings that nobody named, and these; see `recipe.mask_defaults`."""
    shape = architecture_of(*split_keys(inputs.kind, inputs.arguments))
    order = _order(recipe, inputs.pixels)
    views = len(inputs.train if order is None else order)
    chosen, choices = choose_for_masks(recipe, views, shape["embed_dim"], is_pretrained=recipe.init != SCRATCH)
    return chosen, inputs, choices


def build(recipe: SegmentRecipe, inputs: Inputs) -> Parts:
    """Build the model, and the views and description that go with it."""
    train, splits, initial, saved = inputs.train, inputs.splits, inputs.initial, inputs.saved
    assert splits is not None
    weights = _class_weights(recipe, train, inputs.pixels)
    shares = None  # in a trial of the speed, whose masks nobody counts
    if inputs.pixels:
        shares = inputs.pixels.classes * (1.0 if weights is None else weights)
    model = build_segmenter(inputs.arguments, initial, recipe.training.seed, train.classes, shares)
    if model.taps and recipe.cached:
        raise ValueError(f"cached=true needs head=linear or head=conv, and {recipe.init} has head=upernet; name one")
    described = saved or (initial.description if initial else None)
    statistics = (saved.mean, saved.std) if saved else statistics_of(recipe, model.config["channels"], initial)
    if recipe.frozen:
        for parameter in model.encoder.parameters():
            parameter.stop_gradient = True
    model.recompute = recipe.training.recompute
    augment = recipe.augment
    view = SceneView(
        pair(model.config["image_size"]),
        model.config["channels"],
        fill=tuple(min(1.0, max(0.0, value)) for value in statistics[0]),
        **augment.model_dump(exclude={"bits"}),
        bits=augment.bits or (described.bits if described else None),
    )
    description = describe(
        model,
        statistics,
        eval_crop_ratio=1.0,
        bits=view.depth,
        classes=train.classes,
        palette=train.masks.palette.tolist(),
        short_side=augment.short_side,
        provenance={"task": "segment", "data": train.name, "images": len(train), "init": recipe.init}
        | splits.provenance,
    )
    return Parts(splits, view, model, description, _order(recipe, inputs.pixels), weights)


def _order(recipe: SegmentRecipe, pixels: PixelCounts | None) -> NDArray[np.int64] | None:
    """Return the indices of an epoch's views; None where each image comes once."""
    if recipe.sampling is None:
        return None
    assert pixels is not None
    return balanced_order(pixels.rarest, recipe.training.seed)


def _class_weights(recipe: SegmentRecipe, train: Source, pixels: PixelCounts | None) -> NDArray[np.float32] | None:
    """Return each class's weight in the cross-entropy; None where all weigh the same."""
    if recipe.class_weights is None:
        return None
    assert pixels is not None
    return scale_weights(recipe.class_weights, pixels.classes, train.classes)
