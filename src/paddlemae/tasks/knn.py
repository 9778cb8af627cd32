"""Classify by the nearest neighbours among labelled features."""

from __future__ import annotations

import numpy as np

TEMPERATURE = 0.07  # Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", sec. 3.4
SIMILARITIES_AT_ONCE = 1 << 24


def knn_predict(bank: np.ndarray, bank_labels: np.ndarray, queries: np.ndarray, k: int = 20) -> np.ndarray:
    """Vote among the k nearest by cosine, each weighing exp(similarity / 0.07).

    Args:
        bank: float [N, D]; bank_labels: int64 [N].
        queries: float [Q, D].
        k: neighbours that vote, at most N.
    Returns:
        int64 [Q]; the lowest class wins a tie.
    Raises:
        ValueError: k outside 1..N.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k must be in 1..{len(bank)} (the images to compare with), got {k}")
    bank, queries = _unit(bank), _unit(queries)
    chunks = range(0, len(queries), max(1, SIMILARITIES_AT_ONCE // len(bank)))
    step = chunks.step
    return np.concatenate([_vote(bank, bank_labels, queries[start : start + step], k) for start in chunks])


def _vote(bank: np.ndarray, bank_labels: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """`knn_predict` of unit vectors whose similarities fit into memory."""
    similarity = queries @ bank.T
    nearest = np.argpartition(similarity, len(bank) - k, axis=1)[:, len(bank) - k :]
    weights = np.exp(np.take_along_axis(similarity, nearest, axis=1) / TEMPERATURE)
    votes = np.zeros((len(queries), int(bank_labels.max()) + 1))
    np.add.at(votes, (np.arange(len(queries))[:, None], bank_labels[nearest]), weights)
    return votes.argmax(axis=1)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
