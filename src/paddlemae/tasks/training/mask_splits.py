"""Open the images with masks of a segmentation: those that train it, choose its best checkpoint, and test it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from paddlemae.data.inspect.series import with_series
from paddlemae.data.sources import (
    Source,
    labelled_count,
    match_classes,
    open_source,
    random_subset,
    split_off,
    with_classes,
)
from paddlemae.recipe import SegmentRecipe
from paddlemae.tasks.training.labelled_splits import (
    VALIDATION_SHARE,
    LabelledSplits,
    open_held_out,
    open_val_and_test,
)
from paddlemae.weights.model_folder import read_description

FEWEST_IMAGES = 7  # to train on, with which there is a validation part unless a share is given

open_scenes = partial(open_source, masks=True)


def open_mask_splits(recipe: SegmentRecipe, data: str, resumed: Path | None = None) -> LabelledSplits:
    """Open the training images, the validation part, and the test part, as `open_labelled_splits` does with labels.

    Args:
        resumed: this run's own checkpoint when it is resumed; the order of the classes is that of its segmenter.
    Raises:
        ValueError: images without masks, or held-out ones of classes that no training image has.
    """
    seed = recipe.training.seed
    train = open_scenes(data, recipe.train_split)
    if resumed and sorted(order := read_description(resumed).classes) == sorted(train.classes):
        train = with_classes(train, order)
    if recipe.keep_series:
        train = with_series(train)
    given = None
    if recipe.val_fraction:
        train, held_out = split_off(train, recipe.val_fraction, seed)
    elif recipe.eval_split == "test":
        given, held_out = open_val_and_test(data, open_scenes)
    else:
        held_out = open_held_out(data, recipe.eval_split, open_scenes)
    held_out = _with_classes_of(train, held_out)
    if recipe.labels:
        train = random_subset(train, labelled_count(recipe.labels, train), seed)
    if given is not None and recipe.validation is None and not recipe.labels:
        validation: Source | None = _with_classes_of(train, given)
    else:
        train, validation = _carve(recipe, train)
    return LabelledSplits(train, validation, held_out, recipe.primary_metric)


def _with_classes_of(train: Source, held_out: Source) -> Source:
    return held_out if held_out.classes == train.classes else match_classes(train, held_out)


def _carve(recipe: SegmentRecipe, train: Source) -> tuple[Source, Source | None]:
    share = recipe.validation
    if share is None:
        share = VALIDATION_SHARE if len(train) >= FEWEST_IMAGES else 0
    return split_off(train, share, recipe.training.seed) if share else (train, None)


def open_mask_test_part(data: str, split: str) -> Source:
    """Return the images that a segmenter is tested on, as `open_test_part` does with labels."""
    return open_val_and_test(data, open_scenes)[1] if split == "test" else open_held_out(data, split, open_scenes)
