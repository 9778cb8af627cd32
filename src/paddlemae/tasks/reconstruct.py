"""Draw what a pretrained model makes of images that it sees only in part."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from paddlemae.data.decode.images import ARRAY_EXTENSION, EXTENSIONS, UnreadableImage, read_image
from paddlemae.data.sources import open_source
from paddlemae.data.sources.output_folders import check_outside
from paddlemae.data.views.augment import eval_view
from paddlemae.engine import device
from paddlemae.model.mae import MaskedAutoencoder, reconstruct
from paddlemae.model.masking import Mask
from paddlemae.runs.figures import draw_reconstructions
from paddlemae.system.display_names import say
from paddlemae.tasks.models.build import load_autoencoder
from paddlemae.tasks.models.mask_choice import MaskChoice, choose_mask
from paddlemae.tasks.models.preprocess import evaluation_view, grey_of, to_input, to_pictures
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.weights.model_folder import Description

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
RAW_CAPTION = (
    "{removed} of {total} patches removed. The model predicts raw pixels; it learned that for removed patches only, so "
    "what it predicts in place of visible ones means nothing."
)
NORMALISED_CAPTION = (
    "{removed} of {total} patches removed. This model predicts pixels normalised per patch: each predicted patch is "
    "shown with the mean and deviation of the original patch, which the model did not see, so colours and contrast "
    "look better than it knows."
)
PLAIN_CAPTION = (
    "{removed} of {total} patches removed. This model predicts pixels normalised per patch; the prediction is shown "
    "plain, as the decoder gives it, without the original patches' mean and deviation."
)


def reconstruct_images(
    run: str | Path,
    images: list[str],
    out: Path,
    *,
    choice: MaskChoice,
    limit: int = 8,
    plain: bool = False,
    device_name: str = "auto",
    trust: bool = False,
) -> Path:
    """Draw reconstructions of image files, folders of them or the embedded digits into one figure.

    Args:
        run: a pretraining run or one of its checkpoints.
        images: files, folders, or "digits".
        out: the picture to write.
        limit: images to draw at most.
        plain: show the decoder's output as it is instead of with the original patches' statistics.
        trust: see `read_checkpoint`.
    Returns:
        `out`.
    Raises:
        FileNotFoundError, ValueError: no such run, images or mask, or an image that can't be read.
    """
    check_picture(out)
    check_outside(out, images)
    device.prepare(device_name)
    checkpoint = read_checkpoint(run, trust=trust)
    model = load_autoencoder(checkpoint)
    if plain and checkpoint.description.target == "raw":
        warnings.warn("--plain has no effect: this model predicts raw pixels", stacklevel=2)
        plain = False
    names, pixels = read_views(images, checkpoint.description, limit)
    mask = choose_mask(choice, model.grid, len(pixels), model.patch_size)
    draw(out, model, checkpoint.description, pixels, mask, names=names, plain=plain)
    return out


def check_picture(out: Path) -> None:
    """Raise a ValueError if no picture can be written to a file that is called so."""
    if out.suffix.lower() not in PICTURES:
        raise ValueError(f"--out must be a picture's name that ends in {', '.join(PICTURES)}; got {out}")
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name a picture to write with --out")


def read_views(images: list[str], description: Description, limit: int) -> tuple[list[str], np.ndarray]:
    """(names, uint8 [B, C, H, W]) of the first images that `images` name, as the model looks at them.

    Unreadable ones are named on stderr and left out.

    Raises:
        ValueError: none can be read.
    """
    view = evaluation_view(description)
    names: list[str] = []
    views: list[np.ndarray] = []
    faults: list[UnreadableImage] = []
    for item in images:
        for name, read in _readers(item, view.channels, limit):
            if len(views) == limit:
                break
            try:
                views.append(eval_view(read(), view))
                names.append(name)
            except UnreadableImage as fault:
                faults.append(fault.without_frames())
    if not views:
        more = f" (and {len(faults) - 1} more can't be read either)" if len(faults) > 1 else ""
        raise ValueError(f"{faults[0]}{more}")
    for unreadable in faults:
        say(f"skipped: {unreadable}", error=True)
    return names, np.stack(views)


def _readers(item: str, channels: int, limit: int) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """A name and a way to read it for each image that `item` names: an image file, or a source's images."""
    path = Path(item)
    if path.is_file() and path.suffix.lower() in (*EXTENSIONS, ARRAY_EXTENSION):
        yield path.name, partial(read_image, path, channels)
        return
    source = open_source(item, "test" if item == "digits" else None)
    # spread over the source, since neighbours in a folder are often of one class
    for index in np.linspace(0, len(source) - 1, min(limit, len(source))).astype(int):
        yield Path(source.describe(int(index))).name, partial(source.read, int(index), channels)


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
    drawn = drawn_pictures(model, description, images_u8, mask)
    shown = ("plain prediction",) if plain else ("prediction", "prediction + visible")
    stages = {name: drawn[name] for name in ("original", "masked", *shown)}
    draw_reconstructions(path, list(stages), list(stages.values()), caption_of(description, mask, plain), names or [])


def drawn_pictures(
    model: MaskedAutoencoder, description: Description, images_u8: np.ndarray, mask: Mask
) -> dict[str, np.ndarray]:
    """Every stage of a reconstruction by its name, uint8 [B, H, W, C] each; see `model.mae.Reconstruction`."""
    grey = grey_of(description)
    drawn = reconstruct(model, to_input(images_u8, description), mask, fill=grey)
    stages = {
        "original": drawn.original,
        "masked": drawn.masked,
        "prediction": drawn.prediction,
        "prediction + visible": drawn.completed,
        "plain prediction": drawn.plain,
    }
    return {name: to_pictures(stage, description) for name, stage in stages.items()}


def caption_of(description: Description, mask: Mask, plain: bool = False) -> str:
    """What must be known to read a reconstruction right."""
    normalised = description.target == "normalised"
    caption = (PLAIN_CAPTION if plain else NORMALISED_CAPTION) if normalised else RAW_CAPTION
    return caption.format(removed=mask.removed.shape[1], total=mask.as_map().shape[1])
