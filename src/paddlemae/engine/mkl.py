"""Products of matrices by MKL, the matrix library in Paddle's wheel, for what it computes faster than oneDNN."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from paddlemae.engine.onednn_primitives import AVX512, FLOAT32, FLOAT_BYTES, Layout, Operation, library
from paddlemae.engine.safe_import import matrix_library

ROW_MAJOR, AS_IT_IS, TRANSPOSED = 101, 111, 112  # of cblas.h
# with AVX-512, sums of this many rows or more, for a weight of this size or more, are 0 to 20% faster by MKL; for one
# of the last size any sum is (measured)
LONG_SUM, LARGE_WEIGHT, HUGE_WEIGHT = 2048, 1 << 18, 1 << 20


class _Operand(NamedTuple):
    """How cblas names a matrix: whether its memory is transposed, and the numbers from one line of it to the next."""

    transposes: int
    stride: int


def product(left: Layout, right: Layout, out: Layout, scale: float, accumulates: bool) -> Operation | None:
    """Return what writes `scale * left @ right` of addresses left, right, out; None where oneDNN is the better choice.

    Args:
        accumulates: whether the result is added to what is in `out`.
    """
    operands = [operand for each in (left, right, out) if (operand := _operand(each))]
    blas = matrix_library()
    if not blas or len(operands) < 3 or operands[2].transposes != AS_IT_IS or not _is_faster(left, right, out):
        return None
    if len(out.sizes) == 2:
        return _one_product(blas.cblas_sgemm, left, out, operands, scale, accumulates)
    return _several_products(blas.cblas_sgemm_batch, left, right, out, operands, scale, accumulates)


def _is_faster(left: Layout, right: Layout, out: Layout) -> bool:
    """Return whether MKL is the faster library, as measured.

    Without AVX-512 oneDNN 3.6 has one implementation of products for all processors: on an AMD Zen 3, MKL was 0 to 90%
    faster for a product, and 0 to 300% for many small ones.
    """
    if not left.kind == right.kind == out.kind == FLOAT32 or out.sizes[-2] == 1:
        return False
    if not library().has(AVX512):
        return True
    rows, weight = left.sizes[-1], out.sizes[-2] * out.sizes[-1]
    is_sum_of_rows = len(out.sizes) == 2 and left.strides[-1] != 1
    return is_sum_of_rows and weight >= (LARGE_WEIGHT if rows >= LONG_SUM else HUGE_WEIGHT)


def _operand(layout: Layout) -> _Operand | None:
    """Return how cblas names the matrices of a layout; None if their lines are not contiguous."""
    (rows, columns), (down, across) = layout.sizes[-2:], layout.strides[-2:]
    if across == 1 and (rows == 1 or down >= columns):
        return _Operand(AS_IT_IS, max(down, columns))
    if down == 1 and (columns == 1 or across >= rows):
        return _Operand(TRANSPOSED, max(across, rows))
    return None


def _one_product(
    multiply: Any, left: Layout, out: Layout, operands: Sequence[_Operand], scale: float, accumulates: bool
) -> Operation:
    (first, line1), (second, line2), (_, line3) = operands
    sizes, alpha, beta = (*out.sizes, left.sizes[-1]), ctypes.c_float(scale), ctypes.c_float(accumulates)
    pointer = ctypes.c_void_p

    def call(left: int, right: int, out: int) -> None:
        matrices = pointer(left), line1, pointer(right), line2, beta, pointer(out), line3
        multiply(ROW_MAJOR, first, second, *sizes, alpha, *matrices)

    return call


def _several_products(
    multiply: Any,
    left: Layout,
    right: Layout,
    out: Layout,
    operands: Sequence[_Operand],
    scale: float,
    accumulates: bool,
) -> Operation:
    places = [_places(each) for each in (left, right, out)]
    pointers = [np.empty_like(each) for each in places]
    transposed, lines = ([ctypes.byref(ctypes.c_int(each[part])) for each in operands] for part in (0, 1))
    sizes = [ctypes.byref(ctypes.c_int(size)) for size in (*out.sizes[-2:], left.sizes[-1])]
    alpha, beta = (ctypes.byref(ctypes.c_float(factor)) for factor in (scale, accumulates))
    first, second, third = (ctypes.c_void_p(each.ctypes.data) for each in pointers)
    matrices = first, lines[0], second, lines[1], beta, third, lines[2]
    arguments = ROW_MAJOR, *transposed[:2], *sizes, alpha, *matrices, 1, ctypes.byref(ctypes.c_int(len(places[0])))

    def call(*addresses: int) -> None:
        for pointer, place, address in zip(pointers, places, addresses, strict=True):
            np.add(place, address, out=pointer)
        multiply(*arguments)

    return call


def _places(layout: Layout) -> np.ndarray:
    """Return where each matrix of a layout begins, in bytes."""
    places = np.zeros(1, np.int64)
    for size, stride in zip(layout.sizes[:-2], layout.strides[:-2], strict=True):
        places = np.add.outer(places, FLOAT_BYTES * stride * np.arange(size)).ravel()
    return places
