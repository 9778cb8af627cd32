"""How much of an image remains at a smaller size."""

import numpy as np
import pytest

from paddlemae.tasks.plan.detail import SIDES, flat_share, mean_kept, measure_kept, measure_patches
from tests.support.pictures import photo


def waves(length: float, side: int = 256) -> np.ndarray:
    """Return an image of waves of some pixels, uint8 [side, side, 1]."""
    places = np.arange(side)
    wave = np.sin(2 * np.pi * places / length)
    return np.round(127 + 100 * wave[:, None] * wave).astype(np.uint8)[..., None]


def test_long_waves_remain_where_short_ones_are_lost() -> None:
    long, short = measure_kept(waves(64)), measure_kept(waves(6))
    assert long[48].detail > 0.8 and long[48].structure > 0.9
    assert short[48].detail < 0.05 and short[48].structure < 0.1
    assert short[224].detail > 0.5


def test_more_remains_at_larger_sizes_and_all_at_an_image_s_own() -> None:
    kept = measure_kept(np.asarray(photo(100, 140, 0)))
    details = [kept[side].detail for side in SIDES]
    assert details == sorted(details)
    assert all(kept[side] == (1, 1) for side in SIDES if side >= 100)


def test_bits_and_channels_do_not_matter() -> None:
    small = waves(12)
    deep = np.repeat(small.astype(np.uint16) * np.uint16(257), 5, axis=2)
    for side in SIDES:
        assert measure_kept(deep)[side] == pytest.approx(measure_kept(small)[side], abs=1e-3)


def test_an_image_of_one_colour_loses_nothing() -> None:
    assert set(measure_kept(np.full((64, 64, 3), 7, np.uint8)).values()) == {(1, 1)}


def test_images_weigh_alike_in_the_mean() -> None:
    one, other = measure_kept(waves(64)), measure_kept(waves(6))
    mean = mean_kept([one, other])
    assert mean[48].detail == pytest.approx((one[48].detail + other[48].detail) / 2)


def test_flat_patches_are_counted_by_the_deviation_of_all_images() -> None:
    noise = np.random.default_rng(0).integers(0, 4, (64, 64, 1), dtype=np.uint8)
    half = noise.copy()
    half[:, 32:] = np.random.default_rng(1).integers(0, 256, (64, 32, 1))
    assert flat_share([measure_patches(half)]) == 0.5
    assert flat_share([measure_patches(noise), measure_patches(half)]) == 0.75
    assert flat_share([measure_patches(noise)]) == 0  # the noise is all that there is
    deep = np.repeat(half.astype(np.uint16) * np.uint16(257), 5, axis=2)
    assert flat_share([measure_patches(deep)]) == 0.5


def test_flat_patches_of_odd_and_of_tiny_images_are_counted_too() -> None:
    assert measure_patches(np.zeros((300, 199, 3), np.uint8)).shape == (8 * 12, 2)
    assert measure_patches(np.zeros((7, 20, 1), np.uint8)).shape == (0, 2)
    assert flat_share([measure_patches(np.zeros((7, 20, 1), np.uint8))]) == 0
    assert flat_share([measure_patches(np.full((64, 64, 1), 9, np.uint8))]) == 0
