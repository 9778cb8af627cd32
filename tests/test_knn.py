"""kNN: against a loop over every pair, and what a tie means."""

import numpy as np
import pytest

from paddlemae.tasks.knn import knn_predict


def by_loops(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int) -> list[int]:
    predicted = []
    for query in queries.astype(np.float64):
        similar = [
            (float(query @ row) / float(np.linalg.norm(query) * np.linalg.norm(row)), int(label))
            for row, label in zip(bank.astype(np.float64), labels)
        ]
        votes: dict[int, float] = {}
        for similarity, label in sorted(similar, reverse=True)[:k]:
            votes[label] = votes.get(label, 0.0) + float(np.exp(similarity / 0.07))
        predicted.append(max(sorted(votes), key=lambda label: votes[label]))
    return predicted


@pytest.mark.parametrize("k", [1, 2, 7, 40])
def test_votes_are_those_of_the_k_most_similar(k: int) -> None:
    rng = np.random.default_rng(k)
    bank, queries = rng.normal(size=(40, 5)), rng.normal(size=(25, 5))
    labels = rng.integers(0, 4, 40)
    predicted = knn_predict(bank, labels, queries, k).tolist()
    assert predicted == by_loops(bank, labels, queries, k) and len(set(predicted)) > 1


def test_length_does_not_count_only_direction() -> None:
    bank = np.array([[100.0, 1.0], [0.01, 0.1]])
    assert knn_predict(bank, np.array([0, 1]), np.array([[1.0, 20.0], [3.0, 0.1]]), 1).tolist() == [1, 0]


def test_a_near_one_outweighs_several_far_ones() -> None:
    bank = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    assert knn_predict(bank, np.array([2, 5, 5, 5]), np.array([[1.0, 0.1]]), 4).tolist() == [2]


def test_the_lowest_class_wins_a_tie() -> None:
    bank = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert knn_predict(bank, np.array([3, 1]), np.array([[1.0, 1.0]]), 2).tolist() == [1]
    assert knn_predict(bank, np.array([1, 3]), np.array([[1.0, 1.0]]), 2).tolist() == [1]


def test_features_of_zeros_are_no_error() -> None:
    assert knn_predict(np.eye(2), np.array([0, 1]), np.zeros((1, 2)), 2).tolist() == [0]


@pytest.mark.parametrize("k", [0, 4])
def test_k_must_be_within_the_bank(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be in 1..3 .*, got {k}"):
        knn_predict(np.eye(3), np.arange(3), np.eye(3), k)
