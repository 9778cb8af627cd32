"""Position tables: their formulas, which half is which, and resizing."""

import math

import numpy as np
import paddle
import pytest

from paddlemae.model.positions import resize_positions
from paddlemae.model.sincos import sincos_1d, sincos_2d
from tests.parity import cases


@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (1, 5), (4, 4)])
def test_2d_table_is_the_formula_with_the_column_half_first(grid: tuple[int, int]) -> None:
    width = 12
    table = sincos_2d(width, grid)
    assert table.shape == (grid[0] * grid[1], width) and table.dtype == np.float32
    for row in range(grid[0]):
        for column in range(grid[1]):
            wanted = []
            for coordinate in (column, row):
                angles = [coordinate / 10000 ** (k / 3) for k in range(3)]
                wanted += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            np.testing.assert_allclose(table[row * grid[1] + column], wanted, atol=1e-7)


def test_2d_halves_depend_on_one_coordinate_each() -> None:
    table = sincos_2d(8, (3, 5)).reshape(3, 5, 8)
    assert (table[..., :4] == table[:1, :, :4]).all(), "the first half must not see the row"
    assert (table[..., 4:] == table[:, :1, 4:]).all(), "the second half must not see the column"
    assert len(np.unique(table.reshape(15, 8), axis=0)) == 15


@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (1, 6)])
def test_1d_table_interleaves_sines_and_cosines_along_the_sequence(grid: tuple[int, int]) -> None:
    table = sincos_1d(6, grid)
    assert table.shape == (6, 6) and table.dtype == np.float32
    for place in range(6):
        for k in range(3):
            angle = place / 10000 ** (2 * k / 6)
            np.testing.assert_allclose(table[place, 2 * k], math.sin(angle), atol=1e-7)
            np.testing.assert_allclose(table[place, 2 * k + 1], math.cos(angle), atol=1e-7)


def test_widths_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 4, got 6"):
        sincos_2d(6, (2, 2))
    with pytest.raises(ValueError, match="even width, got 7"):
        sincos_1d(7, (2, 2))


def test_resizing_to_the_same_grid_is_the_very_same_table() -> None:
    table = paddle.to_tensor(cases.table_LD((2, 6)))
    assert resize_positions(table, (2, 6), (2, 6)) is table
    assert resize_positions(table, (2, 6), (3, 4)) is not table, "as many patches, but another grid"


def test_resizing_is_pytorchs_bicubic() -> None:
    for old, new in cases.RESIZES:
        got = resize_positions(paddle.to_tensor(cases.table_LD(old)), old, new).numpy()
        with np.load(cases.RESIZED_GOLDEN) as goldens:
            np.testing.assert_allclose(got, goldens[f"{old}-{new}"], atol=1e-5)


def test_resizing_keeps_rows_rows_and_constants_constant() -> None:
    rows, columns = np.indices((4, 6)).reshape(2, -1).astype(np.float32)
    table = paddle.to_tensor(np.stack([rows, columns, np.full(24, 7, np.float32)], axis=1))
    resized = resize_positions(table, (4, 6), (8, 3)).numpy().reshape(8, 3, 3)
    assert np.ptp(resized[..., 0], axis=1).max() < 1e-5 and (np.diff(resized[..., 0], axis=0) > 0).all()
    assert np.ptp(resized[..., 1], axis=0).max() < 1e-5 and (np.diff(resized[..., 1], axis=1) > 0).all()
    np.testing.assert_allclose(resized[..., 2], 7, rtol=1e-6)
