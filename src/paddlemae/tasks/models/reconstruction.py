"""Draw reconstructions: the stages of each image, and the caption that explains them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paddlemae.data.decode.display import FULL, WHITE, brightened_range, show_range, stretched_range
from paddlemae.model.mae import MaskedAutoencoder, reconstruct
from paddlemae.model.masking import Mask
from paddlemae.runs.figures import draw_reconstructions
from paddlemae.tasks.models.preprocess import to_input, to_shares
from paddlemae.weights.model_folder import Description

GREY = 128  # of removed patches
RAW_CAPTION = (
    "{removed} of {total} patches removed. The model predicts raw pixels; it learned that for removed patches only, so "
    "what it predicts in place of visible ones means nothing."
)
NORMALISED_CAPTION = (
    "{removed} of {total} patches removed. This model predicts pixels normalised per patch: each predicted patch is "
    "shown with the mean and deviation of the original patch, which the model did not see, so colours and contrast "
    "look better than it knows. It learned that for removed patches only, so what it predicts in place of visible ones "
    "means nothing."
)
PLAIN_CAPTION = (
    "{removed} of {total} patches removed. This model predicts pixels normalised per patch; the prediction is shown "
    "plain, as the decoder gives it, without the original patches' mean and deviation."
)


def draw(
    path: Path,
    model: MaskedAutoencoder,
    description: Description,
    images_u8: np.ndarray,
    mask: Mask,
    *,
    names: list[str] | None = None,
    plain: bool = False,
) -> None:
    """Write the figure: original, masked, prediction, prediction with the visible patches put back."""
    drawn = draw_stages(model, description, images_u8, mask)
    shown = ("plain prediction",) if plain else ("prediction", "prediction + visible")
    stages = {name: drawn[name] for name in ("original", "masked", *shown)}
    draw_reconstructions(path, list(stages), list(stages.values()), caption_of(description, mask, plain), names or [])


def draw_stages(
    model: MaskedAutoencoder, description: Description, images_u8: np.ndarray, mask: Mask
) -> dict[str, np.ndarray]:
    """Return every stage of a reconstruction by its name, uint8 [B, H, W, C] each; see `model.mae.Reconstruction`.

    Dark images, as of fluorescence, are shown brighter, in each stage alike.
    """
    drawn = reconstruct(model, to_input(images_u8, description), mask)
    prediction, completed, plain = (
        to_shares(stage, description) for stage in (drawn.prediction, drawn.completed, drawn.plain)
    )
    images_BHWC = images_u8.transpose(0, 2, 3, 1)
    is_deep = images_u8.dtype != np.uint8
    shares_BHWC = images_BHWC / np.float32(WHITE if is_deep else 255)
    shown = stretched_range(shares_BHWC) if is_deep else brightened_range(shares_BHWC)
    original = show_range(shares_BHWC, shown)
    rows, columns = model.encoder.patch_size
    removed_BHW = mask.as_map().reshape(-1, *model.grid).repeat(rows, axis=1).repeat(columns, axis=2)
    return {
        "original": original,
        "masked": np.where(removed_BHW[..., None], np.uint8(GREY), original),
        "prediction": show_range(prediction, shown),
        "prediction + visible": show_range(completed, shown),
        "plain prediction": show_range(plain, stretched_range(plain) if is_deep else FULL),
    }


def caption_of(description: Description, mask: Mask, plain: bool = False) -> str:
    """Return the caption that a reader of a reconstruction needs."""
    normalised = description.target == "normalised"
    caption = (PLAIN_CAPTION if plain else NORMALISED_CAPTION) if normalised else RAW_CAPTION
    return caption.format(removed=mask.removed.shape[1], total=mask.as_map().shape[1])
