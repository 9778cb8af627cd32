"""What the tests of tasks share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def some_bad(tmp_path) -> Path:
    """12 pictures, of which the second and all of the second part are none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        if number in (1, 4, 5, 6, 7):
            (folder / f"{number:02}.png").write_bytes(b"no image")
    return folder
