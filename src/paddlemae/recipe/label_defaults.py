"""Defaults of a fine-tuning by the number of labelled images, for settings that neither user nor recipe names.

The values are for encoders of 1 to 6 million weights that were pretrained on the images themselves; how they were
compared is in docs/finetune.md. Encoders as wide as ViT-Base get the layer decay of MAE's appendix A.2 and a lower
learning rate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel

from paddlemae.recipe.settings import FinetuneRecipe

UNEQUAL = 3  # the largest class divided by the smallest, from which rare classes are repeated
EVALUATIONS = 20  # in a run, about
CHECKPOINTS = 10
WARMUP_SHARE = 0.1
FEW_TO_FIT = 20_000  # labelled images below which a fitted head is worth its time
FEW_STEPS = 4  # the default length divided by that of a run that is called short
EASY_CROPS = (0.5, 1.0)  # of the fewest labels, for random weights
FITTED_LR = 1 / 3  # of the peak learning rate where the head is fitted, which large steps would undo
NARROW = 256  # width up to which the learning rates hold
WIDE = 768  # width from which the paper's layer decay holds


@dataclass(frozen=True)
class Band:
    """The defaults for numbers of labelled images below `below`, pretrained encoders and others alike.

    Attributes:
        steps, epochs: length of the run: whichever is longer.
        lr: peak learning rate, whatever the batch size; wide encoders and random weights take half of it.
    """

    below: float
    batch_size: int
    steps: int
    epochs: float
    lr: float
    weight_decay: float
    label_smoothing: float
    drop_path: float
    mixup: float
    cutmix: float
    randaugment: int
    erasing: float
    crop_scale: tuple[float, float]


# fmt: off
BANDS = (
    Band(1_000, 32, 1_500, 0, 3e-3, 0.05, 0.1, 0.1, 0.0, 0.0, 2, 0.25, (0.35, 1.0)),
    Band(5_000, 64, 2_000, 0, 3e-3, 0.05, 0.1, 0.1, 0.0, 0.0, 0, 0.0, (0.4, 1.0)),
    Band(20_000, 64, 2_000, 25, 2e-3, 0.05, 0.1, 0.1, 0.0, 0.0, 0, 0.0, (0.4, 1.0)),
    Band(200_000, 128, 5_000, 20, 1e-3, 0.05, 0.1, 0.1, 0.2, 0.0, 0, 0.0, (0.35, 1.0)),
    Band(float("inf"), 128, 20_000, 30, 1e-3, 0.05, 0.1, 0.1, 0.8, 1.0, 2, 0.0, (0.2, 1.0)),
)
# fmt: on


@dataclass(frozen=True)
class Labelled:
    """Facts about labels and model that the defaults depend on.

    Args:
        images: labelled images to train on.
        views: of an epoch; as many unless images are repeated.
        fit: of the images that the encoder was pretrained on, as of `Augmentation`.
        is_picture: whether images have 1 or 3 channels of 8 bits, which RandAugment needs.
        balanced_views: of an epoch with sampling=balanced, where classes are so unequal that this is chosen; else None.
        width, depth: of the encoder.
        is_pretrained: whether it starts from weights.
        is_multi_label: whether an image may have several classes.
    """

    images: int
    views: int
    width: int
    depth: int
    is_pretrained: bool = True
    is_multi_label: bool = False
    is_picture: bool = True
    balanced_views: int | None = None
    fit: str = "crop"


@dataclass(frozen=True)
class Choice:
    """A setting that was chosen: its full name, its value, and why."""

    name: str
    value: Any
    reason: str

    @property
    def shown(self) -> str:
        """Return the value as it would be typed behind a command."""
        return json.dumps(self.value)


# task -> section -> settings that are chosen; "" is the recipe itself
CHOSEN: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "finetune": {
        "": ("sampling", "fit_head", "label_smoothing", "layer_decay", "mixup", "cutmix", "evaluate_every"),
        "model": ("drop_path", "pool"),
        "augment": ("crop_scale", "fit", "eval_crop_ratio", "randaugment", "erasing"),
        "training": ("batch_size", "epochs", "warmup_epochs", "base_lr", "weight_decay", "checkpoint_every"),
    },
    "segment": {
        "": ("layer_decay", "evaluate_every"),
        "training": ("batch_size", "epochs", "warmup_epochs", "base_lr", "checkpoint_every"),
    },
}
AnyRecipe = TypeVar("AnyRecipe", bound=BaseModel)


def chosen_names(task: str) -> tuple[str, ...]:
    """Return the full names of the settings that are chosen for a task."""
    return tuple(f"{section}.{key}".lstrip(".") for section, keys in CHOSEN.get(task, {}).items() for key in keys)


def open_names(recipe: BaseModel) -> tuple[str, ...]:
    """Return the full names of the settings of a recipe that are still to be chosen; none of another task."""
    content = recipe.__dict__
    sections: dict[str, BaseModel] = {
        "": recipe,
        **{name: content[name] for name in CHOSEN.get(content["task"], ()) if name},
    }
    given = {f"{name}.{key}".lstrip(".") for name, section in sections.items() for key in section.model_fields_set}
    return tuple(name for name in chosen_names(content["task"]) if name not in given)


def band_of(images: int) -> Band:
    """Return the defaults for a number of labelled images."""
    return next(band for band in BANDS if images < band.below)


def choose(recipe: FinetuneRecipe, labelled: Labelled) -> tuple[FinetuneRecipe, tuple[Choice, ...]]:
    """Return the recipe with every setting that nobody named, and what was chosen."""
    still_open = open_names(recipe)
    sampling = _sampling(recipe, labelled)
    if "sampling" in still_open and labelled.balanced_views and sampling.value:
        labelled = replace(labelled, views=labelled.balanced_views)
    choices = [choice for choice in (sampling, *_choices(recipe, labelled, still_open)) if choice.name in still_open]
    return with_values(recipe, {choice.name: choice.value for choice in choices}), tuple(choices)


def with_values(recipe: AnyRecipe, values: Mapping[str, Any]) -> AnyRecipe:
    """Return a recipe with other values, by full name, checked again; what nobody named stays open."""
    content = recipe.model_dump(exclude_unset=True)
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        (content.setdefault(section, {}) if section else content)[key] = value
    return type(recipe).model_validate(content)


def with_stored(recipe: AnyRecipe, stored: AnyRecipe) -> AnyRecipe:
    """Return a recipe with the values of another one, chosen already, for settings that are open; else as it is."""
    names = set(open_names(recipe)) - set(open_names(stored))
    try:
        return with_values(recipe, {name: _value(stored, name) for name in open_names(recipe) if name in names})
    except ValueError:  # they don't go together, so that run is of another recipe
        return recipe


def _value(recipe: BaseModel, name: str) -> Any:
    section, _, key = name.rpartition(".")
    return (recipe.__dict__[section] if section else recipe).__dict__[key]


def _choices(recipe: FinetuneRecipe, labelled: Labelled, still_open: tuple[str, ...]) -> list[Choice]:
    """Return a choice for each of the `chosen_names` that is open, and for some that are not."""
    band, training = _band(labelled), recipe.training
    why = f"{labelled.images:,} labelled images"
    batch_size = band.batch_size if "training.batch_size" in still_open else training.batch_size
    batch_size = -(-batch_size // recipe.augment.repeats) * recipe.augment.repeats
    images_per_step = batch_size * training.accumulation_steps
    epochs, choices = _length(recipe, labelled, band, images_per_step, still_open)
    head, pool = _head(labelled, still_open)
    fits_head = head.value if "fit_head" in still_open else recipe.fit_head
    lr, lr_reason = _peak_lr(band, labelled, why, fits_head=fits_head)
    decay, decay_reason = _layer_decay(labelled)
    smoothing = (0.0, "several classes per image") if labelled.is_multi_label else (band.label_smoothing, why)
    randaugment = (band.randaugment, why) if labelled.is_picture else (0, "not 1 or 3 channels of 8 bits")
    crop_scale = None if recipe.augment.shift else band.crop_scale
    chosen_crop = crop_scale if "augment.crop_scale" in still_open else recipe.augment.crop_scale
    whole = chosen_crop is None or chosen_crop[0] >= 0.35
    return [
        Choice("training.batch_size", batch_size, why),
        *choices,
        Choice("training.base_lr", lr * 256 / images_per_step, f"peak lr {lr:g}: {lr_reason}"),
        Choice("training.weight_decay", band.weight_decay, why),
        Choice("layer_decay", decay, decay_reason),
        head,
        pool,
        Choice("model.drop_path", band.drop_path, why),
        Choice("label_smoothing", *smoothing),
        Choice("mixup", band.mixup, why),
        Choice("cutmix", band.cutmix, why),
        Choice("augment.crop_scale", crop_scale, why),
        Choice("augment.fit", labelled.fit, "as in pretraining" if labelled.is_pretrained else "usual"),
        Choice("augment.eval_crop_ratio", 1.0 if whole else 0.875, "as much of an image as in training"),
        Choice("augment.randaugment", *randaugment),
        Choice("augment.erasing", band.erasing, why),
        Choice("evaluate_every", max(1.0, _rounded(epochs / EVALUATIONS)), f"about {EVALUATIONS} evaluations"),
        Choice("training.checkpoint_every", max(1.0, _rounded(epochs / CHECKPOINTS)), "about 10 checkpoints"),
    ]


def _band(labelled: Labelled) -> Band:
    """Return the defaults; random weights learn less from harder views of few images, so they get easier ones."""
    band = band_of(labelled.images)
    is_hard = not labelled.is_pretrained and band is BANDS[0]
    return replace(band, randaugment=0, erasing=0.0, crop_scale=EASY_CROPS) if is_hard else band


def _head(labelled: Labelled, still_open: tuple[str, ...]) -> tuple[Choice, Choice]:
    """Return whether the head is fitted before training, and what it reads.

    A learning rate that somebody names is for a head that begins at random and reads the mean.
    """
    if not labelled.is_pretrained or "training.base_lr" not in still_open:
        reason = "a named learning rate" if labelled.is_pretrained else "random weights"
        return Choice("fit_head", False, reason), Choice("model.pool", "mean", reason)
    pool = "mean+std", "pretrained: the deviation of the patches tells classes apart, too"
    if labelled.is_multi_label:
        return Choice("fit_head", False, "several classes per image"), Choice("model.pool", *pool)
    few = labelled.images < FEW_TO_FIT
    why = f"{labelled.images:,} labelled images"
    return Choice("fit_head", few, why), Choice("model.pool", *pool)


def _sampling(recipe: FinetuneRecipe, labelled: Labelled) -> Choice:
    """Return "balanced" for unequal classes, unless their weights are named, or accuracy is what counts."""
    if labelled.balanced_views is None:
        return Choice(
            "sampling", None, "several classes per image" if labelled.is_multi_label else "similar class sizes"
        )
    if recipe.class_weights is not None or recipe.primary_metric == "top1":
        named = "class_weights" if recipe.class_weights is not None else "primary_metric=top1"
        return Choice("sampling", None, f"{named} is set")
    return Choice("sampling", "balanced", f"the largest class is {UNEQUAL} times the smallest or more")


def _length(
    recipe: FinetuneRecipe, labelled: Labelled, band: Band, images_per_step: int, still_open: tuple[str, ...]
) -> tuple[float, list[Choice]]:
    """Return the epochs of the run, and the choices that make it so long."""
    training, images = recipe.training, labelled.views
    if "training.epochs" not in still_open:
        return training.total_steps(images) * images_per_step / images, []
    if training.steps is None:
        steps = max(band.steps, round(band.epochs * images / images_per_step))
        reason = f"{steps:,} steps of {images_per_step}: {labelled.images:,} labelled images"
    else:
        steps, reason = training.steps, f"steps={training.steps}"
    epochs = _rounded(steps * images_per_step / images)
    if training.steps is not None and "training.warmup_epochs" not in still_open:
        return epochs, []  # the warmup keeps its share of the default epochs
    warmup = Choice("training.warmup_epochs", _rounded(WARMUP_SHARE * epochs), f"{WARMUP_SHARE:.0%} of the run")
    return epochs, [Choice("training.epochs", epochs, reason), warmup]


def short_run(recipe: FinetuneRecipe, images: int, views: int) -> str | None:
    """Return a line on a run that is much shorter than the default, for a person; None on others.

    Args:
        images, views: labelled images to train on, and views of an epoch.
    """
    steps, usual = recipe.training.total_steps(views), band_of(images).steps
    if FEW_STEPS * steps >= usual:
        return None
    return (
        f"{steps:,} steps are few for {images:,} labelled images; without a recipe's or your own epochs, steps and "
        f"batch_size it would be {usual:,} or more"
    )


def _peak_lr(band: Band, labelled: Labelled, why: str, *, fits_head: bool) -> tuple[float, str]:
    if fits_head:
        lr = band.lr * FITTED_LR
        return (lr, f"{why}, fitted head") if labelled.width <= NARROW else (lr / 2, f"{why}, width {labelled.width}")
    if not labelled.is_pretrained:
        return band.lr / 2, f"{why}, random weights"
    return (band.lr, why) if labelled.width <= NARROW else (band.lr / 2, f"{why}, width {labelled.width}")


def _layer_decay(labelled: Labelled) -> tuple[float, str]:
    if not labelled.is_pretrained:
        return 1.0, "random weights"
    return (0.65 if labelled.width >= WIDE else 0.75), f"pretrained, width {labelled.width}"


def _rounded(number: float) -> float:
    """Return a number with four digits."""
    return float(f"{number:.4g}")
