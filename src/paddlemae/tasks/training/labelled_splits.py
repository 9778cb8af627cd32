"""Open the images of a classifier: those that train it, choose its best checkpoint, and test it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from paddlemae.data.inspect.series import with_series
from paddlemae.data.sources import (
    BadLabel,
    BadMask,
    MissingSplit,
    MultiLabelTargets,
    Source,
    balanced_subset,
    labelled_count,
    match_classes,
    open_source,
    split_off,
    with_classes,
)
from paddlemae.data.sources.splits import TEST_ONLY, VAL_ONLY
from paddlemae.data.sources.subsets import validation_part
from paddlemae.recipe import TEST_CHOOSES, FinetuneRecipe, ProbeRecipe, SegmentRecipe
from paddlemae.runs.class_metrics import MOST_PROBABILITIES, RANKED
from paddlemae.runs.metrics import CLASSIFICATION, MULTI_LABEL, primary_metric, title_of
from paddlemae.tasks.training.image_checks import check_classes, check_two_classes
from paddlemae.weights.model_folder import read_description

VALIDATION_SHARE = 0.15  # of each class
FEWEST_IMAGES = 5  # of the smallest class, with which there is a validation part unless a share is given


class LabelledSplits(NamedTuple):
    """Labelled images, with the same classes in the same order.

    Attributes:
        train: images to train on, without the validation part.
        validation: chooses the best checkpoint: a part of the training images, or a split `val`; None without.
        held_out: the test part.
        primary: the key of the primary metric.
    """

    train: Source
    validation: Source | None
    held_out: Source
    primary: str

    @property
    def provenance(self) -> dict[str, Any]:
        """Return what a model's description says of them: `find_checkpoint` takes the best one if there are some."""
        chosen = {"validation_images": len(self.validation)} if self.validation is not None else {}
        return {"primary": self.primary, **chosen}

    def choosing(self, recipe: FinetuneRecipe | ProbeRecipe | SegmentRecipe) -> Source | None:
        """Return the images that are evaluated during training and choose the best checkpoint; None without."""
        return self.held_out if recipe.validation == TEST_CHOOSES else self.validation

    def evaluations(self, recipe: FinetuneRecipe | ProbeRecipe | SegmentRecipe) -> str:
        """Return what is evaluated on what, for a person."""
        chosen = self.choosing(recipe)
        by = f"choosing the best {title_of(self.primary)} on {len(chosen)} images; " if chosen is not None else ""
        return f"{by}testing on {self.held_out.name}, {len(self.held_out)} images"

    def plan(self) -> dict[str, str]:
        """Return what a dry run says of the images: name -> value."""
        part = self.validation
        return {
            "training images": f"{len(self.train)} from {self.train.name}, {len(self.train.classes)} classes",
            "validation images": "none: the last step counts" if part is None else f"{len(part)} from {part.name}",
            "held-out images": f"{len(self.held_out)} from {self.held_out.name}",
            "primary metric": title_of(self.primary),
        }

    @property
    def parts(self) -> list[Source]:
        """Return the parts that there are."""
        return [part for part in (self.train, self.validation, self.held_out) if part is not None]


def open_labelled_splits(
    recipe: FinetuneRecipe | ProbeRecipe, data: str, resumed: Path | None = None
) -> LabelledSplits:
    """Open the training images, the validation part, and the test part.

    The validation part is the split `val` where there is a split `test` too, else carved out of the training images;
    with `labels` always, which counts the images of both, so that no other labels are used.

    Args:
        resumed: this run's own checkpoint when it is resumed; the order of the classes is that of its classifier.
    Raises:
        ValueError: unlabelled images, or held-out ones of classes that no training image has; or as `check_classes`.
    """
    opened = partial(open_source, labelled=True, multi_label=isinstance(recipe, FinetuneRecipe))
    train = opened(data, recipe.train_split)
    if resumed and sorted(order := read_description(resumed).classes) == sorted(train.classes):
        train = with_classes(train, order)
    if recipe.keep_series:
        train = with_series(train)
    given = None
    if recipe.val_fraction:
        train, held_out = split_off(train, recipe.val_fraction, recipe.training.seed)
    elif recipe.validation == TEST_CHOOSES:
        held_out = open_held_out(data, recipe.eval_split, opened)
    elif recipe.eval_split == "test":
        given, held_out = open_val_and_test(data, opened)
    else:
        held_out = open_held_out(data, recipe.eval_split, opened)
    _check_alike(train, held_out)
    check_classes(train, held_out)
    held_out = match_classes(train, held_out)
    primary = _primary(recipe, train)
    if recipe.labels:
        train = balanced_subset(train, labelled_count(recipe.labels, train), recipe.training.seed)
        check_two_classes(train)
    if given is not None and recipe.validation is None and not recipe.labels:
        validation: Source | None = match_classes(train, given)
    else:
        train, validation = _carve(recipe, train)
    found = LabelledSplits(train, validation, held_out, primary)
    _check_primary(found)
    return found


