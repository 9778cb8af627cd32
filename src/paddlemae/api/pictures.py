"""Results that a notebook shows as pictures: reconstructions, masks."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.runs.contact_sheet import Block, draw_sheet
from paddlemae.runs.figures import draw_reconstructions
from paddlemae.tasks.predictions.mask_files import blend, full_palette, shown_rgb

TILE = 256  # pixels a side of a notebook's picture of a mask
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


@dataclass(frozen=True, eq=False)
class Masks:
    """The classes of the pixels of images; a notebook shows the first images with their colours.

    Attributes:
        classes: names.
        palette: uint8 [K, 3], their colours.
        masks: of each image uint8 or uint16 [H, W], indices of classes; 255 (of more than 255 classes 65535) where
            `min_confidence` leaves none.
        confidence: of each image float32 [H, W], the probability of that class.
        probabilities: of each image float32 [K, H, W], if they were asked for.
        images: of each image [H, W, C], as the model saw it.
    """

    classes: tuple[str, ...]
    palette: np.ndarray
    masks: list[np.ndarray]
    confidence: list[np.ndarray]
    probabilities: list[np.ndarray]
    images: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, number: int) -> np.ndarray:
        return self.masks[number]

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.masks)

    def overlay(self, number: int) -> np.ndarray:
        """Return an image below the colours of its classes, uint8 [H, W, 3]; black leaves it as it is."""
        return blend(self.images[number], self.masks[number], self.palette)

    def colours(self, number: int) -> np.ndarray:
        """Return the colours of an image's classes, uint8 [H, W, 3]."""
        colours = np.zeros((65536, 3), np.uint8)
        colours[:256] = full_palette(self.palette[:255])
        colours[: len(self.palette)] = self.palette
        return colours[self.masks[number]]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a PNG of all images, each with its overlay and its colours."""
        self._draw(Path(path), len(self))
        return Path(path)

    def _repr_png_(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "masks.png"
            self._draw(path, SHOWN)
            return path.read_bytes()

    def _draw(self, path: Path, count: int) -> None:
        blocks = [
            Block("", [shown_rgb(self.images[number]), self.overlay(number), self.colours(number)], [])
            for number in range(min(count, len(self)))
        ]
        draw_sheet(path, [("image, classes over it, classes", blocks)], TILE)
