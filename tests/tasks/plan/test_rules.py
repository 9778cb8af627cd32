"""The rules of `paddlemae plan`: what they choose for which images, time and speed."""

from dataclasses import replace

import pytest

from paddlemae.tasks.plan import rules
from paddlemae.tasks.plan.data_survey import MaskedImages
from paddlemae.tasks.plan.detail import Kept
from tests.support.surveys import PHOTOS, SIDES, all_of

TWO_CORES, GPU = 7e10, 2e13  # operations a second
HALF_AN_HOUR = 1150.0  # seconds that are left of it for pretraining


SMALL = replace(
    PHOTOS,
    images=50_000,
    height=all_of(32),
    width=all_of(32),
    ratio=all_of(1),
    kept={side: Kept(1.0, 1.0) if side >= 32 else Kept(0.84, 0.4) for side in SIDES},
)


def test_more_time_gives_larger_images_or_models_never_smaller_ones() -> None:
    sides, widths = [], []
    for seconds in (60, 600, 1200, 7200, 36_000, 360_000, 3_600_000):
        shape = rules.choose_shape(PHOTOS, seconds, TWO_CORES)
        sides.append(shape.side)
        widths.append(shape.model.width * shape.model.depth)
    assert sides == sorted(sides) and sides[0] < sides[-1]
    assert widths[0] == min(widths) and widths[-1] == max(widths) > widths[0]


def test_half_an_hour_on_two_cores_is_for_a_small_model_of_few_patches() -> None:
    for survey in (PHOTOS, SMALL):
        shape = rules.choose_shape(survey, HALF_AN_HOUR, TWO_CORES)
        assert 36 <= shape.patches <= 144
        assert shape.model.width <= 192 and shape.model.depth <= 6
        assert rules.choose_course(survey, HALF_AN_HOUR, rules.operations(shape) / TWO_CORES).updates > 1000


def test_small_images_keep_their_size_in_patches_of_four() -> None:
    for rate in (TWO_CORES, GPU):
        shape = rules.choose_shape(SMALL, HALF_AN_HOUR, rate)
        assert shape.image_size == (32, 32) and shape.patch_size == 4


@pytest.mark.parametrize("own", [8, 10, 17, 20, 28, 30])
def test_images_smaller_than_all_sizes_are_divided_by_their_patches(own: int) -> None:
    tiny = replace(SMALL, height=all_of(own), width=all_of(own))
    shape = rules.choose_shape(tiny, HALF_AN_HOUR, TWO_CORES)
    assert abs(shape.side - own) <= 2 and shape.side % shape.patch_size == 0


def test_an_accelerator_gets_large_images_and_a_large_model_where_there_are_enough_images() -> None:
    many = replace(PHOTOS, images=1_200_000)
    few = rules.choose_shape(replace(PHOTOS, images=400), 36_000, GPU)
    shape = rules.choose_shape(many, 36_000, GPU)
    assert shape.side >= 160 and shape.patch_size == 16 and shape.model.width >= 384
    assert few.model.width < shape.model.width


def test_images_of_one_shape_are_seen_as_rectangles_and_others_as_squares() -> None:
    frames = replace(PHOTOS, height=all_of(360), width=all_of(480), ratio=all_of(4 / 3))
    height, width = rules.rectangle(frames, 96, 8)
    assert (height, width) == (96, 128)
    assert rules.rectangle(replace(frames, ratio=all_of(3 / 4)), 96, 8) == (128, 96)
    assert rules.rectangle(PHOTOS, 96, 8) == (96, 96)
    assert rules.rectangle(replace(frames, ratio=all_of(1.05)), 96, 8) == (96, 96)


def test_images_are_stretched_where_a_centre_crop_shows_too_little() -> None:
    shape = rules.choose_shape(PHOTOS, HALF_AN_HOUR, TWO_CORES)
    assert rules.choose_fit(PHOTOS, shape)[0] == "crop"
    for low, high in ((0.4, 1.1), (0.9, 2.5)):
        mixed = replace(PHOTOS, ratio=replace(PHOTOS.ratio, low=low, high=high))
        assert rules.choose_fit(mixed, shape)[0] == "stretch"


def test_crops_keep_the_shape_of_rectangles() -> None:
    frames = replace(PHOTOS, height=all_of(360), width=all_of(480), ratio=all_of(4 / 3))
    shape = rules.shape_of(frames, 96, rules.MODELS[0], 96, 160)
    assert rules.crop_ratio(shape) == pytest.approx((1, 16 / 9), rel=1e-2)


