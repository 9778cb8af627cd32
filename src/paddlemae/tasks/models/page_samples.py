"""What a page shows of a model from the start: sample images with their features, and captions.

Shapes: N images, B of a batch, C channels, H x W pixels, D width.
"""

from __future__ import annotations

import re

import numpy as np

from paddlemae.engine.safe_import import F, paddle
from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.encoder import evaluating, features
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.segmenter import Segmenter
from paddlemae.page.bundle import Samples
from paddlemae.system.display_names import display_name, say
from paddlemae.tasks.models.preprocess import to_input
from paddlemae.tasks.models.read_model import Checkpoint
from paddlemae.tasks.models.read_views import read_views
from paddlemae.tasks.models.reconstruction import NORMALISED_CAPTION, PLAIN_CAPTION, RAW_CAPTION
from paddlemae.weights.model_folder import Description

Model = MaskedAutoencoder | VisionTransformer | Segmenter
CAPTIONS = {"raw": RAW_CAPTION, "normalised": NORMALISED_CAPTION, "plain": PLAIN_CAPTION}
DEFAULT_SAMPLES = 12
PART = re.compile(r"^(\d+ of )+| \((train|test|fit|val)\)$")  # how a source's name says that it is a part of another


def choose_samples(checkpoint: Checkpoint, model: Model, images: list[str], limit: int) -> Samples:
    """Return the images that a page shows, with their features.

    Args:
        images: files, folders, lists ... or "digits"; none takes images of the data that the model was trained on,
            where they can be read.
    """
    description = checkpoint.description
    found = read_views(images, description, limit) if images else own_views(description, limit)
    if found is None:
        return Samples([], np.zeros((0, 1, 1, 1), np.uint8))
    names, pixels = found
    with evaluating(model), paddle.no_grad():
        features_ND = image_features(model, to_input(pixels, description)).numpy()
    return Samples([display_name(name) for name in names], pixels, features_ND)


def own_views(description: Description, limit: int) -> tuple[list[str], np.ndarray] | None:
    """Return (names, pixels) of some images of the data that the model was trained on; None if they can't be read."""
    data = PART.sub("", str(description.provenance.get("data", "")))
    fault: Exception | None = None
    for split in ("test", "train"):
        try:
            return read_views([data], description, limit, split)
        except (ValueError, OSError) as found:
            fault = found
    say(f"no sample images: those of the training can't be read ({display_name(fault)}); name others", error=True)
    return None


def pool_of(model: Model) -> str:
    """Return which tokens make a feature of an image."""
    if isinstance(model, Segmenter):
        return "cls" if model.encoder.has_cls else "mean"
    return model.pool


def image_features(model: Model, images_BCHW: paddle.Tensor) -> paddle.Tensor:
    """Return one feature of length 1 for each whole image, [B, D], pooled as `pool_of` says.

    It is taken behind the encoder's last norm; a segmenter whose head reads several blocks has none.
    """
    return F.normalize(features(model, images_BCHW, pool_of(model), normalise=model.encoder.has_norm), axis=-1)