def open_test_part(data: str, split: str, *, multi_label: bool = False) -> Source:
    """Return the labelled images that a classifier is tested on: of a source with `val` and `test` those of `test`.

    Args:
        split: "test", or another one that is meant.
        multi_label: as in `open_source`.
    """
    opened = partial(open_source, labelled=True, multi_label=multi_label)
    return open_val_and_test(data, opened)[1] if split == "test" else open_held_out(data, split, opened)


def open_val_and_test(data: str, opened: Callable[[str, str], Source]) -> tuple[Source | None, Source]:
    """Return (the split `val`, or None where it is the only one to hold out; the test part).

    Args:
        opened: (data, split) -> images with the targets that are asked for.
    """
    try:
        val, test = (opened(data, part) for part in (VAL_ONLY, TEST_ONLY))
        return val, test
    except (BadLabel, BadMask):
        raise
    except ValueError:  # one is missing, or has no labels, as ImageNet's test images
        pass
    return None, open_held_out(data, "test", opened)


def open_held_out(data: str, split: str, opened: Callable[[str, str], Source]) -> Source:
    """Return the images of a split to evaluate on; arguments as of `open_val_and_test`."""
    try:
        return opened(data, split)
    except MissingSplit as fault:
        raise MissingSplit(f"{fault}, or hold part of the training images out, as with val_fraction=0.2") from fault


def _check_alike(train: Source, held_out: Source) -> None:
    if type(train.targets) is not type(held_out.targets):
        raise ValueError(
            f"{train.name} and {held_out.name}: images of one of them have several classes (multi-label), of the other "
            "one class each; label both alike"
        )


def _primary(recipe: FinetuneRecipe | ProbeRecipe, train: Source) -> str:
    if recipe.primary_metric is None and recipe.validation == TEST_CHOOSES:  # a run of an earlier version
        return CLASSIFICATION.primary
    kind = MULTI_LABEL if isinstance(train.targets, MultiLabelTargets) else CLASSIFICATION
    if recipe.primary_metric is not None and recipe.primary_metric not in kind.titles:
        raise ValueError(f"primary_metric must be one of {', '.join(kind.titles)} here; got {recipe.primary_metric}")
    if kind is MULTI_LABEL:
        return recipe.primary_metric or kind.primary
    return recipe.primary_metric or primary_metric(image_counts(train))


def image_counts(source: Source) -> Sequence[int]:
    """Return how many images each class has."""
    assert source.targets is not None
    counts: list[int] = source.targets.counts().tolist()
    return counts


def _carve(recipe: FinetuneRecipe | ProbeRecipe, train: Source) -> tuple[Source, Source | None]:
    share = recipe.validation
    if share is None:
        smallest = min(count for count in image_counts(train) if count)
        share = VALIDATION_SHARE if smallest >= FEWEST_IMAGES else 0
    if share == TEST_CHOOSES or not share:
        return train, None
    return validation_part(train, float(share), recipe.training.seed)


def _check_primary(splits: LabelledSplits) -> None:
    """Refuse a primary metric that can't be computed of every part that is evaluated."""
    has_one_class = splits.train.labels is not None
    for part in splits.parts[1:] if splits.primary in RANKED and has_one_class else ():
        if (number := len(part) * len(part.classes)) > MOST_PROBABILITIES:
            raise ValueError(
                f"primary_metric={splits.primary} needs {number:,} probabilities of {part.name}, and "
                f"{MOST_PROBABILITIES:,} are the most; choose top1, balanced_accuracy or macro_f1"
            )
        if sum(count > 0 for count in image_counts(part)) < 2:
            raise ValueError(
                f"primary_metric={splits.primary} needs images of two classes in {part.name}; choose another metric"
            )
