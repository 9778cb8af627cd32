"""Training views of an image and its mask: both by the same draws, padding ignored."""

from dataclasses import replace

import numpy as np
import pytest

from paddlemae.data.decode.images import Picture
from paddlemae.data.sources import IGNORE
from paddlemae.data.views.scenes import SceneView, draw_scene, make_scene, scene_need


def scene(height: int = 40, width: int = 60, cell: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return (image, mask) of cells; a cell's gray value is ten times its class."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 20, (height // cell, width // cell)).astype(np.int16)
    mask = cells.repeat(cell, axis=0).repeat(cell, axis=1)
    return np.repeat((10 * mask).astype(np.uint8)[:, :, None], 3, axis=2), mask


def made(view: SceneView, seed: int, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    draw = draw_scene(mask, view, np.random.default_rng(seed))
    return make_scene(Picture(image, image.shape[:2]), mask, view, draw)


@pytest.mark.parametrize("decode", ["fast", "exact"])
@pytest.mark.parametrize("size", [(32, 32), (24, 48)])
def test_image_and_mask_move_together(size: tuple[int, int], decode: str) -> None:
    view = SceneView(size, 3, scale=(1, 4), flip_vertical=True, rotate=True, decode=decode, fill=(0.5,) * 3)
    image, mask = scene(cell=10)
    for seed in range(20):
        seen, labels = made(view, seed, image, mask)
        assert seen.shape == (3, *size) and seen.dtype == np.uint8
        assert labels.shape == size and labels.dtype == np.int16
        difference = np.abs(seen[0].astype(int) - 10 * labels)[labels != IGNORE]
        assert np.median(difference) <= 5  # all but the blurred edges of cells
        assert (seen[:, labels == IGNORE] == 128).all()


def test_at_its_own_size_nothing_is_resized() -> None:
    image, mask = scene()
    view = SceneView((40, 60), 3, scale=(1, 1), flip=False, max_class_share=1)
    seen, labels = made(view, 0, image, mask)
    assert (seen.transpose(1, 2, 0) == image).all() and (labels == mask).all()


def test_a_view_larger_than_the_image_is_filled_with_ignore() -> None:
    image, mask = scene()
    view = SceneView((64, 64), 3, scale=(0.5, 0.5), fill=(1.0, 0.0, 0.5))
    corners = set()
    for seed in range(8):
        seen, labels = made(view, seed, image, mask)
        rows, columns = np.nonzero(labels != IGNORE)
        corners.add((rows.min(), columns.min()))
        assert np.ptp(rows) == 19 and np.ptp(columns) == 29 and len(rows) == 600
        assert (seen[:, labels == IGNORE].T == [255, 0, 128]).all()
    assert len(corners) > 4


def test_the_short_side_sets_what_scale_one_is() -> None:
    image, mask = scene(40, 80)
    view = SceneView((20, 40), 3, short_side=20, scale=(1, 1), flip=False, max_class_share=1)
    _, labels = made(view, 0, image, mask)
    assert (labels == mask[1::2, 1::2]).all()


def test_masks_are_resized_to_the_nearest_class() -> None:
    image, mask = scene(10, 10, 1)
    view = SceneView((30, 30), 3, scale=(3, 3), flip=False, max_class_share=1)
    _, labels = made(view, 0, image, mask)
    assert (labels == mask.repeat(3, axis=0).repeat(3, axis=1)).all()


def test_one_class_fills_at_most_its_share_where_a_crop_allows_it() -> None:
    mask = np.zeros((64, 64), np.int16)
    mask[:32, :32] = 1
    image = np.zeros((64, 64, 3), np.uint8)
    limited, free = (SceneView((16, 16), 3, scale=(1, 1), max_class_share=share) for share in (0.75, 1.0))
    shares = {limit: [] for limit in (limited, free)}
    for view, found in shares.items():
        for seed in range(60):
            _, labels = made(view, seed, image, mask)
            found.append(np.bincount(labels.ravel()).max() / labels.size)
    assert np.mean(np.array(shares[limited]) > 0.75) < 0.5 < np.mean(np.array(shares[free]) > 0.75)


def test_of_crops_that_one_class_fills_the_one_with_most_of_a_rare_class_stands() -> None:
    mask = np.zeros((64, 64), np.int16)
    mask[40:43, 10:13] = 1
    image = np.zeros((64, 64, 3), np.uint8)
    seen = {}
    for share in (0.75, 1.0):
        view = SceneView((16, 16), 3, scale=(1, 1), max_class_share=share)
        seen[share] = np.mean([(made(view, seed, image, mask)[1] == 1).any() for seed in range(100)])
    assert seen[0.75] > 0.5 > 2 * seen[1.0] > 0


def test_a_crop_without_a_pixel_that_counts_is_the_last_choice() -> None:
    mask = np.full((64, 64), IGNORE, np.int16)
    mask[:, 32:] = 1
    view = SceneView((16, 16), 3, scale=(1, 1), max_class_share=0.75)
    crops = [made(view, seed, np.zeros((64, 64, 3), np.uint8), mask)[1] for seed in range(50)]
    assert np.mean([(crop >= 0).any() for crop in crops]) > 0.95


@pytest.mark.parametrize("scale", [(1, 1), (0.5, 2.0)])
@pytest.mark.parametrize("size", [(16, 16), (24, 12), (80, 80)])
def test_rare_crops_hold_a_class_of_the_image(size: tuple[int, int], scale: tuple[float, float]) -> None:
    mask = np.zeros((64, 48), np.int16)
    mask[:20] = IGNORE
    mask[40:46, 3:9] = 1
    view = SceneView(size, 3, scale=scale, rotate=True, max_class_share=1, rare_crops=1.0)
    image = np.zeros((64, 48, 3), np.uint8)
    rare = np.mean([(made(view, seed, image, mask)[1] == 1).any() for seed in range(200)])
    often = np.mean([(made(replace(view, rare_crops=0.0), seed, image, mask)[1] == 1).any() for seed in range(200)])
    assert rare >= 0.45 and rare >= often
    crops = [made(view, seed, image, mask)[1] for seed in range(50)]
    assert all((crop >= 0).any() for crop in crops)
    if max(size) < 48:  # inside the image as far as that goes
        plain = replace(view, scale=(1, 1))
        assert all(draw_scene(mask, plain, np.random.default_rng(seed)).top >= 0 for seed in range(50))


def test_ignored_pixels_have_no_share() -> None:
    mask = np.full((32, 32), IGNORE, np.int16)
    for view in (SceneView((16, 16), 3), SceneView((16, 16), 3, rare_crops=1.0)):
        _, labels = made(view, 0, np.zeros((32, 32, 3), np.uint8), mask)
        assert (labels == IGNORE).all()


def test_a_view_depends_on_its_own_generator_alone() -> None:
    image, mask = scene()
    view = SceneView((32, 32), 3, rotate=True, photometric=1.0)
    first, again, other = (made(view, seed, image, mask) for seed in (3, 3, 4))
    assert all((one == two).all() for one, two in zip(first, again))
    assert any((one != two).any() for one, two in zip(first, other))


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (13, np.uint16), (3, np.uint8)])
def test_colours_change_where_an_image_is_and_masks_never(channels: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, np.iinfo(dtype).max, (40, 40, channels)).astype(dtype)
    mask = rng.integers(0, 4, (40, 40)).astype(np.int16)
    view = SceneView((32, 32), channels, photometric=1.0)
    plain = replace(view, photometric=0.0)
    changed = 0
    for seed in range(6):
        draw = draw_scene(mask, view, np.random.default_rng(seed))
        seen, labels = make_scene(Picture(image, (40, 40)), mask, view, draw)
        before, same = make_scene(Picture(image, (40, 40)), mask, plain, replace(draw, photometric=None))
        assert (labels == same).all() and seen.dtype == dtype
        changed += (seen != before).any()
    assert changed >= 4


def test_a_small_copy_is_enough_for_a_small_view() -> None:
    mask = np.arange(4, dtype=np.int16).repeat(100)[None].repeat(400, axis=0)
    view = SceneView((32, 32), 3, scale=(0.1, 0.1))
    draw = draw_scene(mask, view, np.random.default_rng(0))
    assert scene_need(400, 400, draw, view).reduction > 1
    assert scene_need(400, 400, draw, replace(view, decode="exact")).reduction == 1


def test_damaged_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="scale must be"):
        SceneView((32, 32), 3, scale=(2, 1))
