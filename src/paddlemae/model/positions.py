"""Position tables for other grids.

Shapes: L patches of a grid (rows x columns), D width.
"""

from __future__ import annotations

from paddlemae.engine.safe_import import F


def resize_positions(table_LD, old_grid: tuple[int, int], new_grid: tuple[int, int]):
    """Resize a table from one patch grid to another by bicubic interpolation (DeiT, sec. 6).

    Args:
        table_LD: Paddle tensor, float [L_old, D], row-major, without a cls row.
        old_grid, new_grid: (rows, columns).
    Returns:
        tensor [L_new, D]; the very same tensor when the grids agree.
    """
    if tuple(old_grid) == tuple(new_grid):
        return table_LD
    picture_1DHW = table_LD.reshape([1, *old_grid, -1]).transpose([0, 3, 1, 2])
    resized = F.interpolate(picture_1DHW, size=list(new_grid), mode="bicubic", align_corners=False)
    return resized.transpose([0, 2, 3, 1]).reshape([new_grid[0] * new_grid[1], -1])
