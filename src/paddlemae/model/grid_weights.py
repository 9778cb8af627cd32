"""Matrices that resize or pool one axis of a map, in NumPy.

Shapes: n new and m old places along the axis.
"""

from __future__ import annotations

import math

import numpy as np


def bilinear_weights(new: int, old: int) -> np.ndarray:
    """Return the matrix [n, m] of linear interpolation with pixels as areas (`align_corners=False`)."""
    places = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
    first = np.minimum(places.astype(int), old - 1)
    matrix = np.zeros((new, old), np.float32)
    matrix[np.arange(new), first] = 1 - (places - first)
    matrix[np.arange(new), np.minimum(first + 1, old - 1)] += places - first
    return matrix


def pooling_weights(new: int, old: int) -> np.ndarray:
    """Return the matrix [n, m] of adaptive average pooling: n ranges that cover all places, and overlap if need be."""
    matrix = np.zeros((new, old), np.float32)
    for place in range(new):
        start, stop = place * old // new, math.ceil((place + 1) * old / new)
        matrix[place, start:stop] = 1 / (stop - start)
    return matrix
