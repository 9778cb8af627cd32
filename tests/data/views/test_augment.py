"""Views: stated distributions, exact pixels, and nothing changed where nothing should."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.decode.images import Need, Picture, read_image, read_picture
from paddlemae.data.views.augment import (
    MAX_ASPECT,
    Draw,
    View,
    compute_need,
    draw_view,
    eval_view,
    make_view,
    random_crop_box,
    resize_crop,
)
from tests.support.views import train_view

DECODES = ("fast", "exact")
SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with a photo's spectrum: amplitudes fall with frequency; a fifth of it hard edges."""
    rng = np.random.default_rng(seed)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")) + 1 / width
    planes = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(height, width))) / radius).real for _ in range(3)]
    image = np.stack([128 + 45 * plane / plane.std() for plane in planes], axis=-1)
    image[height // 3 : height // 2, width // 4 : width // 2] = (230, 20, 90)
    return np.clip(image, 0, 255).astype(np.uint8)


def test_crop_boxes_keep_to_their_scale_ratio_and_image() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([random_crop_box(300, 400, SCALE, RATIO, rng) for _ in range(4000)])
    left, top, right, bottom = boxes.T
    assert left.min() == top.min() == 0
    assert right.max() == 400 and bottom.max() == 300
    assert (left < right).all() and (top < bottom).all()
    areas, ratios = (right - left) * (bottom - top) / 120_000, (right - left) / (bottom - top)
    assert 0.198 < areas.min() < 0.22 and 0.95 < areas.max() <= 1
    assert 0.745 < ratios.min() < 0.77 and 1.3 < ratios.max() < 1.342


def test_crop_areas_are_uniform_and_ratios_log_uniform() -> None:
    """Small crops always fit, so nothing is redrawn and the distributions show."""
    rng = np.random.default_rng(0)
    boxes = np.array([random_crop_box(1000, 1000, (0.1, 0.3), (1 / 4, 4), rng) for _ in range(4000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas = widths * heights / 1e6
    small = areas < 0.2  # a quarter and more of the widest large boxes does not fit: look at half the range
    assert abs(np.mean(areas[small] < 0.15) - 0.5) < 0.04
    assert abs(np.mean(np.log(widths / heights)[small])) < 0.05
    assert abs(np.mean(np.abs(np.log(widths / heights)[small]) < np.log(2)) - 0.5) < 0.06


def test_an_image_too_long_to_crop_gives_its_centre() -> None:
    for height, width, box in [(10, 1000, (493, 0, 506, 10)), (1000, 9, (0, 494, 9, 506)), (1, 1, (0, 0, 1, 1))]:
        assert random_crop_box(height, width, (0.9, 1.0), RATIO, np.random.default_rng(0)) == box


def test_a_training_crop_is_pillow_s_resize_of_its_box() -> None:
    image = noise(50, 70, 3)
    settings = View((32, 24), 3, flip=False, decode="exact")
    for seed in range(20):
        box = random_crop_box(50, 70, SCALE, RATIO, np.random.default_rng(seed))
        expected = Image.fromarray(image).resize((24, 32), Image.Resampling.BICUBIC, box=box)
        view = train_view(image, settings, np.random.default_rng(seed))
        assert view.dtype == np.uint8 and view.shape == (3, 32, 24) and view.flags.c_contiguous
        assert (view == np.asarray(expected).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_fast_crop_is_pillow_s_but_for_rounding(channels: int) -> None:
    """The same filter on the same boxes, reduced and enlarged; it rounds weights and sums otherwise."""
    image = np.concatenate([photo(120, 160), photo(120, 160, 1)], axis=2)[:, :, :channels]
    for seed in range(20):
        views = [
            train_view(image, View((48, 64), channels, decode=decode), np.random.default_rng(seed)).astype(int)
            for decode in ("fast", "exact")
        ]
        assert np.abs(views[0] - views[1]).max() <= 8 and np.abs(views[0] - views[1]).mean() < 0.35


@pytest.mark.parametrize("subsampling", [0, 2])
def test_fast_views_of_jpegs_are_close_to_pillow_s(tmp_path: Path, subsampling: int) -> None:
    """The stated quality: 2.5 of 255 on average, 5 for a view at worst, when the JPEG is decoded smaller."""
    path = tmp_path / "a.jpg"
    Image.fromarray(photo(480, 640)).save(path, quality=90, subsampling=subsampling)
    fast, exact = (View((64, 64), 3, decode=decode) for decode in ("fast", "exact"))
    image, reductions, differences = read_image(path, 3), [], []
    for seed in range(30):
        draw = draw_view(480, 640, fast, np.random.default_rng(seed))
        needed = compute_need([draw], fast)
        reductions.append(needed.reduction)
        picture = read_picture(path, 3, lambda height, width, needed=needed: needed)
        assert picture.scale[0] == 1 / reductions[-1]
        expected = make_view(Picture(image, (480, 640)), exact, draw).astype(int)
        differences.append(np.abs(make_view(picture, fast, draw) - expected).mean())
    assert np.mean(differences) < 2.5 and max(differences) < 5
    assert {2, 4} <= set(reductions)


@pytest.mark.parametrize("size", [(64, 64), (200, 180)])  # made smaller, and larger
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_fast_view_needs_no_row_below_those_it_asks_for(tmp_path: Path, size: tuple, subsampling: int) -> None:
    path, settings = tmp_path / "a.jpg", View(size, 3)
    Image.fromarray(photo(301, 402)).save(path, quality=90, subsampling=subsampling)
    cut = 0
    for seed in range(40):
        draw = draw_view(301, 402, settings, np.random.default_rng(seed))
        needed = compute_need([draw], settings)
        picture = read_picture(path, 3, lambda *_, needed=needed: needed)
        whole = read_picture(path, 3, lambda *_, needed=needed: Need(needed.reduction))
        assert (make_view(picture, settings, draw) == make_view(whole, settings, draw)).all()
        cut += len(picture.pixels_hwC) < len(whole.pixels_hwC)
    assert cut > 10


def test_what_is_drawn_does_not_depend_on_how_it_is_decoded() -> None:
    draws = [draw_view(300, 400, View((64, 64), 3, decode=decode), np.random.default_rng(3)) for decode in DECODES]
    box = random_crop_box(300, 400, SCALE, RATIO, np.random.default_rng(3))
    assert draws[0] == draws[1] and draws[0].box == box


def test_a_reduction_leaves_every_crop_its_view_s_pixels() -> None:
    for boxes, times in [
        ([(0, 0, 223, 223)], 1),
        ([(0, 0, 447, 900)], 1),
        ([(0, 0, 448, 448)], 2),
        ([(5, 9, 5 + 895, 9 + 1000)], 2),
        ([(0, 0, 896, 896)], 4),
        ([(0, 0, 9000, 1792)], 8),
        ([(0, 0, 9000, 9000)], 8),
        ([(0, 0, 9000, 9000), (0, 0, 448, 449)], 2),
        ([None], 1),
        ([(0, 0, 9000, 9000), None], 1),
    ]:
        draws = [Draw(box, (0, 0), False) for box in boxes]
        assert compute_need(draws, View((224, 224), 3)).reduction == times
        assert compute_need(draws, View((224, 224), 3, decode="exact")) == Need()


def test_a_crop_is_cut_from_a_smaller_picture_where_it_was_drawn() -> None:
    """The whole is 400 x 600, the picture a third of it: white left of column 150 and above row 90."""
    pixels = np.zeros((133, 200, 1), np.uint8)
    pixels[:, :50] = pixels[:30] = 255
    picture = Picture(pixels, (400, 600), (133 / 400, 200 / 600))
    settings = View((8, 8), 1)
    for box, mean in (((0, 0, 150, 400), 255), ((150, 91, 600, 400), 0), ((75, 200, 225, 350), 127.5)):
        for decode in DECODES:
            view = make_view(picture, replace(settings, decode=decode), Draw(box, (0, 0), False))
            assert abs(view.mean() - mean) < 6, (box, decode)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("first", [1, 3], ids=["begin", "end"])
def test_an_enlarged_crop_may_begin_or_end_at_the_centre_of_a_pixel(first: int, channels: int) -> None:
    """The resizer itself takes other values there than those that the filter needs."""
    pixels = np.random.default_rng(0).integers(96, 160, (40, 40, channels), np.uint8)
    picture = Picture(pixels, (160, 160), (0.25, 0.25))
    for corner in range(first, 45, 4):  # corner / 4 + 0.25, and (corner + 48) / 4 - 0.25: n + 0.5 for 1, and for 3
        box = (corner, corner, corner + 48, corner + 48)
        fast, exact = (
            resize_crop(picture, box, (24, 24), View((24, 24), channels, decode=decode)).astype(int)
            for decode in ("fast", "exact")
        )
        assert np.abs(fast - exact).max() <= 1


def test_the_evaluation_view_is_resize_then_centre_crop() -> None:
    for (height, width), size in product(
        [(300, 401), (401, 300), (257, 256), (64, 64), (31, 979)], [(64, 64), (64, 96), (97, 32)]
    ):
        image = noise(height, width, 3)
        cover_h, cover_w = round(size[0] / 0.875), round(size[1] / 0.875)
        if cover_h / height >= cover_w / width:
            cover_w = int(cover_h * width / height)
        else:
            cover_h = int(cover_w * height / width)
        resized = Image.fromarray(image).resize((cover_w, cover_h), Image.Resampling.BICUBIC)
        left, top = round((cover_w - size[1]) / 2), round((cover_h - size[0]) / 2)
        expected = np.asarray(resized.crop((left, top, left + size[1], top + size[0])))
        assert (eval_view(image, View(size, 3)) == expected.transpose(2, 0, 1)).all()


def test_224_pixels_come_from_a_short_side_of_256() -> None:
    """An image whose short side is 256 is only cropped."""
    image = noise(256, 300, 3)
    assert (eval_view(image, View((224, 224), 3)) == image[16:240, 38:262].transpose(2, 0, 1)).all()


@pytest.mark.parametrize("shape", [(2, 500, 1), (500, 2, 1)])
def test_a_very_long_image_does_not_become_a_very_large_one(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    sizes = []
    resize = Image.Image.resize

    def recorded(image: Image.Image, size: tuple[int, int], *args: object, **options: object) -> Image.Image:
        sizes.append(size)
        return resize(image, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    assert eval_view(noise(*shape), View((28, 28), 1)).shape == (1, 28, 28)
    assert [sorted(size) for size in sizes] == [[32, 32 * MAX_ASPECT]]


def test_an_image_of_the_right_size_stays_untouched_in_evaluation() -> None:
    image = noise(28, 28, 1)
    assert (eval_view(image, View((28, 28), 1, eval_crop_ratio=1.0))[0] == image[:, :, 0]).all()


def test_without_augmentation_training_sees_the_evaluation_view() -> None:
    image = noise(40, 50, 3)
    settings = View((32, 32), 3, crop_scale=None, flip=False)
    assert (train_view(image, settings, np.random.default_rng(0)) == eval_view(image, settings)).all()


def test_a_whole_crop_of_the_right_size_changes_nothing() -> None:
    image = noise(32, 32, 3)
    settings = View((32, 32), 3, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)
    assert (train_view(image, settings, np.random.default_rng(0)) == image.transpose(2, 0, 1)).all()


def test_flips_mirror_left_and_right_half_of_the_time() -> None:
    image = noise(28, 28, 1)
    settings = View((28, 28), 1, crop_scale=None, eval_crop_ratio=1.0)
    views = [train_view(image, settings, np.random.default_rng(seed))[0] for seed in range(400)]
    plain = sum((view == image[:, :, 0]).all() for view in views)
    mirrored = sum((view == image[:, ::-1, 0]).all() for view in views)
    assert plain + mirrored == 400 and 160 < mirrored < 240


def test_stretched_views_show_whole_images_whatever_their_shape() -> None:
    image = noise(50, 140, 3)
    seen = eval_view(image, View((24, 24), 3, fit="stretch", eval_crop_ratio=1.0))
    whole = np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC))
    assert np.array_equal(seen.transpose(1, 2, 0), whole)


def test_crops_of_stretched_views_have_the_image_s_shape_times_the_ratio() -> None:
    settings = View((24, 24), 3, crop_scale=(0.2, 0.6), fit="stretch")
    ratios, areas = [], []
    for seed in range(500):
        box = draw_view(100, 270, settings, np.random.default_rng(seed)).box
        assert box is not None
        left, top, right, bottom = box
        ratios.append((right - left) / (bottom - top) / 2.7)
        areas.append((right - left) * (bottom - top) / 27_000)
    assert 0.73 < min(ratios) < 0.78 and 1.28 < max(ratios) < 1.37
    assert min(areas) > 0.18 and max(areas) < 0.62


def test_turns_and_flips_give_all_eight_orientations_of_what_is_cropped() -> None:
    image = photo(40, 40)
    settings = View((40, 40), 3, crop_scale=(1, 1), crop_ratio=(1, 1), flip_vertical=True, rotate=True)
    rng = np.random.default_rng(0)
    seen = {train_view(image, settings, rng).tobytes() for _ in range(100)}
    turned = [np.rot90(side, turns) for side in (image, image[:, ::-1]) for turns in range(4)]
    assert seen == {np.ascontiguousarray(one.transpose(2, 0, 1)).tobytes() for one in turned}


def test_a_turned_rectangle_keeps_the_view_s_size_and_the_crop_s_shape() -> None:
    image = noise(60, 60, 1)
    settings = View((12, 36), 1, crop_scale=(0.1, 0.2), crop_ratio=(3, 3), flip=False, rotate=True, decode="exact")
    turns = set()
    for seed in range(20):
        draw = draw_view(60, 60, settings, np.random.default_rng(seed))
        assert draw.box is not None
        view = make_view(Picture(image, (60, 60)), settings, draw)
        size = (36, 12) if draw.turns % 2 == 0 else (12, 36)
        crop = np.asarray(Image.fromarray(image[..., 0]).resize(size, Image.Resampling.BICUBIC, box=draw.box))
        assert view.shape == (1, 12, 36) and np.array_equal(view[0], np.rot90(crop, draw.turns))
        left, top, right, bottom = draw.box
        shape = (right - left) / (bottom - top)
        assert abs(np.log(shape) - np.log(3) * (1 if draw.turns % 2 == 0 else -1)) < 0.25
        turns.add(draw.turns)
    assert turns == {0, 1, 2, 3}


def test_shifts_move_the_content_exactly_and_fill_with_zeros() -> None:
    image = noise(10, 12, 1) | 1  # no zeros of its own
    padded = np.pad(image[:, :, 0], 3)
    settings = View((10, 12), 1, crop_scale=None, flip=False, shift=3, eval_crop_ratio=1.0)
    windows = {padded[y : y + 10, x : x + 12].tobytes(): (3 - y, 3 - x) for y in range(7) for x in range(7)}
    views = (train_view(image, settings, np.random.default_rng(seed)) for seed in range(1000))
    counts = np.unique([windows[view.tobytes()] for view in views], axis=0, return_counts=True)[1]
    assert len(counts) == 49 and counts.min() > 5


@pytest.mark.parametrize("bits", [8, 16])
def test_any_number_of_channels_is_resized_channel_by_channel(bits: Literal[8, 16]) -> None:
    image = noise(40, 50, 5)
    settings = View((32, 24), 5, bits=bits)
    assert eval_view(image, settings).shape == (5, 32, 24)
    for c in range(5):
        one = View((32, 24), 1, bits=bits)
        assert (eval_view(image, settings)[c] == eval_view(image[:, :, c : c + 1], one)[0]).all()
        views = [train_view(i, s, np.random.default_rng(3)) for i, s in ((image, settings), (image[:, :, [c]], one))]
        assert (views[0][c] == views[1][0]).all()
    rgb = eval_view(np.ascontiguousarray(image[:, :, :3]), View((32, 24), 3, bits=bits))
    assert (rgb == eval_view(image, settings)[:3]).all()


def test_views_repeat_with_their_seed_and_leave_the_image_alone() -> None:
    for settings in (View((28, 28), 1), View((28, 28), 1, crop_scale=None, shift=4)):
        image = noise(28, 28, 1)
        first, again, other = (train_view(image, settings, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert (first == again).all() and (first != other).any()
        assert (image == noise(28, 28, 1)).all()


def test_an_image_of_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an image of 3 channels, got 1"):
        eval_view(noise(8, 8, 1), View((8, 8), 3))


def test_settings_without_sense_are_refused() -> None:
    for wrong, message in [
        ({"image_size": (0, 28)}, "positive image_size"),
        ({"channels": 0}, "channels"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio"),
        ({"shift": 28, "crop_scale": None}, "shift in 0..27"),
        ({"shift": 2}, "exclude each other"),
        ({"eval_crop_ratio": 1.5}, "eval_crop_ratio"),
        ({"decode": "quick"}, "'fast' or 'exact', got 'quick'"),
        ({"repeats": 0}, "repeats of 1 or more, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            View(**{"image_size": (28, 28), "channels": 1, **wrong})
