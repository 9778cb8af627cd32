"""Turning matrices over: the same values, contiguous, and no copy where none is needed."""

import numpy as np
import pytest

from paddlemae.weights.transpose import transpose


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 16), (33, 100), (48, 7), (1, 40), (40, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_it_is_the_transposed_matrix_contiguous(shape: tuple[int, int], dtype: str) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    for one in (matrix, matrix[::-1], np.repeat(matrix, 2, axis=1)[:, ::2]):
        got = transpose(one)
        np.testing.assert_array_equal(got, one.T)
        assert got.flags.c_contiguous and got.dtype == dtype


def test_turning_back_a_transposed_view_copies_nothing() -> None:
    matrix = np.arange(12.0).reshape(3, 4)
    assert np.shares_memory(transpose(matrix.T), matrix)
