"""Series of images: found by numbers in names and likeness of neighbours, never among independent images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from paddlemae.data.inspect.series import find_series, with_series
from paddlemae.data.inspect.survey import COLUMNS, ROWS
from paddlemae.data.sources import SourceNote, open_source
from paddlemae.data.sources.subsets import validation_part
from tests.support.exposures import write_exposures

Look = Callable[[NDArray[np.int64]], NDArray[np.uint8]]


def look_at(things: Sequence[int], likeness: float = 0.9, seed: int = 0) -> Look:
    """Return the thumbnails of images of things, random ones; of one thing they correlate by about `likeness`."""
    random = np.random.default_rng(seed)
    kinds = random.normal(size=(max(things) + 1, ROWS * COLUMNS))
    noise = random.normal(size=(len(things), ROWS * COLUMNS))
    pictures = np.sqrt(likeness) * kinds[list(things)] + np.sqrt(1 - likeness) * noise
    return lambda numbers: np.clip(128 + 40 * pictures[numbers], 0, 255).astype(np.uint8)


def film(frames: int, seed: int = 0) -> Look:
    """Return the thumbnails of frames, each like the one before it."""
    random = np.random.default_rng(seed)
    pictures = [random.normal(size=ROWS * COLUMNS)]
    for _ in range(frames - 1):
        pictures.append(0.8 * pictures[-1] + 0.6 * random.normal(size=ROWS * COLUMNS))
    return lambda numbers: np.clip(128 + 40 * np.array(pictures)[numbers], 0, 255).astype(np.uint8)


def same(groups: NDArray[np.int64], expected: Sequence[int]) -> bool:
    """Check that two numberings of groups are the same up to the numbers."""
    pairs = set(zip(groups.tolist(), expected))
    return len(pairs) == len(set(groups.tolist())) == len(set(expected))


def test_exposures_of_one_part_are_a_series_whatever_their_other_numbers() -> None:
    things = [thing for thing in range(30) for _ in range(4)]
    names = [f"exp{1 + place % 4}_num_{10_000 * thing + 17 * (place % 4)}.png" for place, thing in enumerate(things)]
    found = find_series(names, None, look_at(things))
    assert found is not None and found.area > 0.75
    assert same(found.groups_N, things)
    assert [found.before_N[4], found.before_N[5]] == [-1, 4]


def test_the_order_of_the_images_does_not_count() -> None:
    things = [thing for thing in range(20) for _ in range(3)]
    names = [f"n_{10_000 * thing + place % 3}" for place, thing in enumerate(things)]
    shuffled = np.random.default_rng(0).permutation(len(things)).tolist()
    look = look_at([things[i] for i in shuffled])
    found = find_series([names[i] for i in shuffled], None, look)
    assert found is not None and same(found.groups_N, [things[i] for i in shuffled])


def test_images_of_a_patient_are_a_series() -> None:
    things = [thing for thing in range(12) for _ in range(8)]
    names = [f"patient{thing:03d}_{place % 8}.png" for place, thing in enumerate(things)]
    found = find_series(names, None, look_at(things, likeness=0.6))
    assert found is not None and same(found.groups_N, things)


def test_a_folder_of_each_patient_is_a_series_whatever_the_names() -> None:
    things = [thing for thing in range(12) for _ in range(8)]
    names = [f"train/{chr(97 + thing)}/{hash_of(place)}.png" for place, thing in enumerate(things)]
    found = find_series(names, None, look_at(things, likeness=0.6))
    assert found is not None and same(found.groups_N, things)


def hash_of(number: int) -> str:
    return "".join(chr(97 + (number * prime) % 26) for prime in (3, 5, 7, 11, 17))


def test_a_long_film_is_cut_into_blocks_of_neighbours() -> None:
    found = find_series([f"frame_{30 * i:06d}.jpg" for i in range(200)], None, film(200))
    assert found is not None and found.count == 10
    assert (np.diff(found.groups_N) >= 0).all() and set(np.bincount(found.groups_N)) == {20}
    assert (found.before_N == np.arange(-1, 199)).all()


def test_a_rare_larger_step_does_not_cut_every_frame_off() -> None:
    steps = [30] * 90 + [2] * 20
    names = [f"frame_{number}.jpg" for number in np.cumsum([1000, *steps]).tolist()]
    found = find_series(names, None, film(len(names)))
    assert found is not None and found.count < 12


def test_frames_of_several_films_in_one_folder_follow_each_other_within_a_film() -> None:
    names = [f"cam{place // 40}_{place % 40:04d}.jpg" for place in range(240)]
    found = find_series(names, None, film(240))
    assert found is not None
    films = [set((np.flatnonzero(found.groups_N == number) // 40).tolist()) for number in range(found.count)]
    assert all(len(each) == 1 for each in films)


def test_no_series_crosses_a_class() -> None:
    classes = np.repeat([0, 1], 50)
    found = find_series([f"{i}.png" for i in range(100)], classes, film(100))
    assert found is not None
    assert all(len(np.unique(classes[found.groups_N == number])) == 1 for number in range(found.count))


@pytest.mark.parametrize("seed", range(5))
def test_independent_images_have_no_series(seed) -> None:
    look = look_at(list(range(400)), seed=seed)
    assert find_series([f"{i:05d}.jpg" for i in range(400)], None, look) is None
    assert find_series([f"a{i % 20}/b{i % 7}_{i}.jpg" for i in range(400)], None, look) is None


@pytest.mark.parametrize("seed", range(5))
def test_images_of_a_class_are_alike_and_no_series(seed) -> None:
    classes = np.arange(300) // 30
    look = look_at(classes.tolist(), likeness=0.5, seed=seed)
    assert find_series([f"{i:05d}.jpg" for i in range(300)], classes, look) is None


def test_names_without_numbers_and_few_images_have_none() -> None:
    look = look_at([0] * 100)
    assert find_series([hash_of(i) + str(i % 2) for i in range(100)], None, look) is None
    assert find_series([f"{i}.png" for i in range(10)], None, film(10)) is None
    assert find_series([], None, film(1)) is None


def test_numbers_may_be_as_long_as_they_like() -> None:
    names = [f"{'9' * 5000}{i:020d}.png" for i in range(100)]
    found = find_series(names, None, film(100))
    assert found is not None and found.before_N[50] == 49


def test_images_that_cannot_be_read_are_like_no_other() -> None:
    assert (
        find_series([f"{i}.png" for i in range(100)], None, lambda chosen: np.zeros((len(chosen), 288), np.uint8))
        is None
    )


def test_a_source_with_series_holds_whole_ones_back(tmp_path) -> None:
    write_exposures(tmp_path, 12)
    next((tmp_path / "bad").iterdir()).write_bytes(b"no image")
    source = open_source(str(tmp_path), "train", labelled=True)
    with pytest.warns(SourceNote, match="24 series"):
        grouped = with_series(source)
    assert grouped.groups is not None
    rest, held = validation_part(grouped, 0.2, seed=0)
    assert len(held) == 16 and not set(rest.groups.tolist()) & set(held.groups.tolist())
    assert with_series(grouped) is grouped
