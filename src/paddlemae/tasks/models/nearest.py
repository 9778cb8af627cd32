"""Find the nearest rows of a bank of features by cosine similarity, block by block, and normalise features before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Blocks of similarities, 64 MB each: a bank of any size takes its own memory, its queries', and a few such blocks
QUERIES_AT_ONCE = 1 << 8
BANK_AT_ONCE = 1 << 16
MOST_WHITENED_BY = 1 << 17  # rows of the bank that give the covariance: an even sample of more
LEAST_VARIANCE = 1e-9  # of a direction of whitened features, as a share of the largest
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


def whiten(bank_ND: np.ndarray, query_QD: np.ndarray) -> None:
    """Make the bank's features uncorrelated, with mean 0 and deviation 1, and transform the queries alike, in place.

    The covariance is shrunk by the rule of Ledoit and Wolf ("A well-conditioned estimator for large-dimensional
    covariance matrices"), which hardly changes it for many rows and keeps noise from being amplified for few. Of very
    many rows a sample gives it. The result is in the bank's principal directions, the ones of least variance first.
    """
    from sklearn.covariance import ledoit_wolf  # slow to import

    standardise(bank_ND, query_QD)
    if len(bank_ND) < 2:
        return
    covariance_DD, _ = ledoit_wolf(bank_ND[:: -(-len(bank_ND) // MOST_WHITENED_BY)], assume_centered=True)
    variance_D, directions_DD = np.linalg.eigh(covariance_DD)
    variance_D = np.maximum(variance_D, LEAST_VARIANCE * max(variance_D.max(), np.finfo(np.float32).tiny))
    transform_DD = directions_DD / np.sqrt(variance_D)
    for rows in (bank_ND, query_QD):
        for start in range(0, len(rows), BANK_AT_ONCE):
            block = rows[start : start + BANK_AT_ONCE]
            block[:] = block @ transform_DD


# Norms of features that need those of all images: (bank [N, D], queries [Q, D]) -> None, in place
NORMS_OVER_IMAGES: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {"batch": standardise, "whiten": whiten}
