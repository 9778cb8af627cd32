"""Images of things under several exposures, whose names count as a camera's do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SHOTS = 4


def write_exposures(folder: Path, things: int, classes: Sequence[str] = ("bad", "good")) -> list[str]:
    """Write `SHOTS` images of each thing below the folder of its class; return the name of each image's thing.

    The names of images are `exp{shot}_num_{number}.png`; the things of a class are 1,000 apart.
    """
    random = np.random.default_rng(0)
    found = []
    for offset, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for thing in range(things):
            base = random.integers(0, 200, (16, 18))
            for shot in range(SHOTS):
                pixels = np.clip(base * (1 + 0.1 * shot) + random.integers(-40, 41, base.shape), 0, 255)
                number = 1000 * (len(classes) * thing + offset) + 7 * shot
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"exp{shot}_num_{number}.png")
                found.append(f"{name}-{number // 1000}")
    return found


def thing_of(path: str) -> str:
    """Return the name of the thing that an image of `write_exposures` shows."""
    folder, _, name = path.rpartition("/")
    return f"{folder.rpartition('/')[2]}-{int(name.rpartition('_')[2].removesuffix('.png')) // 1000}"
