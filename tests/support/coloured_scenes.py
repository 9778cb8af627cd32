"""Write images whose classes are colours, with their masks: a segmenter learns them in a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ground", "water", "roof")
COLOURS = np.array([[40, 160, 60], [30, 60, 200], [210, 60, 40]], np.uint8)


def coloured_scene(number: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (image uint8 [H, W, 3], ids uint8 [H, W]): rectangles of two classes on ground, one row of 255."""
    rng = np.random.default_rng(number)
    ids = np.zeros(size, np.uint8)
    for label in (1, 2, 1, 2):
        top, left = rng.integers(0, size[0] - 6), rng.integers(0, size[1] - 6)
        ids[top : top + rng.integers(5, 12), left : left + rng.integers(5, 12)] = label
    noise = rng.integers(-20, 21, (*size, 3))
    image = np.clip(COLOURS[ids].astype(int) + noise, 0, 255).astype(np.uint8)
    ids[0] = 255
    return image, ids


def write_scenes(root: Path, train: int = 12, test: int = 5, size: tuple[int, int] = (24, 32)) -> Path:
    """Write images/SPLIT/N.png, masks/SPLIT/N.png and classes.txt."""
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            image, ids = coloured_scene(number + 1000 * (split == "test"), size)
            for folder, pixels in (("images", image), ("masks", ids)):
                path = root / folder / split / f"{number:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root
