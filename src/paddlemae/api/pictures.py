"""Pictures that a notebook shows: reconstructions."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.runs.figures import draw_reconstructions

SHOWN = 8  # images of a notebook's picture


@dataclass(frozen=True, eq=False)
class Pictures:
    """Reconstructions, uint8 [N, H, W, C] each; a notebook shows the first ones as a figure.

    Attributes:
        original: the images as the model sees them.
        masked: removed patches in grey.
        prediction: every patch as predicted, with `norm_pix_loss` brought to the original patch's mean and deviation.
        completed: `prediction` with the visible patches put back.
        plain: the decoder's output as it is.
        removed: bool [N, rows, columns], True where a patch was removed.
        caption: what must be known to read them right.
    """

    original: np.ndarray
    masked: np.ndarray
    prediction: np.ndarray
    completed: np.ndarray
    plain: np.ndarray
    removed: np.ndarray
    caption: str

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure of all images; the name's ending says how (.png, .pdf ...)."""
        self._draw(Path(path), len(self.original))
        return Path(path)

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self._draw(content, SHOWN)
        return content.getvalue()

    def _draw(self, to: Any, count: int) -> None:
        stages = {name: getattr(self, name)[:count] for name in ("original", "masked", "prediction", "completed")}
        draw_reconstructions(to, list(stages), list(stages.values()), self.caption)
