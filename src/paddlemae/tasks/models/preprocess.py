"""Turn images into a model's input and back: views, statistics, normalisation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from paddlemae.data.decode.pixel_format import default_bits
from paddlemae.data.views.augment import View
from paddlemae.data.views.randaugment import RandAugment
from paddlemae.engine.safe_import import paddle
from paddlemae.engine.tensors import tensor_of
from paddlemae.model.kernels.rows import scale_channels
from paddlemae.model.shape import pair
from paddlemae.recipe import (
    AUTO,
    Augmentation,
    FinetuneAugmentation,
    FinetuneRecipe,
    PretrainRecipe,
    SegmentRecipe,
    default_statistics,
)
from paddlemae.tasks.models.read_model import Checkpoint
from paddlemae.weights.model_folder import Description


def statistics_of(
    recipe: PretrainRecipe | FinetuneRecipe | SegmentRecipe, channels: int, checkpoint: Checkpoint | None = None
) -> tuple[Sequence[float], Sequence[float]]:
    """Return (mean, std): the recipe's, else those that the checkpoint was trained with, else the defaults.

    Raises:
        ValueError: not one number a channel.
    """
    trained, origin = (checkpoint.description, checkpoint.folder) if checkpoint else (None, None)
    mean: Sequence[float]
    std: Sequence[float]
    mean, std = (trained.mean, trained.std) if trained else default_statistics(channels)
    mean = mean if recipe.mean in (None, AUTO) else recipe.mean
    std = std if recipe.std in (None, AUTO) else recipe.std
    if len(mean) != channels or len(std) != channels:
        instead = (
            f"mean=null std=null takes those of {origin}"
            if trained
            else "mean=auto std=auto computes those of your images"
        )
        raise ValueError(
            f"mean and std need one number per channel ({channels}); got {list(mean)} and {list(std)}; {instead}"
        )
    if trained and not np.allclose((mean, std), (trained.mean, trained.std)):
        warnings.warn(f"the recipe normalises images differently from {origin}", stacklevel=3)
    if not trained and not recipe.mean and (recipe.augment.bits or default_bits(channels)) == 16:
        warnings.warn(
            "16-bit images are normalised with mean and std of photographs, which rarely fit; set their own mean and "
            "std (a channel, as parts of 65535), or mean=auto std=auto",
            stacklevel=3,
        )
    return mean, std


def training_view(
    augment: Augmentation,
    image_size: int | Sequence[int],
    channels: int,
    mean: Sequence[float] = (),
    bits: Literal[8, 16] | None = None,
) -> View:
    """Return the random views of a recipe's augmentation.

    Args:
        mean: in [0, 1] a channel, fills what RandAugment uncovers.
        bits: of a channel's value, if the recipe names none.
    """
    shared = {name: getattr(augment, name) for name in Augmentation.model_fields}
    shared["bits"] = augment.bits or bits
    view = View(image_size=pair(image_size), channels=channels, **shared)
    if not isinstance(augment, FinetuneAugmentation) or not augment.randaugment:
        return view
    fill = tuple(min(255, round(255 * value)) for value in mean)
    drawn = RandAugment(augment.randaugment, augment.magnitude, augment.magnitude_std, fill=fill)
    return replace(view, randaugment=drawn)


def evaluation_view(description: Description) -> View:
    """Return the view through which a saved model sees images."""
    shape = description.architecture
    return View(
        image_size=pair(shape["image_size"]),
        channels=shape["channels"],
        eval_crop_ratio=description.eval_crop_ratio,
        fit=description.fit,
        bits=description.bits,
    )


def _pixel_statistics(description: Description) -> tuple[np.ndarray, np.ndarray]:
    """Return (mean, std), float32 [1, C, 1, 1] each."""
    mean, std = (np.asarray(values, np.float32).reshape(1, -1, 1, 1) for values in (description.mean, description.std))
    return mean, std


def to_input(images: np.ndarray, description: Description) -> paddle.Tensor:
    """Return normalised float32 images [B, C, H, W] from uint8 or uint16 ones, on the model's device."""
    if images.dtype == np.uint16:  # which Paddle takes for bfloat16
        return normalise(tensor_of(images.astype(np.int32)), description, white=65535)
    return normalise(tensor_of(images), description)


def normalise(images: paddle.Tensor, description: Description, white: int = 255) -> paddle.Tensor:
    """Normalise images that are on the device already; `white` is the largest value of their depth."""
    mean, std = (values.ravel() for values in _pixel_statistics(description))
    return scale_channels(images.astype("float32"), tensor_of(1 / (white * std)), tensor_of(-mean / std))


def to_shares(images: paddle.Tensor, description: Description) -> np.ndarray:
    """Return normalised images as shares of white, float32 [B, H, W, C], 0 to 1 where pixels could be so."""
    mean, std = _pixel_statistics(description)
    return (images.numpy() * std + mean).transpose(0, 2, 3, 1)
