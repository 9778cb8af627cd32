"""Open the training and held-out images of a classifier."""

from __future__ import annotations

from pathlib import Path

from paddlemae.data.sources import (
    MissingSplit,
    Source,
    balanced_subset,
    labelled_count,
    match_classes,
    open_source,
    split_off,
    with_classes,
)
from paddlemae.recipe import FinetuneRecipe, ProbeRecipe
from paddlemae.tasks.training.image_checks import check_classes, check_two_classes
from paddlemae.weights.model_folder import read_description


def open_labelled_splits(
    recipe: FinetuneRecipe | ProbeRecipe, data: str, resumed: Path | None = None
) -> tuple[Source, Source]:
    """Return (training images, held-out images), both labelled, with the same classes in the same order.

    Args:
        resumed: this run's own checkpoint when it is resumed; the order of the classes is that of its classifier.
    Raises:
        ValueError: unlabelled images, or held-out ones of classes that no training image has; or as `check_classes`.
    """
    train = open_source(data, recipe.train_split, labelled=True)
    if resumed and sorted(order := read_description(resumed).classes) == sorted(train.classes):
        train = with_classes(train, order)
    if recipe.val_fraction:
        train, held_out = split_off(train, recipe.val_fraction, recipe.training.seed)
    else:
        held_out = _open_held_out(data, recipe.eval_split)
    check_classes(train, held_out)
    held_out = match_classes(train, held_out)
    if recipe.labels:
        train = balanced_subset(train, labelled_count(recipe.labels, train), recipe.training.seed)
        check_two_classes(train)
    return train, held_out


def _open_held_out(data: str, split: str) -> Source:
    try:
        return open_source(data, split, labelled=True)
    except MissingSplit as fault:
        raise MissingSplit(f"{fault}, or hold part of the training images out, as with val_fraction=0.2") from fault
