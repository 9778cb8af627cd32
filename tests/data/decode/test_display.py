"""Pixels of 16 bits as they are shown: the same image looks the same in a figure, a report, a search and a check."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from paddlemae.data.decode.display import as_displayed, brightened_range, show_range
from paddlemae.data.inspect.small_pictures import small_picture
from paddlemae.data.sources import open_source
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.masking import grid_mask
from paddlemae.tasks.models.build import describe
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.models.reconstruction import draw_stages
from paddlemae.tasks.training.exhibits import as_pictures, pictures_at

SIDE = 32


def scans() -> np.ndarray:
    """Return uint16 [3, 32, 32, 1], dark as of a 12-bit camera, each of another brightness."""
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.uint16)
    return np.stack([100 + 7 * ramp, 2000 + 30 * ramp[::-1], 300 + ramp % 16 * 50])[..., None]


def test_the_same_image_looks_the_same_everywhere(tmp_path: Path) -> None:
    for number, scan in enumerate(scans()):
        Image.fromarray(scan[..., 0]).save(tmp_path / f"{number}.png")
    paddle.seed(0)
    shape = dict(image_size=SIDE, patch_size=8, channels=1, embed_dim=16, depth=1, num_heads=2)
    model = MaskedAutoencoder(**shape, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
    model.eval()
    source = open_source(str(tmp_path))
    description = describe(model, ((0.02,), (0.01,)), eval_crop_ratio=1.0, bits=16)
    images, _ = pictures_at(source, evaluation_view(description), np.arange(3))
    mask = grid_mask(3, model.grid)
    figure = draw_stages(model, description, images, mask)
    report = as_pictures(images)
    checked = [small_picture(source, number, 1, SIDE) for number in range(3)]
    assert np.array_equal(figure["original"], report)
    assert np.array_equal(report[..., 0], np.stack(checked))
    assert all(picture.min() == 0 and picture.max() == 255 and np.ptp(picture) == 255 for picture in checked)
    visible = figure["masked"] == figure["original"]
    assert 0.25 <= visible.mean() < 0.3, "removed patches are grey"
    apart = np.abs(figure["prediction + visible"].astype(int) - figure["original"])
    assert apart[figure["masked"] != 128].max() <= 1, "visible patches are shown in the range of the original"


def test_pixels_of_8_bits_are_shown_as_they_are() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert as_displayed(pixels) is pixels


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 1), np.uint16), np.full((4, 4, 1), 65535, np.uint16)])
def test_an_image_of_one_value_is_black(pixels: np.ndarray) -> None:
    assert not as_displayed(pixels).any()


def test_each_channel_has_a_range_without_hot_pixels() -> None:
    values = np.linspace(1000, 2000, 400).reshape(20, 20)
    pixels = np.stack([values, values * 20], axis=-1).astype(np.uint16)
    pixels[0, 0] = 65535
    shown = as_displayed(pixels)
    assert np.abs(shown[..., 0].astype(int) - shown[..., 1]).max() <= 1 and shown[19, 10, 0] > 240


def test_dark_pictures_of_8_bits_are_brightened_and_keep_their_colours() -> None:
    dark = np.random.default_rng(0).integers(0, 51, (8, 8, 3)) / 255
    dark[..., 1] /= 2
    bright = np.clip(4 * dark, 0, 1)
    both = np.stack([dark, bright])
    shown = show_range(both, brightened_range(both))
    assert shown[0].max() == 255 and shown[0, ..., 1].max() in range(120, 130)
    assert np.array_equal(shown[1], np.round(255 * bright))
    assert not show_range(np.zeros((4, 4, 1)), brightened_range(np.zeros((4, 4, 1)))).any()
