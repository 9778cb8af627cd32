"""Fixed sine-cosine position tables, in NumPy: models are built with them and weights files known by them.

Shapes: L patches of a grid (rows x columns), D width.
"""

from __future__ import annotations

import numpy as np

TEMPERATURE = 10000.0  # Vaswani et al., "Attention Is All You Need", sec. 3.5


def sincos_2d(width: int, grid: tuple[int, int]) -> np.ndarray:
    """Return fixed 2-D sine-cosine positions (MAE, appendix A.1; MoCo v3).

    Half of the width encodes a patch's column and half its row; the column half comes first, as in
    the published weights. Within each half the sines precede the cosines.

    Args:
        width: D, divisible by 4.
        grid: (rows, columns) of patches.
    Returns:
        float32 [L, D], patches in row-major order.
    Raises:
        ValueError: width not divisible by 4.
    """
    if width % 4:
        raise ValueError(f"2-D sine-cosine positions need a width divisible by 4, got {width}")
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    frequencies = TEMPERATURE ** (-np.arange(width // 4, dtype=np.float64) / (width // 4))
    halves = []
    for coordinate_L in (columns.ravel(), rows.ravel()):
        angles = np.outer(coordinate_L, frequencies)
        halves += [np.sin(angles), np.cos(angles)]
    return np.concatenate(halves, axis=1).astype(np.float32)


def sincos_1d(width: int, grid: tuple[int, int]) -> np.ndarray:
    """Return fixed 1-D sine-cosine positions along the row-major sequence of patches.

    Sines at even and cosines at odd places (Vaswani et al., sec. 3.5).

    Args:
        width: D, divisible by 2.
        grid: (rows, columns) of patches.
    Returns:
        float32 [L, D].
    Raises:
        ValueError: width not divisible by 2.
    """
    if width % 2:
        raise ValueError(f"1-D sine-cosine positions need an even width, got {width}")
    frequencies = TEMPERATURE ** (-np.arange(width // 2, dtype=np.float64) / (width // 2))
    angles = np.outer(np.arange(grid[0] * grid[1]), frequencies)
    return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(-1, width).astype(np.float32)
