"""RandAugment: each operation by a property of its own, magnitudes as drawn, and nothing where nothing is drawn."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from paddlemae.data.decode.images import Picture
from paddlemae.data.views.augment import View, draw_view, make_view
from paddlemae.data.views.randaugment import (
    LARGEST_MAGNITUDE,
    OPERATION_NAMES,
    RandAugment,
    apply_operations,
    draw_operations,
)
from tests.support.views import train_view

FILL = (9, 200, 77)


def photo(height: int = 40, width: int = 60, channels: int = 3) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    planes = [40 + 3 * x, 30 + 4 * y, 127 + 90 * np.sin(x / 7) * np.cos(y / 5)]
    return np.stack(planes[:channels], axis=-1).clip(0, 255).astype(np.uint8)


def done(name: str, magnitude: float, image: np.ndarray | None = None) -> np.ndarray:
    return apply_operations(photo() if image is None else image, ((name, magnitude),), FILL).astype(int)


def test_there_are_the_fifteen() -> None:
    assert len(OPERATION_NAMES) == len(set(OPERATION_NAMES)) == 15


def test_every_operation_keeps_size_and_type() -> None:
    for name, magnitude, channels in product(OPERATION_NAMES, [-10.0, 0.0, 4.5, 10.0], [1, 3]):
        image = photo(channels=channels)
        before = image.copy()
        after = apply_operations(image, ((name, magnitude),), FILL)
        assert after.shape == image.shape and after.dtype == np.uint8
        assert (image == before).all()


def test_operations_without_a_magnitude() -> None:
    image = photo() // 2 + 40
    stretched = done("autocontrast", 3, image)
    assert [(plane.min(), plane.max()) for plane in stretched.transpose(2, 0, 1)] == [(0, 255)] * 3
    assert (done("invert", 3) == 255 - photo().astype(int)).all()
    uniform = done("equalize", 3)
    for plane in uniform.transpose(2, 0, 1):
        quarters = np.bincount(plane.ravel() // 64, minlength=4) / plane.size
        assert np.abs(quarters - 0.25).max() < 0.12


@pytest.mark.parametrize(("magnitude", "kept"), [(0, 4), (2.4, 4), (2.5, 3), (5, 2), (7.5, 1), (9.9, 1), (10, 0)])
def test_posterizing_keeps_the_given_number_of_bits(magnitude: float, kept: int) -> None:
    assert (done("posterize", magnitude) == photo().astype(int) & (0xFF << (8 - kept))).all()


@pytest.mark.parametrize(("magnitude", "threshold"), [(0, 256), (5, 128), (10, 0)])
def test_solarizing_inverts_what_is_bright(magnitude: float, threshold: int) -> None:
    image = photo().astype(int)
    assert (done("solarize", -magnitude) == np.where(image < threshold, image, 255 - image)).all()


def test_solarize_add_brightens_what_is_dark() -> None:
    image = photo().astype(int)
    assert (done("solarize_add", 10) == np.where(image < 128, np.minimum(image + 110, 255), image)).all()
    assert (done("solarize_add", 0) == image).all()


@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_enhancing_has_no_effect_at_nothing_and_two_ways(name: str) -> None:
    assert np.abs(done(name, 0) - photo()).max() <= 1
    more, less = (done(name, magnitude).astype(float) for magnitude in (8, -8))
    measures = {
        "color": lambda x: np.abs(x - x.mean(axis=2, keepdims=True)).mean(),
        "contrast": lambda x: x.std(),
        "brightness": lambda x: x.mean(),
        "sharpness": lambda x: np.abs(np.diff(x, axis=1)).mean(),
    }
    assert measures[name](less) < measures[name](photo().astype(float)) < measures[name](more)


def test_brightness_is_a_factor() -> None:
    np.testing.assert_allclose(done("brightness", -10), 0.1 * photo(), atol=1)  # 1 - 0.9
    np.testing.assert_allclose(done("brightness", 5), np.minimum(1.45 * photo(), 255), atol=1)


@pytest.mark.parametrize(("name", "axis"), [("shift_x", 1), ("shift_y", 0)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_shifts_move_by_a_share_of_the_side_and_fill(name: str, axis: int, sign: int) -> None:
    image = photo(40, 60).astype(int)
    pixels = round(0.45 * image.shape[axis])
    moved = done(name, sign * 10)
    inner = [slice(None)] * 2
    inner[axis] = slice(pixels, None) if sign > 0 else slice(0, image.shape[axis] - pixels)
    kept = [slice(None)] * 2
    kept[axis] = slice(0, image.shape[axis] - pixels) if sign > 0 else slice(pixels, None)
    np.testing.assert_allclose(moved[tuple(kept)], image[tuple(inner)], atol=1)
    rest = np.ones(image.shape[:2], bool)
    rest[tuple(kept)] = False
    assert (moved[rest] == FILL).all()


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y"])
def test_turns_and_shears_fill_corners_and_undo_each_other(name: str) -> None:
    image = photo(60, 60)
    turned = done(name, 9, image)
    corners = [tuple(turned[y, x]) for y in (0, -1) for x in (0, -1)]
    assert FILL in corners
    back = done(name, -9, turned.astype(np.uint8))
    middle = slice(24, 36)
    assert np.abs(back[middle, middle] - image[middle, middle].astype(int)).mean() < 4


def test_a_rotation_is_by_thirty_degrees_at_most() -> None:
    image = np.zeros((101, 101, 1), np.uint8)
    image[48:53, 50:] = 255  # a beam to the right
    turned = apply_operations(image, (("rotate", LARGEST_MAGNITUDE),), (0,))[..., 0]
    y, x = (turned > 128).nonzero()
    angle = np.degrees(np.arctan2(50 - y, x - 50)[(x - 50) ** 2 + (y - 50) ** 2 > 900].mean())
    assert abs(angle - 30) < 2


def test_draws_are_those_of_the_settings() -> None:
    settings, rng = RandAugment(2, 9.0, 0.5), np.random.default_rng(0)
    drawn = [draw_operations(settings, rng) for _ in range(4000)]
    names = Counter(name for one in drawn for name, _ in one)
    assert set(names) == set(OPERATION_NAMES) and max(names.values()) < 1.3 * min(names.values())
    counts = np.bincount([len(one) for one in drawn]) / len(drawn)
    np.testing.assert_allclose(counts, [0.25, 0.5, 0.25], atol=0.03)
    magnitudes = np.array([magnitude for one in drawn for _, magnitude in one])
    assert abs((magnitudes > 0).mean() - 0.5) < 0.03 and np.abs(magnitudes).max() <= LARGEST_MAGNITUDE
    assert abs(np.abs(magnitudes).mean() - 9) < 0.05 and abs(np.abs(magnitudes).std() - 0.49) < 0.05
    assert all(len(one) == 3 for one in (draw_operations(RandAugment(3, probability=1.0), rng) for _ in range(9)))


def test_a_view_is_cropped_and_flipped_first_and_the_same_without() -> None:
    plain, settings = View((32, 32), 3), View((32, 32), 3, randaugment=RandAugment(2, probability=1.0, fill=FILL))
    image = photo(80, 90)
    for seed in range(6):
        draw = draw_view(80, 90, settings, np.random.default_rng(seed))
        assert draw.box == draw_view(80, 90, plain, np.random.default_rng(seed)).box
        before = make_view(Picture(image, (80, 90)), plain, draw).transpose(1, 2, 0)
        after = train_view(image, settings, np.random.default_rng(seed)).transpose(1, 2, 0)
        assert (after == apply_operations(before, draw.operations, FILL)).all()


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="for images of 1 or 3 channels, got 4"):
        apply_operations(np.zeros((4, 4, 4), np.uint8), (("invert", 1.0),), FILL)


@pytest.mark.parametrize("settings", [dict(num_ops=0), dict(magnitude=11), dict(magnitude=-1), dict(magnitude_std=-1)])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="expected one operation or more, a magnitude in 0..10"):
        RandAugment(**settings)
