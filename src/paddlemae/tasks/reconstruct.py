"""Draw a pretrained model's reconstructions of images that it sees only in part."""

from __future__ import annotations

import warnings
from pathlib import Path

from paddlemae.data.sources.output_folders import check_outside
from paddlemae.engine import device
from paddlemae.runs.figures import check_picture
from paddlemae.tasks.models.build import load_autoencoder
from paddlemae.tasks.models.mask_choice import MaskChoice, choose_mask
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.models.read_views import read_views
from paddlemae.tasks.models.reconstruction import draw


def reconstruct_images(
    run: str | Path,
    images: list[str],
    out: Path,
    *,
    choice: MaskChoice,
    limit: int = 8,
    plain: bool = False,
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
    device.prepare("auto")
    checkpoint = read_checkpoint(run, trust=trust)
    model = load_autoencoder(checkpoint)
    if plain and checkpoint.description.target == "raw":
        warnings.warn("--plain has no effect: this model predicts raw pixels", stacklevel=2)
        plain = False
    names, pixels = read_views(images, checkpoint.description, limit)
    mask = choose_mask(choice, model.grid, len(pixels), model.encoder.patch_size)
    draw(out, model, checkpoint.description, pixels, mask, names=names, plain=plain)
    return out
