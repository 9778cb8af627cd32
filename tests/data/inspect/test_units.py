"""Images that belong together get one part, and each class the shares that are asked for."""

import numpy as np
import pytest

from paddlemae.data.inspect.units import assign_units, group_firsts, join_units

SHARES = (0.7, 0.2, 0.1)


def counts_of(parts_N: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    counts_KS = np.zeros((labels_N.max() + 1, len(SHARES)), np.int64)
    np.add.at(counts_KS, (labels_N, parts_N), 1)
    return counts_KS


def assign(units_N: np.ndarray, labels_N: np.ndarray, seed: int = 0) -> np.ndarray:
    number = int(labels_N.max()) + 1
    return assign_units(units_N, np.arange(len(labels_N)), labels_N, number, SHARES, np.random.default_rng(seed))


def test_links_of_several_kinds_join_to_units() -> None:
    duplicates = np.array([0, 0, 2, 3, 3, 5])
    patients = group_firsts(np.array([9, 7, 7, 5, 4, 4]))
    assert join_units([duplicates, patients]).tolist() == [0, 0, 0, 1, 1, 1]
    assert join_units([duplicates]).tolist() == [0, 0, 1, 2, 2, 3]


def test_each_class_has_the_shares_and_no_unit_is_divided() -> None:
    rng = np.random.default_rng(1)
    labels_N = np.repeat([0, 1, 2], [600, 200, 40])
    units_N = join_units([group_firsts(labels_N * 1000 + rng.integers(0, 150, len(labels_N)))])
    parts_N = assign(units_N, labels_N)
    for unit in range(units_N.max() + 1):
        assert len(set(parts_N[units_N == unit])) == 1
    counts_KS = counts_of(parts_N, labels_N)
    assert np.abs(counts_KS - np.outer([600, 200, 40], SHARES)).max() <= 1
    large_N = np.bincount(units_N)[units_N] > 4
    assert (np.bincount(parts_N[large_N], minlength=3) > 0).all()  # not in train only


def test_a_seed_repeats_and_another_differs() -> None:
    labels_N = np.arange(100) % 2
    once, again, other = (assign(np.arange(100), labels_N, seed) for seed in (3, 3, 4))
    assert np.array_equal(once, again) and not np.array_equal(once, other)


@pytest.mark.parametrize("images", [3, 4, 5, 9])
def test_a_rare_class_is_in_every_part(images: int) -> None:
    labels_N = np.repeat([0, 1], [500, images])
    assert (counts_of(assign(np.arange(len(labels_N)), labels_N), labels_N)[1] > 0).all()


def test_a_class_of_too_few_units_is_in_the_larger_parts() -> None:
    labels_N = np.array([0] * 50 + [1] * 9 + [2] * 5)
    units_N = np.array([*range(50), *[50] * 8, 51, *[52] * 5])
    counts_KS = counts_of(assign(units_N, labels_N), labels_N)
    assert counts_KS[1].tolist() == [8, 1, 0] and counts_KS[2].tolist() == [5, 0, 0]


def test_images_of_several_classes_and_of_none_are_shared_out() -> None:
    rng = np.random.default_rng(0)
    has_NK = rng.random((300, 4)) < (0.6, 0.3, 0.1, 0.05)
    images_E, classes_E = np.nonzero(has_NK)
    parts_N = assign_units(np.arange(300), images_E, classes_E, 4, SHARES, rng)
    assert np.abs(np.bincount(parts_N) - np.multiply(300, SHARES)).max() <= 3
    for number in range(4):
        wanted = has_NK[:, number].sum() * np.array(SHARES)
        assert np.abs(np.bincount(parts_N[has_NK[:, number]], minlength=3) - wanted).max() <= 3
