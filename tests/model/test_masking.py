"""Masks: how many patches stay, which ones, whose randomness, and which requests are refused."""

from itertools import product

import numpy as np
import pytest

from paddlemae.model.masking import Mask, block_mask, given_mask, grid_mask, num_kept, random_mask

GRIDS = [(1, 1), (1, 7), (2, 2), (3, 5), (5, 3), (7, 7), (8, 8), (14, 14)]


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, image]) for image in range(count)]


def assert_partition(mask: Mask, batch: int, num_patches: int, keep: int) -> None:
    """Every patch is on exactly one side, `keep` of them kept in each image."""
    assert mask.keep.shape == (batch, keep) and mask.removed.shape == (batch, num_patches - keep)
    assert mask.keep.dtype == mask.removed.dtype == np.int64
    everything = np.sort(np.concatenate([mask.keep, mask.removed], axis=1), axis=1)
    assert (everything == np.arange(num_patches)).all()
    assert (mask.as_map().sum(axis=1) == num_patches - keep).all()


def test_every_kind_keeps_the_exact_number() -> None:
    for grid, kind in product(GRIDS, ["random", "block", "given"]):
        num_patches = grid[0] * grid[1]
        for keep in sorted({1, (num_patches + 3) // 4, (num_patches + 1) // 2, num_patches}):
            noise = np.random.default_rng(keep).uniform(size=(3, num_patches))
            if kind == "random":
                mask = random_mask(noise, keep)
            elif kind == "block":
                mask = block_mask(generators(3), grid, keep)
            else:
                mask = given_mask(np.argsort(np.argsort(noise, axis=1), axis=1) >= keep, grid)
            assert_partition(mask, 3, num_patches, keep)


def test_random_mask_keeps_the_lowest_noise_in_ascending_order() -> None:
    mask = random_mask(np.array([[0.4, 0.1, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4]]), 2)
    assert mask.keep.tolist() == [[1, 3], [0, 1]]
    assert mask.removed.tolist() == [[2, 0], [2, 3]]


def test_as_map_marks_removed_patches() -> None:
    mask = Mask(keep=np.array([[2, 0], [3, 1]]), removed=np.array([[1, 3], [0, 2]]))
    assert mask.as_map().dtype == bool
    assert mask.as_map().tolist() == [[False, True, False, True], [True, False, True, False]]


def test_random_mask_removes_every_patch_equally_often() -> None:
    removed = random_mask(np.random.default_rng(0).uniform(size=(4000, 16)), 4).as_map().mean(axis=0)
    assert np.abs(removed - 0.75).max() < 0.04  # six deviations of 4000 draws


def test_grid_mask_keeps_one_patch_of_every_2_by_2() -> None:
    for grid in GRIDS:
        removed = grid_mask(2, grid).as_map().reshape(2, *grid)
        for top in range(0, grid[0], 2):
            for left in range(0, grid[1], 2):
                block = removed[:, top : top + 2, left : left + 2]
                assert not block[:, 0, 0].any() and (~block).sum() == 2
        assert_partition(grid_mask(2, grid), 2, grid[0] * grid[1], -(-grid[0] // 2) * -(-grid[1] // 2))


def neighbours_removed(removed_BHW: np.ndarray) -> float:
    """Share of the horizontal neighbours of removed patches that are removed too."""
    left, right = removed_BHW[:, :, :-1], removed_BHW[:, :, 1:]
    return (left & right).sum() / left.sum()


def test_block_masks_consist_of_blocks() -> None:
    blocks = block_mask(generators(64), (14, 14), 98).as_map().reshape(-1, 14, 14)
    noise = np.random.default_rng(0).uniform(size=(64, 196))
    scattered = random_mask(noise, 98).as_map().reshape(-1, 14, 14)
    assert neighbours_removed(scattered) < 0.55
    assert neighbours_removed(blocks) > 0.8
    assert neighbours_removed(blocks.transpose(0, 2, 1)) > 0.8


def largest_rectangle(removed_HW: np.ndarray) -> int:
    """Patches of the largest rectangle that is removed as a whole."""
    height, width = removed_HW.shape
    rows = [slice(top, end) for top in range(height) for end in range(top + 1, height + 1)]
    columns = [slice(left, end) for left in range(width) for end in range(left + 1, width + 1)]
    return max(removed_HW[r, c].size for r in rows for c in columns if removed_HW[r, c].all())


def test_a_small_removal_is_one_rectangle() -> None:
    """Aspects of 0.3 to 3.3 round 16 patches, BEiT's smallest block, to rectangles of 12 to 20."""
    maps = block_mask(generators(20), (8, 8), 64 - 16).as_map().reshape(-1, 8, 8)
    assert min(largest_rectangle(removed) for removed in maps) >= 12
    scattered = random_mask(np.random.default_rng(0).uniform(size=(20, 64)), 64 - 16).as_map()
    assert max(largest_rectangle(removed) for removed in scattered.reshape(-1, 8, 8)) < 12


def test_masks_are_a_function_of_their_generators() -> None:
    first = block_mask(generators(4), (8, 8), 16)
    again = block_mask(generators(4), (8, 8), 16)
    other = block_mask(generators(4, seed=1), (8, 8), 16)
    assert (first.keep == again.keep).all() and (first.removed == again.removed).all()
    assert (first.as_map() != other.as_map()).any()
    alone = block_mask(generators(4)[2:3], (8, 8), 16)
    assert (alone.keep[0] == first.keep[2]).all(), "an image's mask must not depend on its batch"
    np.random.seed(0)
    before = np.random.get_state()[2]
    block_mask(generators(4), (8, 8), 16)
    assert np.random.get_state()[2] == before, "the global generator is not ours"


def test_num_kept_rounds_down_without_float_slips() -> None:
    for num_patches, ratio, kept in [(196, 0.75, 49), (100, 0.9, 10), (49, 0.75, 12), (16, 0, 16), (10, 0.7, 3)]:
        assert num_kept(num_patches, ratio) == kept


def test_num_kept_rounds_down_where_the_official_code_slips() -> None:
    """docs/parity.md says where `int(patches * (1 - ratio))` of the official code keeps one patch less."""
    less = []
    for patches in (49, 64, 100, 144, 196, 256, 400):
        for percent in range(0, 96, 5):
            kept = num_kept(patches, percent / 100)
            assert kept == patches * (100 - percent) // 100, (patches, percent)
            official = int(patches * (1 - percent / 100))
            assert kept - official in (0, 1)
            if kept != official:
                less.append((patches, percent))
    assert less == [(patches, percent) for patches in (100, 400) for percent in (55, 80, 90)]


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5, float("nan")])
def test_ratios_outside_the_unit_interval_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"mask_ratio must be in \[0, 1\)"):
        num_kept(196, ratio)


def test_a_ratio_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"keeps none of 16 patches; use at most 0\.93"):
        num_kept(16, 0.95)
    assert num_kept(16, 0.937) == 1


