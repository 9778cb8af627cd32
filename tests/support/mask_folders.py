"""Write small folders of images with masks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def scene(number: int, classes: int = 3, size: tuple[int, int] = (12, 16)) -> tuple[np.ndarray, np.ndarray]:
    """Return (image uint8 [H, W, 3], ids uint8 [H, W]) with all classes in blocks of columns."""
    rng = np.random.default_rng(number)
    ids = np.tile((np.arange(size[1]) * classes // size[1]).astype(np.uint8), (size[0], 1))
    return rng.integers(0, 256, (*size, 3), np.uint8), ids


def save(path: Path, pixels: np.ndarray, **settings: object) -> Path:
    """Write pixels as the image file that the path's ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)
    return path


def write_pairs(
    root: Path, splits: Sequence[str] = ("train", "test"), count: int = 4, *, classes: int = 3, factor: int = 1
) -> Path:
    """Write `images/SPLIT/N.jpg` and `masks/SPLIT/N.png`, whose ids are multiplied by `factor`."""
    for place, split in enumerate(splits):
        for number in range(count):
            image, ids = scene(100 * place + number, classes)
            save(root / "images" / split / f"{number}.jpg", image)
            save(root / "masks" / split / f"{number}.png", ids * np.uint8(factor))
    return root
