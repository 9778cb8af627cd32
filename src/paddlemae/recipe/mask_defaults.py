"""Defaults of a segmentation by the number of images with masks and the width of the encoder.

They are for settings that neither user nor recipe names. Small encoders, pretrained on the images themselves, take ten
times the learning rate of ViT-Base, whose own is that of the paper (MAE, appendix A.4); random weights take half.
"""

from __future__ import annotations

from paddlemae.recipe.label_defaults import CHECKPOINTS, EVALUATIONS, NARROW, WIDE, Choice, open_names, with_values
from paddlemae.recipe.segmentation import SegmentRecipe

BATCH_SIZE = 16
FEWEST_STEPS, FEWEST_EPOCHS = 1500, 20  # whichever is longer
WARMUP_SHARE = 0.1
NARROW_LR, MIDDLE_LR, WIDE_LR = 1e-3, 5e-4, 1e-4  # peak, by the width of the encoder


def choose_for_masks(
    recipe: SegmentRecipe, images: int, width: int, *, is_pretrained: bool
) -> tuple[SegmentRecipe, tuple[Choice, ...]]:
    """Return the recipe with every setting that nobody named, and what was chosen.

    Args:
        images: to train on.
        width: of the encoder.
    """
    still_open, training = open_names(recipe), recipe.training
    batch_size = BATCH_SIZE if "training.batch_size" in still_open else training.batch_size
    per_step = batch_size * training.accumulation_steps
    if "training.epochs" in still_open:
        steps = training.steps or max(FEWEST_STEPS, round(FEWEST_EPOCHS * images / per_step))
        epochs = _rounded(steps * per_step / images)
    else:
        epochs = training.total_steps(images) * per_step / images if training.steps else training.epochs
    lr, wide = _peak_lr(width), f"width {width}"
    lr, wide = (lr, wide) if is_pretrained else (lr / 2, f"{wide}, random weights")
    decay = (0.65 if width >= WIDE else 0.75) if is_pretrained else 1.0
    choices = [
        Choice("training.batch_size", batch_size, "for crops of scenes"),
        Choice("training.epochs", epochs, f"{images:,} images with masks"),
        Choice("training.warmup_epochs", _rounded(WARMUP_SHARE * epochs), f"{WARMUP_SHARE:.0%} of the run"),
        Choice("training.base_lr", lr * 256 / per_step, f"peak lr {lr:g}: {wide}"),
        Choice("layer_decay", decay, f"pretrained, {wide}" if is_pretrained else "random weights"),
        Choice("evaluate_every", max(1.0, _rounded(epochs / EVALUATIONS)), f"about {EVALUATIONS} evaluations"),
        Choice(
            "training.checkpoint_every", max(1.0, _rounded(epochs / CHECKPOINTS)), f"about {CHECKPOINTS} checkpoints"
        ),
    ]
    if training.steps and "training.epochs" not in still_open:  # the warmup keeps its share of the epochs
        choices = [choice for choice in choices if choice.name != "training.warmup_epochs"]
    made = tuple(choice for choice in choices if choice.name in still_open)
    return with_values(recipe, {choice.name: choice.value for choice in made}), made


def _peak_lr(width: int) -> float:
    if width <= NARROW:
        return NARROW_LR
    return MIDDLE_LR if width < WIDE else WIDE_LR


def _rounded(number: float) -> float:
    """Return a number with four digits."""
    return float(f"{number:.4g}")
