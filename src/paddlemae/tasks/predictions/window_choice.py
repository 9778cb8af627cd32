"""Choose windows and colours that fit a segmenter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from paddlemae.data.masks.palette import default_palette
from paddlemae.model.shape import pair
from paddlemae.tasks.models.windows import DEFAULT_OVERLAP, Blend, Flips, Windows
from paddlemae.weights.model_folder import Description

_MOST_AT_ONCE = 16  # windows
_VALUES_AT_ONCE = 1 << 22  # of their pixels


@dataclass(frozen=True)
class WindowChoice:
    """How images are cut into windows; see `Windows` for what is not None.

    Args:
        size: of a window, pixels; None: that of the images that the segmenter was trained on.
        batch_size: None: as many as take little memory.
    """

    size: int | tuple[int, int] | None = None
    overlap: float = DEFAULT_OVERLAP
    blend: Blend = "smooth"
    flips: Flips = "none"
    scales: tuple[float, ...] = (1.0,)
    batch_size: int | None = None

    def of(self, description: Description) -> Windows:
        """Return the windows for a segmenter.

        Raises:
            ValueError: a size that its patches don't divide.
        """
        patch = pair(description.architecture["patch_size"])
        size = pair(description.architecture["image_size"] if self.size is None else self.size)
        if any(side < 1 or side % own for side, own in zip(size, patch)):
            raise ValueError(
                f"--window must be a multiple of the segmenter's patch size, {patch[0]} x {patch[1]}; got "
                f"{size[0]} x {size[1]}"
            )
        values = math.prod(size) * description.architecture["channels"]
        batch_size = self.batch_size or max(2, min(_MOST_AT_ONCE, _VALUES_AT_ONCE // values))
        return Windows(size, self.overlap, self.blend, self.flips, self.scales, batch_size)


def palette_of(description: Description) -> np.ndarray:
    """Return the colours of a segmenter's classes, uint8 [K, 3]."""
    if description.palette is None:
        return default_palette(description.classes)
    return np.array(description.palette, np.uint8)
