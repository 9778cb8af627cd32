"""Find the nearest rows of a bank of features by cosine similarity, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Blocks of similarities, 64 MB each: a bank of any size takes its own memory, its queries', and a few such blocks
QUERIES_AT_ONCE = 1 << 8
BANK_AT_ONCE = 1 << 16
LEAST_LENGTH = 1e-15  # of a row whose squares keep their digits in float32; the largest is one over that


def check_k(k: int, bank: int) -> None:
    if not 1 <= k <= bank:
        raise ValueError(f"k must be in 1..{bank} (the images to compare with), got {k}")


def nearest(bank_ND: np.ndarray, query_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k most similar rows of the bank: (cosine [Q, k], their numbers int64 [Q, k]), the nearest first.

    Exact, block by block. Of rows that are equally near, which one comes into the last place is left open.

    Raises:
        ValueError: k outside 1..N, or features of another width.
    """
    check_k(k, len(bank_ND))
    if bank_ND.shape[1] != query_QD.shape[1]:
        raise ValueError(
            f"the queries have {query_QD.shape[1]} features and the bank {bank_ND.shape[1]}; "
            "compare features of one model and layer"
        )
    cosine_Qk = np.empty((len(query_QD), k), np.result_type(bank_ND, query_QD))
    nearest_Qk = np.empty((len(query_QD), k), np.int64)
    for start in range(0, len(query_QD), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        cosine_Qk[rows], nearest_Qk[rows] = _nearest_of_few(bank_ND, _unit(query_QD[rows]), k)
    return cosine_Qk, nearest_Qk


def _nearest_of_few(bank_ND: np.ndarray, unit_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Do what `nearest` does for queries whose similarities to a block of the bank fit into memory."""
    similarities: NDArray[Any] = np.empty((len(unit_QD), 0), unit_QD.dtype)
    numbers: NDArray[Any] = np.empty((len(unit_QD), 0), np.int64)
    for start in range(0, len(bank_ND), BANK_AT_ONCE):
        cosine = unit_QD @ _unit(bank_ND[start : start + BANK_AT_ONCE]).T
        best = _largest(cosine, k)
        similarities = np.concatenate([similarities, np.take_along_axis(cosine, best, axis=1)], axis=1)
        numbers = np.concatenate([numbers, best + start], axis=1)
        best = _largest(similarities, k)
        similarities, numbers = (np.take_along_axis(each, best, axis=1) for each in (similarities, numbers))
    order = np.lexsort((numbers, -similarities), axis=1)
    return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(numbers, order, axis=1)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of each row's k largest values, in any order."""
    columns = values.shape[1]
    if columns <= k:
        return np.broadcast_to(np.arange(columns), values.shape)
    return np.argpartition(values, columns - k, axis=1)[:, columns - k :]


def _unit(rows: np.ndarray) -> np.ndarray:
    """Return the rows at a length of 1, whatever theirs is; rows of zeros stay.

    Raises:
        ValueError: a row that is not finite, which would be nearest to everything.
    """
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(rows, axis=1)
    extreme = ~((lengths > LEAST_LENGTH) & (lengths < 1 / LEAST_LENGTH))
    if extreme.any():  # whose squares float32 can't hold
        if not np.isfinite(rows[extreme]).all():
            raise ValueError("features hold numbers that are not finite; compute them again with another checkpoint")
        largest = np.abs(rows[extreme]).max(axis=1, keepdims=True)
        rows = rows.copy()
        rows[extreme] /= np.where(largest > 0, largest, 1)
        lengths[extreme] = np.linalg.norm(rows[extreme], axis=1)
    return rows / np.where(lengths > 0, lengths, 1)[:, None]


def standardise(bank_ND: np.ndarray, query_QD: np.ndarray) -> None:
    """Bring each feature of both to the bank's mean 0 and deviation 1, in place and in blocks."""
    blocks = [bank_ND[start : start + BANK_AT_ONCE] for start in range(0, len(bank_ND), BANK_AT_ONCE)]
    mean_D = bank_ND.mean(axis=0, dtype=np.float64)
    squares_D = sum(np.square(block - mean_D).sum(axis=0) for block in blocks)
    deviation_D = np.maximum(np.sqrt(squares_D / len(bank_ND)), 1e-6)
    for block in (*blocks, query_QD):
        block -= mean_D.astype(block.dtype)
        block /= deviation_D.astype(block.dtype)
