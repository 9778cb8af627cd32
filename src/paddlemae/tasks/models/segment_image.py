"""Segment whole images of any size as a segmenter's description says: in windows, at its scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from paddlemae.model.segmenter import Segmenter
from paddlemae.model.shape import pair
from paddlemae.tasks.models.inference import Logits, forward_function
from paddlemae.tasks.models.windows import Blend, Windows, whole_logits
from paddlemae.weights.model_folder import Description

Segment = Callable[[np.ndarray], np.ndarray]


def segment_function(
    model: Segmenter,
    description: Description,
    windows: Windows,
    threads: int | str = "auto",
    precision: str = "float32",
) -> Segment:
    """Return a function from a whole image, uint8 or uint16 [C, H, W], to its logits, float32 [K, H, W].

    Args:
        windows: how an image is cut; their scales are factors on what the description says.
        threads, precision: as in `device.prepare`.
    """
    forward = forward_function(model, description, Logits(precision), threads=threads)

    def segment(image_CHW: np.ndarray) -> np.ndarray:
        return whole_logits(forward, image_CHW, fit_windows(windows, description, image_CHW.shape[1:]))

    return segment


def windows_of(description: Description, overlap: float, blend: Blend, batch_size: int) -> Windows:
    """Return windows of the size that a segmenter was trained with."""
    return Windows(pair(description.architecture["image_size"]), overlap, blend, batch_size=batch_size)


def fit_windows(windows: Windows, description: Description, size: tuple[int, ...]) -> Windows:
    """Return the windows for an image of (height, width): their scales bring its short side to the description's."""
    if description.short_side is None:
        return windows
    factor = description.short_side / min(size)
    return replace(windows, scales=tuple(scale * factor for scale in windows.scales))
