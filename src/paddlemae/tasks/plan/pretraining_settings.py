"""Write a chosen pretraining as settings of a recipe, each with its reason."""

from __future__ import annotations

from typing import Any

from paddlemae.data.decode.pixel_format import default_bits
from paddlemae.tasks.plan import rules
from paddlemae.tasks.plan.data_survey import DataSurvey
from paddlemae.tasks.plan.plan import Choice, Settings

SAVE_SECONDS, FEWEST_SAVES = 300.0, 4  # between checkpoints, and how many of them
WARMUP, WARMUP_OF_FEW = 0.05, 0.1  # share of the run
FEW_UPDATES = 1_000
LEAST_STD = 1e-6


def pretraining_settings(
    data: str,
    survey: DataSurvey,
    shape: rules.Shape,
    course: rules.Course,
    reading: rules.Input,
    *,
    cache: str | None,
    seconds_a_view: float,
    machine: Settings,
) -> dict[str, Choice]:
    """Return the settings of a pretraining, full key -> choice, in the order of a recipe.

    Args:
        cache: a folder for a packed copy of the images; None for none.
        seconds_a_view: as measured, with reading.
        machine: see `machine`.
    """
    settings = {"data": Choice(data, f"{survey.images:,} images")}
    settings |= statistics_settings(survey)
    settings |= model_settings(survey, shape)
    settings |= _augmentation(survey, shape)
    settings |= _training(survey, shape, course, seconds_a_view)
    return {**settings, **reading_settings(reading, cache, shape), **machine}


def statistics_settings(survey: DataSurvey) -> dict[str, Choice]:
    """Return mean and std of each channel."""
    reason = f"measured on {survey.read:,} of the images"
    flat = ", and 1 where nothing varies" if min(survey.std) < LEAST_STD else ""
    std = [value if value >= LEAST_STD else 1.0 for value in survey.std]
    return {"mean": Choice(list(survey.mean), reason), "std": Choice(std, reason + flat)}


def model_settings(survey: DataSurvey, shape: rules.Shape) -> dict[str, Choice]:
    """Return the settings of the model, and of what is removed from its images."""
    model, mask = shape.model, shape.mask_ratio
    floor, why_floor = rules.norm_pix_floor(survey)
    few = f"few patches ({shape.patches}), so fewer are removed"
    return {
        "mask_ratio": Choice(mask, "MAE's" if mask == 0.75 else few),
        "model.image_size": Choice(_size(shape), _why_size(survey, shape)),
        "model.patch_size": Choice(shape.patch_size, f"{shape.patches} patches an image"),
        "model.channels": Choice(survey.channels, _why_channels(survey)),
        "model.embed_dim": Choice(model.width, shape.why_model),
        "model.depth": Choice(model.depth, "goes with the width"),
        "model.num_heads": Choice(model.heads, f"{model.width // model.heads} values a head"),
        "model.decoder_embed_dim": Choice(model.decoder_width, "a narrow decoder leaves time for the encoder"),
        "model.decoder_depth": Choice(model.decoder_depth, "a shallow one, too"),
        "model.decoder_num_heads": Choice(
            model.decoder_heads, f"{model.decoder_width // model.decoder_heads} values a head"
        ),
        "model.norm_pix_loss": Choice(True, "patches normalised by their own mean and deviation give better features"),
        **({"model.norm_pix_floor": Choice(floor, why_floor)} if floor else {}),
    }


def _size(shape: rules.Shape) -> Any:
    height, width = shape.image_size
    return height if height == width else [height, width]


def _why_size(survey: DataSurvey, shape: rules.Shape) -> str:
    own = f"{survey.height.median:.0f} x {survey.width.median:.0f}"
    side = shape.side
    if shape.scene:
        return f"windows, in which things of some pixels are told apart, of images of {own} pixels"
    if side >= survey.short_side:
        return f"all of the images' {own} pixels"
    kept = survey.kept.get(max((known for known in survey.kept if known <= side), default=0))
    share = f"keeps {kept.structure:.0%} of their variance and {kept.detail:.0%} of their edges" if kept else ""
    why = "all that the time allows" if side < shape.wanted else share
    return f"of {own} pixels; {why}"


def _why_channels(survey: DataSurvey) -> str:
    if survey.is_gray:
        return "stored as colours, all of them gray"
    return "as stored: " + ", ".join(survey.stored)


def _augmentation(survey: DataSurvey, shape: rules.Shape) -> dict[str, Choice]:
    scale, why = rules.crop_scale(survey, shape)
    return {
        "augment.crop_scale": Choice(list(scale), why),
        **rectangle_settings(survey, shape),
        "augment.flip": Choice(True, "usual; set false for text, digits and whatever has a left and a right"),
        "augment.fit": Choice(*rules.choose_fit(survey, shape)),
        "augment.eval_crop_ratio": Choice(1.0, "evaluation sees as much of an image as fits"),
    }


def rectangle_settings(survey: DataSurvey, shape: rules.Shape) -> dict[str, Choice]:
    """Return the settings of the views that fine-tuning shares: crops of rectangles, and bits."""
    settings = {}
    if shape.image_size[0] != shape.image_size[1]:
        settings["augment.crop_ratio"] = Choice(list(rules.crop_ratio(shape)), "3/4 to 4/3 of the images' own shape")
    if survey.bits == 16 and default_bits(survey.channels) == 8:
        settings["augment.bits"] = Choice(16, "images are stored with 16 bits")
    return settings


def _training(survey: DataSurvey, shape: rules.Shape, course: rules.Course, seconds_a_view: float) -> dict[str, Choice]:
    epochs = digits(course.views / survey.images)
    share = WARMUP if course.updates >= FEW_UPDATES else WARMUP_OF_FEW
    lr = rules.base_lr(shape, course.batch_size)
    seconds = course.views * seconds_a_view
    minutes = min(seconds / FEWEST_SAVES, SAVE_SECONDS) / 60
    return {
        "training.batch_size": Choice(course.batch_size, f"{course.updates:,} updates"),
        "training.epochs": Choice(epochs, f"{course.views:,} views at {1 / seconds_a_view:,.0f} a second"),
        "training.warmup_epochs": Choice(digits(share * epochs), f"{share:.0%} of the run"),
        "training.base_lr": Choice(lr, f"{lr * course.batch_size / 256:.2g} at this batch size"),
        "training.checkpoint_every": Choice(digits(epochs * 60 * minutes / seconds), f"every {minutes:.1f} minutes"),
    }


def reading_settings(reading: rules.Input, cache: str | None, shape: rules.Shape) -> dict[str, Choice]:
    """Return how images are read."""
    settings = {"training.workers": Choice(reading.workers, reading.reason)}
    if cache:
        settings["training.cache"] = Choice(cache, "a packed copy of the images, made once; may be deleted at any time")
        if shape.scene:
            settings["training.cache_size"] = Choice(shape.scene, "as segmentation sees the images")
    return settings


def machine(device: str, seed: int, precision: str) -> dict[str, Choice]:
    """Return what the user named, and what an accelerator adds."""
    settings = {} if precision == "float32" else {"training.precision": Choice(precision, "faster on accelerators")}
    if device != "auto":
        settings["training.device"] = Choice(device, "as asked for")
    if seed:
        settings["training.seed"] = Choice(seed, "as asked for")
    return settings


def digits(value: float) -> float:
    """Return a number with three digits, a whole one from 100 on."""
    return float(f"{value:.3g}") if value < 100 else float(round(value))
