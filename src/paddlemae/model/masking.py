"""Choose the patches that are removed from an image: random, block-wise, grid and given masks.

Masks are drawn on the host with NumPy, from noise or a generator that the caller owns, so that the
same seed removes the same patches on every device and with any number of processes.

Shapes: B images, L patches of a grid (rows x columns), K kept patches, M = L - K removed ones.
Everywhere 1 means removed and 0 kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# BEiT (arXiv 2106.08254), algorithm 1: the smallest block in patches and the range of aspect ratios.
BEIT_MIN_PATCHES = 16
BEIT_MIN_ASPECT = 0.3


@dataclass(frozen=True)
class Mask:
    """Patch indices of a batch: `keep` int64 [B, K] and `removed` int64 [B, M], together 0..L-1."""

    keep: np.ndarray
    removed: np.ndarray

    def as_map(self) -> np.ndarray:
        """Return bool [B, L], True where a patch is removed."""
        map_BL = np.zeros((len(self.keep), self.keep.shape[1] + self.removed.shape[1]), dtype=bool)
        np.put_along_axis(map_BL, self.removed, True, axis=1)
        return map_BL


Generators = Sequence[np.random.Generator]  # one an image, or the same one again and again; the caller owns them
Grid = tuple[int, int]  # (rows, columns) of patches


@dataclass(frozen=True)
class MaskKind:
    """A way to draw masks.

    Attributes:
        draw: (generators, grid, patches kept in each image) -> Mask.
        fixed_ratio: the share of patches that it removes whatever ratio is set, up to a grid's odd sides; None is any.
    """

    draw: Callable[[Generators, Grid, int], Mask]
    fixed_ratio: float | None = None

    def num_kept(self, grid: Grid, mask_ratio: float) -> int:
        """Return the number of patches kept in each image; errors as `num_kept`."""
        if self.fixed_ratio is None:
            return num_kept(grid[0] * grid[1], mask_ratio)
        return self.draw([np.random.default_rng(0)], grid, 0).keep.shape[1]


def num_kept(num_patches: int, mask_ratio: float) -> int:
    """Return the number of patches kept of `num_patches` when `mask_ratio` of them is removed, rounded down.

    Raises:
        ValueError: mask_ratio outside [0, 1), or so high that no patch would be kept.
    """
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio must be in [0, 1), got {mask_ratio}; the paper removes 0.75")
    kept = int(num_patches * (1 - mask_ratio) + 1e-9)  # 100 * (1 - 0.9) is 9.999...
    if kept == 0:
        most = math.floor((1 - 1 / num_patches) * 1000) / 1000
        raise ValueError(f"mask_ratio {mask_ratio} keeps none of {num_patches} patches; use at most {most}")
    return kept


def num_predicted(num_patches: int, num_removed: int, prediction_ratio: float | None) -> int:
    """Return the number of patches to predict: all removed ones, or a ratio of *all* patches (CrossMAE, sec. 3.3).

    A ratio is rounded up, as the removed ones are, so that one equal to the mask's predicts all of them.

    Raises:
        ValueError: more than are removed.
    """
    if prediction_ratio is None:
        return num_removed
    count = math.ceil(num_patches * prediction_ratio - 1e-9)
    if not 1 <= count <= num_removed:
        raise ValueError(
            f"prediction_ratio is a share of all patches: {prediction_ratio} asks for {count} of {num_patches}, but "
            f"{num_removed} are removed; use at most {math.floor(num_removed / num_patches * 1000) / 1000}"
        )
    return count


def draw_predicted(generators: Sequence[np.random.Generator], removed_BM: np.ndarray, num_predict: int) -> np.ndarray:
    """Choose removed patches to predict, uniformly at random (CrossMAE, sec. 3.3).

    Args:
        generators: one an image; the caller owns them.
        removed_BM: a mask's removed patches.
        num_predict: 1..M.
    Returns:
        int64 [B, num_predict].
    """
    return np.stack(
        [generator.permutation(removed)[:num_predict] for generator, removed in zip(generators, removed_BM)]
    )


def _draw_random(generators: Generators, grid: Grid, num_keep: int) -> Mask:
    return random_mask(np.stack([generator.random(grid[0] * grid[1]) for generator in generators]), num_keep)


def random_mask(noise_BL: np.ndarray, num_keep: int) -> Mask:
    """Keep the `num_keep` patches with the lowest noise in each image (MAE, sec. 3, "Masking").

    Args:
        noise_BL: float, one draw a patch; the caller owns the randomness.
        num_keep: patches kept in each image, 1..L.
    Returns:
        Mask, each row ascending in noise.
    Raises:
        ValueError: num_keep outside 1..L.
    """
    noise_BL = np.asarray(noise_BL)
    if not 1 <= num_keep <= noise_BL.shape[1]:
        raise ValueError(f"num_keep must be in 1..{noise_BL.shape[1]} (the patches of an image), got {num_keep}")
    order_BL = np.argsort(noise_BL, axis=1, kind="stable").astype(np.int64)
    return Mask(order_BL[:, :num_keep], order_BL[:, num_keep:])


def grid_mask(batch_size: int, grid: tuple[int, int]) -> Mask:
    """Keep the top left patch of every 2 x 2 (MAE, sec. 4.1, "grid-wise sampling").

    Args:
        batch_size: B; every image gets the same mask.
        grid: (rows, columns); on an odd side the last row or column belongs to a cut-off 2 x 2.
    """
    rows, columns = np.indices(grid)
    removed_map = ((rows % 2) | (columns % 2)).astype(bool).ravel()
    return given_mask(np.broadcast_to(removed_map, (batch_size, removed_map.size)), grid)


def block_mask(generators: Generators, grid: tuple[int, int], num_keep: int) -> Mask:
    """Remove rectangular blocks until `num_keep` patches are left (BEiT, algorithm 1).

    Of the block that would remove too many, only the first rows' worth is removed, so that every
    image keeps exactly `num_keep`.

    Args:
        generators: one `np.random.Generator` an image; the caller owns them.
        grid: (rows, columns).
        num_keep: patches kept in each image, 1..L.
    Raises:
        ValueError: num_keep outside 1..L.
    """
    num_patches = grid[0] * grid[1]
    if not 1 <= num_keep <= num_patches:
        raise ValueError(f"num_keep must be in 1..{num_patches} (the patches of an image), got {num_keep}")
    maps = [_blocks(generator, grid, num_patches - num_keep) for generator in generators]
    return given_mask(np.stack(maps), grid)


def _blocks(generator: np.random.Generator, grid: tuple[int, int], num_remove: int) -> np.ndarray:
    removed = np.zeros(grid, dtype=bool)
    while (missing := num_remove - int(removed.sum())) > 0:
        # BEiT draws an area between 16 patches and what is still missing; a small grid or a nearly
        # full mask leaves less than 16.
        area = generator.uniform(min(BEIT_MIN_PATCHES, missing), missing)
        aspect = math.exp(generator.uniform(math.log(BEIT_MIN_ASPECT), -math.log(BEIT_MIN_ASPECT)))
        height = min(grid[0], max(1, round(math.sqrt(area * aspect))))
        width = min(grid[1], max(1, round(math.sqrt(area / aspect))))
        top = generator.integers(grid[0] - height + 1)
        left = generator.integers(grid[1] - width + 1)
        rows, columns = np.nonzero(~removed[top : top + height, left : left + width])
        removed[rows[:missing] + top, columns[:missing] + left] = True
    return removed.ravel()


MASKS = {
    "random": MaskKind(_draw_random),
    "block": MaskKind(block_mask),
    "grid": MaskKind(lambda generators, grid, _: grid_mask(len(generators), grid), fixed_ratio=0.75),
}


def draw_mask(kind: str, generators: Generators, grid: Grid, mask_ratio: float) -> Mask:
    """Draw one mask for each image.

    Args:
        kind: a key of `MASKS`.
        mask_ratio: of the patches to remove, without effect on a kind of a fixed ratio.
    Raises:
        ValueError: another kind, or a ratio that keeps no patch.
    """
    if kind not in MASKS:
        raise ValueError(f"mask must be {', '.join(MASKS)} or a given map, got {kind!r}")
    return MASKS[kind].draw(generators, grid, MASKS[kind].num_kept(grid, mask_ratio))


def given_mask(removed_map: np.ndarray, grid: tuple[int, int]) -> Mask:
    """Use a map drawn by the caller: True or 1 where a patch is removed.

    Args:
        removed_map: bool or 0/1, [B, L] or [B, rows, columns].
        grid: (rows, columns) of the model's patches.
    Raises:
        ValueError: another shape, values other than 0 and 1, images that keep different numbers of
            patches, or none at all.
    """
    removed_map = np.asarray(removed_map)
    num_patches = grid[0] * grid[1]
    if removed_map.ndim < 2 or removed_map.shape[1:] not in ((num_patches,), tuple(grid)):
        raise ValueError(
            f"a mask must be [B, {num_patches}] or [B, {grid[0]}, {grid[1]}] (rows x columns of patches), "
            f"got {list(removed_map.shape)}"
        )
    if not np.isin(removed_map, (0, 1)).all():
        raise ValueError("a mask holds 0 (kept) and 1 (removed) only")
    map_BL = removed_map.reshape(len(removed_map), num_patches).astype(bool)
    kept = np.unique((~map_BL).sum(axis=1))
    if len(kept) > 1 or kept[0] == 0:
        raise ValueError(
            f"every image of a batch must keep the same number of patches, at least 1; these keep {kept.tolist()}"
        )
    order_BL = np.argsort(map_BL, axis=1, kind="stable").astype(np.int64)
    return Mask(order_BL[:, : kept[0]], order_BL[:, kept[0] :])