@pytest.mark.parametrize("keep", [0, -1, 5])
def test_keeping_none_or_more_than_there_are_is_refused(keep: int) -> None:
    with pytest.raises(ValueError, match=r"num_keep must be in 1\.\.4"):
        random_mask(np.zeros((1, 4)), keep)
    with pytest.raises(ValueError, match=r"num_keep must be in 1\.\.4"):
        block_mask(generators(1), (2, 2), keep)


def test_given_mask_reads_flat_and_square_maps_of_any_number_type() -> None:
    flat = np.array([[0, 1, 1, 0, 1, 0]])
    for given in (flat, flat.astype(bool), flat.astype(np.float32), flat.reshape(1, 2, 3)):
        mask = given_mask(given, (2, 3))
        assert mask.keep.tolist() == [[0, 3, 5]] and mask.removed.tolist() == [[1, 2, 4]]


def test_given_masks_that_can_not_be_used_say_why() -> None:
    for given, message in [
        (np.zeros((1, 5)), r"\[B, 6\] or \[B, 2, 3\].*got \[1, 5\]"),
        (np.zeros(6), r"got \[6\]"),
        (np.zeros((1, 3, 2)), r"got \[1, 3, 2\]"),
        (np.full((1, 6), 0.5), "0 .kept. and 1 .removed. only"),
        (np.array([[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]), r"same number of patches.*keep \[4, 5\]"),
        (np.ones((2, 6)), r"at least 1; these keep \[0\]"),
    ]:
        with pytest.raises(ValueError, match=message) as raised:
            given_mask(given, (2, 3))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("num_patches", [16, 49, 196, 256])
def test_the_largest_ratio_that_an_error_names_is_accepted(num_patches: int) -> None:
    with pytest.raises(ValueError, match="use at most") as fault:
        num_kept(num_patches, 0.999)
    assert num_kept(num_patches, float(str(fault.value).split()[-1])) >= 1
