"""Duplicates: what the rules say of each pair, found without comparing each with each."""

import itertools

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.inspect import duplicates
from paddlemae.data.inspect.duplicates import (
    are_similar,
    find_exact_groups,
    find_near_groups,
    hash_thumbnails,
    iterate_groups,
)
from paddlemae.data.inspect.survey import COLUMNS, ROWS, make_thumbnail
from tests.support.pictures import scenes


def thumbnails_of(pictures: np.ndarray) -> np.ndarray:
    return np.stack([make_thumbnail(each).ravel() for each in pictures])


def grouped(
    thumbnails: np.ndarray, exact: np.ndarray | None = None, among: np.ndarray | None = None
) -> list[list[int]]:
    count = len(thumbnails)
    exact = np.arange(count) if exact is None else exact
    among = np.ones(count, np.bool_) if among is None else among
    steps: list[int] = []
    firsts = find_near_groups(thumbnails, exact, among, steps.append)
    assert steps == list(range(1, duplicates.NEAR_STEPS + 1))
    return [group.tolist() for group in iterate_groups(firsts)]


def test_exact_groups_begin_with_their_first_image() -> None:
    digests = np.array([[1, 2], [3, 4], [1, 2], [1, 3], [3, 4], [1, 2]], np.uint64)
    among = np.array([True, True, True, True, True, False])
    assert find_exact_groups(digests, among).tolist() == [0, 1, 0, 3, 1, 5]
    assert [group.tolist() for group in iterate_groups(find_exact_groups(digests, among))] == [[0, 2], [1, 4]]


def test_the_hash_tells_which_means_rise_along_rows() -> None:
    rising = np.tile(np.arange(COLUMNS, dtype=np.uint8), (ROWS, 1))
    rising[-2:] = rising[-2:, ::-1]
    values = np.stack([rising.ravel(), 255 - rising.ravel(), np.full(ROWS * COLUMNS, 7, np.uint8)])
    assert [f"{value:016x}" for value in hash_thumbnails(values).tolist()] == [
        "ffffffffffffff00",
        "00000000000000ff",
        "0" * 16,
    ]


def test_only_edited_copies_are_found() -> None:
    pictures = scenes(60, 0)
    smaller = np.stack([np.asarray(Image.fromarray(each).resize((40, 50))) for each in pictures[:10]])
    darker = (pictures[10:20] * 0.6).astype(np.uint8)
    noise = np.random.default_rng(1).integers(-8, 9, pictures[20:30].shape)
    noisy = np.clip(pictures[20:30] + noise, 0, 255).astype(np.uint8)
    mirrored = pictures[30:40, :, ::-1]
    all_of_them = [pictures, smaller, darker, noisy, mirrored]
    found = grouped(np.concatenate([thumbnails_of(each) for each in all_of_them]))
    assert found == [[i, 60 + i] for i in range(30)]


def test_pairs_are_those_that_comparing_each_with_each_finds() -> None:
    """Of which all that differ in 6 bits, and here those that differ in more."""
    first = scenes(80, 2)
    blends = np.concatenate([first * (1 - share) + scenes(80, 3) * share for share in (0.05, 0.15, 0.3)])
    thumbnails = thumbnails_of(np.concatenate([first, blends.astype(np.uint8)]))
    hashes = hash_thumbnails(thumbnails)
    a, b = np.array(list(itertools.combinations(range(len(thumbnails)), 2))).T
    bits = np.array([int(x ^ y).bit_count() for x, y in zip(hashes[a].tolist(), hashes[b].tolist())])
    near = are_similar(thumbnails[a], thumbnails[b]) & (bits <= duplicates.MOST_BITS)
    assert near.sum() > 100 and (bits[near] > 3).any()
    groups = {member: group[0] for group in grouped(thumbnails) for member in group}
    missed = [(i, j) for i, j in zip(a[near].tolist(), b[near].tolist()) if groups.get(i, i) != groups.get(j, -1)]
    assert not missed
    linked = set(a[near].tolist()) | set(b[near].tolist())
    assert set(groups) == linked


def test_groups_join_what_is_linked_exact_duplicates_too() -> None:
    thumbnails = thumbnails_of(scenes(4, 4))[[0, 1, 2, 0, 3, 1, 2]]
    exact = np.array([0, 1, 2, 3, 4, 1, 6])  # 1 and 5 are copies of a file; 0 and 3, 2 and 6 only look the same
    assert grouped(thumbnails, exact) == [[0, 3], [1, 5], [2, 6]]
    among = np.array([True, True, True, False, True, True, True])
    assert grouped(thumbnails, exact, among) == [[1, 5], [2, 6]]


def test_copies_of_a_near_duplicate_are_in_its_group() -> None:
    assert grouped(thumbnails_of(scenes(2, 8))[[0, 1, 0, 0]], np.array([0, 1, 2, 2])) == [[0, 2, 3]]


@pytest.mark.parametrize("correlation, alike", [(0.96, False), (0.98, True)])
def test_thumbnails_are_compared_by_correlation(correlation: float, alike: bool) -> None:
    one, other = np.random.default_rng(9).standard_normal((2, ROWS * COLUMNS))
    one, other = (each - each.mean() for each in (one, other))
    other -= one * (one @ other) / (one @ one)  # nothing in common
    mixed = correlation * one / np.linalg.norm(one) + np.sqrt(1 - correlation**2) * other / np.linalg.norm(other)
    a, b = (np.round(128 + each).astype(np.uint8)[None] for each in (35 * one, 300 * mixed))
    assert are_similar(a, b).tolist() == [alike]


@pytest.mark.parametrize("levels, expected", [(1, [[0, 1]]), (5, [])])
def test_flat_images_are_alike_if_they_are_equally_bright(levels: int, expected: list) -> None:
    noise = np.random.default_rng(5).integers(0, 2, (2, ROWS * COLUMNS))
    noise[1] = noise[0] + levels  # the same hash
    assert grouped((noise + 200).astype(np.uint8)) == expected


def test_many_images_with_common_bands_take_bounded_work(monkeypatch) -> None:
    compared = []
    real = duplicates.are_similar
    monkeypatch.setattr(duplicates, "are_similar", lambda a, b: compared.append(len(a)) or real(a, b))
    monkeypatch.setattr(duplicates, "MOST_COMPARED", 3)
    black = np.zeros((5000, ROWS * COLUMNS), np.uint8)
    assert len(grouped(black)[0]) == 5000 and not compared  # they are one image
    rng = np.random.default_rng(6)
    base = thumbnails_of(scenes(1, 7)).astype(np.int64)
    frames = np.clip(base + rng.integers(-1, 2, (500, base.size)), 0, 255).astype(np.uint8)
    assert len(grouped(frames)[0]) == 500 and sum(compared) < 500 * 3 * duplicates.NEAR_STEPS
