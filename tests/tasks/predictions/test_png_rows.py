"""PNGs that are written row by row are those that any program reads."""

import io

import numpy as np
import pytest
from PIL import Image

from paddlemae.tasks.predictions.png_rows import PngRows


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_values_and_palette_are_read_back(rows) -> None:
    values = np.random.default_rng(0).integers(0, 5, (17, 29)).astype(np.uint8)
    palette = np.random.default_rng(1).integers(0, 256, (5, 3)).astype(np.uint8)
    file = io.BytesIO()
    writer = PngRows(file, values.shape, palette)
    for top in range(0, len(values), rows):
        writer.add(values[top : top + rows])
    writer.finish()
    with Image.open(file) as image:
        image.load()
        assert image.mode == "P" and image.getpalette()[:15] == palette.ravel().tolist()
        np.testing.assert_array_equal(np.asarray(image), values)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[values])


def test_values_above_255_are_16_bit_gray() -> None:
    values = np.arange(12).reshape(3, 4) * 5000
    file = io.BytesIO()
    writer = PngRows(file, values.shape, None)
    writer.add(values)
    writer.finish()
    with Image.open(file) as image:
        np.testing.assert_array_equal(np.asarray(image), values)


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="0 x 4"):
        PngRows(io.BytesIO(), (0, 4), None)
