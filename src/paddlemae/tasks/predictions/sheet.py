"""Draw a contact sheet of the images that a classifier is least sure of."""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Iterable
from pathlib import Path

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.inspect.small_pictures import small_picture
from paddlemae.runs.contact_sheet import Block, draw_sheet
from paddlemae.tasks.predictions.rows import Layout, Prediction

SHOWN = 42  # images, in rows of seven
TILE = 136  # pixels
_NAMED = 2  # classes below a picture
ENDING = ".png"


def check_sheet(path: Path) -> None:
    """Raise a ValueError if no sheet can be written to a file that is called so."""
    if path.suffix.lower() != ENDING:
        raise ValueError(f"expected --sheet FILE{ENDING}; got {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file with --sheet")


def draw_least_sure(path: Path, predictions: Iterable[Prediction], layout: Layout, channels: int) -> int:
    """Draw the images of the lowest probability, the least sure first, each above its likeliest classes and its name.

    Args:
        layout: of the table of these predictions.
        channels: as images are read for the classifier.
    Returns:
        how many are drawn.
    """
    readable = (prediction for prediction in predictions if prediction.error is None)
    chosen = heapq.nsmallest(SHOWN, readable, key=lambda prediction: (prediction.probabilities[0], prediction.image))
    blocks = []
    for prediction in chosen:
        with contextlib.suppress(UnreadableImage):  # it went away since it was predicted
            picture = small_picture(layout.source, prediction.image, channels, TILE)
            blocks.append(Block("", [picture], _captions(prediction, layout)))
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(path, [(f"Least sure: {len(blocks)} of {len(layout.source):,} images", blocks)], TILE)
    return len(blocks)


def _captions(prediction: Prediction, layout: Layout) -> list[str]:
    pairs = zip(prediction.classes[:_NAMED], prediction.probabilities)
    lines = [f"{layout.classes[number]}: {probability:.0%}" for number, probability in pairs]
    if (label := layout.label_of(prediction.image)) is not None:
        lines.append(f"label: {label}")
    return [*lines, os.path.basename(layout.source.describe(prediction.image))]
