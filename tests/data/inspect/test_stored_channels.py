"""The channels that images are read with, from how they are stored."""

import io

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.inspect.stored_channels import channels_of, read_forms
from paddlemae.data.sources import as_source


def stored(mode: str, kind: str = "png") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (9, 7)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((7, 9), 1), ((7, 9, 1), 1), ((7, 9, 3), 3), ((3, 7, 9), 3), ((7, 9, 4), 4), ((13, 120, 120), 13)]
    + [((120, 120, 13), 13), ((2, 40, 40), 2)],
)
def test_the_shorter_axis_of_an_array_is_its_channels(shape: tuple[int, ...], channels: int) -> None:
    array = np.zeros(shape, np.uint16)
    file = io.BytesIO()
    np.save(file, array)
    assert channels_of(array) == channels_of(file.getvalue()) == channels


@pytest.mark.parametrize(
    ("content", "channels"),
    [(stored("L"), 1), (stored("I;16"), 1), (stored("LA"), 1), (stored("RGB"), 3), (stored("RGBA"), 3)]
    + [(stored("P"), 3), (stored("RGB", "jpeg"), 3), (stored("CMYK", "jpeg"), 3), (stored("L", "tiff"), 1)]
    + [(stored("RGBA", "tiff"), 3)],
)
def test_files_have_the_channels_of_their_colours(content: bytes, channels: int) -> None:
    assert channels_of(content) == channels


def test_one_image_of_colours_makes_all_of_them_colours() -> None:
    images = [np.zeros((8, 8), np.uint8)] * 5 + [np.zeros((8, 8, 3), np.uint8)]
    channels, bits, forms = read_forms(as_source(images), list(range(6)))
    assert (channels, bits) == (3, 8) and sum(forms.values()) == 6


def test_of_bands_the_commonest_number_counts_and_of_bits_the_largest() -> None:
    images = [np.zeros((40, 40, 13), np.uint16)] * 3 + [np.zeros((40, 40, 10), np.uint8)]
    assert read_forms(as_source(images), list(range(4)))[:2] == (13, 16)