def test_a_few_images_are_trained_for_thousands_of_updates_but_not_for_ever() -> None:
    forty = replace(PHOTOS, images=40)
    shape = rules.choose_shape(forty, HALF_AN_HOUR, TWO_CORES)
    course = rules.choose_course(forty, 100 * HALF_AN_HOUR, rules.operations(shape) / TWO_CORES)
    assert 3000 < course.updates <= rules.MOST_UPDATES_OF_FEW
    assert course.batch_size == rules.SMALLEST_BATCH


def test_batches_grow_with_the_views_and_the_rate_of_learning_with_their_root() -> None:
    batches = [rules.choose_course(SMALL, seconds, 1 / 400).batch_size for seconds in (60, 600, 3600, 36_000)]
    assert batches == sorted(batches) and batches[0] == rules.SMALLEST_BATCH and batches[-1] == rules.LARGEST_BATCH
    shape = rules.choose_shape(SMALL, HALF_AN_HOUR, TWO_CORES)
    peaks = [rules.base_lr(shape, batch) * batch / 256 for batch in (32, 128)]
    assert peaks == pytest.approx([0.5e-3, 1e-3], rel=0.1)


def choose_reading(reading: rules.Reading, computing: float, cpus: int, *, on_cpu: bool = True) -> rules.Input:
    return rules.choose_reading(reading, computing, 1e5, 1000, 1e8, cpus, on_cpu=on_cpu)


def test_processes_read_ahead_only_where_reading_takes_time() -> None:
    assert choose_reading(rules.Reading(0.0001), 0.01, 2).workers == 0
    assert choose_reading(rules.Reading(0.005), 0.005, 2).workers == 1
    assert choose_reading(rules.Reading(0.01), 0.001, 16, on_cpu=False).workers > 4
    assert choose_reading(rules.Reading(0.01), 0.001, 1).workers == 0


def test_images_are_packed_where_that_saves_time_and_has_room() -> None:
    slow = rules.Reading(0.01, cached=0.0002, packing=0.01, room=1e9)
    assert choose_reading(slow, 0.005, 2).cached
    assert choose_reading(slow, 0.005, 2).start == pytest.approx(5)
    assert not choose_reading(replace(slow, room=1e7), 0.005, 2).cached
    assert not choose_reading(replace(slow, cached=0.01), 0.005, 2).cached
    assert not choose_reading(replace(slow, packing=10.0), 0.005, 2).cached


def test_operations_are_those_of_the_benchmark_of_speed() -> None:
    """docs/speed.md has 0.170 billion operations an image for this model."""
    model = rules.ModelSize("mini", 128, 4, 4, 96, 2, 4, 0, 0, 1e-3)
    shape = rules.Shape((32, 32), 4, model, 0.75, 3, 32, 32)
    assert rules.operations(shape) == pytest.approx(0.170e9, rel=0.2)


MASKED = replace(PHOTOS, masked=MaskedImages(400, None, 100, ("sky", "road"), 0.6, 1.0))


@pytest.mark.parametrize(
    ("own", "scene"), [(40, None), (256, None), (320, None), (360, 256), (2048, 256), (4096, None)]
)
def test_scenes_come_to_a_size_at_which_windows_show_what_surrounds_things_and_maps_keep_theirs(
    own: int, scene: int | None
) -> None:
    survey = replace(MASKED, height=all_of(own), width=all_of(own), ratio=all_of(1), pixels=own**2)
    assert rules.scene_side(survey) == scene
    shape = rules.choose_shape(survey, HALF_AN_HOUR, TWO_CORES)
    assert shape.patch_size == 8 and shape.side % 8 == 0 and shape.side <= min(128, own)
    (low, high), _ = rules.crop_scale(survey, shape)
    assert low <= min(1, (shape.side / (scene or own)) ** 2) <= high <= 1
    count = rules.windows_of(survey, shape, 1 / 3)
    assert count == {40: 1, 256: 9, 320: 16, 360: 9, 2048: 9, 4096: 48**2}[own]
    mixed = rules.windows_of(replace(survey, pixels=3 * own**2), shape, 1 / 3)
    assert mixed == (count if scene else 3 * count)  # some are much larger than the median


def test_time_and_images_enlarge_the_model_of_windows_too() -> None:
    few, many = (rules.choose_shape(MASKED, seconds, TWO_CORES) for seconds in (HALF_AN_HOUR, 3_600_000))
    assert few.model.width == 128 and few.side == many.side == 128
    assert many.model.width * many.model.depth >= few.model.width * few.model.depth
