"""kNN: against a loop over every pair, against scikit-learn, in blocks, and as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest

from paddlemae.recipe import load_recipe
from paddlemae.tasks import knn
from paddlemae.tasks.knn import TEMPERATURE, Votes, vote_weights, winners
from paddlemae.tasks.models import nearest as nearest_rows
from paddlemae.tasks.models.inference import FeatureKind
from paddlemae.tasks.models.nearest import nearest, standardise, whiten
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.training.run_start import Start


def knn_predict(bank, labels, queries, k: int, votes: Votes = "weighted", temperature: float = TEMPERATURE):
    cosine_Qk, nearest_Qk = nearest(bank, queries, k)
    return winners(labels[nearest_Qk], vote_weights(cosine_Qk, votes, temperature), int(labels.max()) + 1)[0]


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


@pytest.mark.parametrize("length", [1e-38, 1e-25, 1e-16, 1e-12, 1e16, 1e25, 1e37])
def test_extreme_lengths_count_as_little_as_usual_ones(length: float) -> None:
    rng = np.random.default_rng(0)
    bank, queries = rng.uniform(0.5, 1, (20, 6)).astype(np.float32), rng.uniform(0.5, 1, (5, 6)).astype(np.float32)
    cosine, numbers = nearest(bank, queries, 4)
    lengths = np.full(20, length, np.float32)
    lengths[::3] = 1
    again = nearest(bank * lengths[:, None], queries * np.float32(length), 4)
    assert (again[1] == numbers).all()
    np.testing.assert_allclose(again[0], cosine, rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_features_that_are_not_finite_are_refused(value: float, side: int) -> None:
    features = [np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)]
    features[side][1, 0] = value
    with pytest.raises(ValueError, match="not finite"):
        nearest(*features, 2)


@pytest.mark.parametrize("k", [0, 4])
def test_k_must_be_within_the_bank(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be in 1..3 .*, got {k}"):
        knn_predict(np.eye(3), np.arange(3), np.eye(3), k)


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="the queries have 3 features and the bank 4; compare features of one model"):
        nearest(np.eye(4), np.eye(3), 1)


@pytest.mark.parametrize("k", [1, 3, 30])
def test_blocks_of_any_size_find_the_same_neighbours(k: int, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(30, 6)).astype(np.float32), rng.normal(size=(11, 6)).astype(np.float32)
    cosine, numbers = nearest(bank, queries, k)
    assert (np.diff(cosine, axis=1) <= 0).all()
    monkeypatch.setattr(nearest_rows, "QUERIES_AT_ONCE", 4)
    for rows in (1, 7, 29):
        monkeypatch.setattr(nearest_rows, "BANK_AT_ONCE", rows)
        again = nearest(bank, queries, k)
        assert (again[1] == numbers).all()
        # products of another shape may be summed in another order, by the processor and its BLAS
        np.testing.assert_allclose(again[0], cosine, rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [1, 5, 50])
@pytest.mark.parametrize("votes", ["weighted", "plain"])
def test_neighbours_and_votes_are_scikit_learn_s(k: int, votes: str) -> None:
    neighbours = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(k)
    bank, queries = rng.normal(size=(400, 16)), rng.normal(size=(200, 16))
    labels = rng.integers(0, 7, 400)
    weights = "uniform" if votes == "plain" else lambda distance: np.exp((1 - distance) / knn.TEMPERATURE)
    judge = neighbours.KNeighborsClassifier(k, weights=weights, algorithm="brute", metric="cosine").fit(bank, labels)
    assert (nearest(bank, queries, k)[1] == judge.kneighbors(queries, return_distance=False)).all()
    predicted = knn_predict(bank, labels, queries, k, votes=votes)
    assert (predicted == judge.predict(queries)).all()


def test_plain_votes_count_heads() -> None:
    bank = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    labels, query = np.array([2, 5, 5, 5]), np.array([[1.0, 0.1]])
    assert knn_predict(bank, labels, query, 4, votes="plain").tolist() == [5]
    assert knn_predict(bank, labels, query, 4, temperature=100.0).tolist() == [5], "so hot that all weigh the same"


def test_standardised_features_have_the_banks_mean_and_deviation(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(3, 2, (50, 4)), rng.normal(3, 2, (9, 4))
    bank[:, 2] = 1.5  # a feature that says nothing
    scaled, others = bank.copy(), queries.copy()
    monkeypatch.setattr(nearest_rows, "BANK_AT_ONCE", 20)
    standardise(scaled, others)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(axis=0)[[0, 1, 3]], 1)
    np.testing.assert_allclose(others[:, 0], (queries[:, 0] - bank[:, 0].mean()) / bank[:, 0].std())
    assert np.isfinite(scaled).all()


def test_whitened_features_of_the_bank_are_uncorrelated_and_queries_transformed_alike(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5050, 4)) @ rng.normal(size=(4, 4)) * [1, 5, 0.2, 30] + 3
    bank, queries = rows[:5000].copy(), rows[5000:].copy()
    monkeypatch.setattr(nearest_rows, "BANK_AT_ONCE", 700)
    whiten(bank, queries)
    np.testing.assert_allclose(bank.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(bank.T), np.eye(4), atol=0.15)
    matrix, *_ = np.linalg.lstsq(np.c_[rows[:5000], np.ones(5000)], bank, rcond=None)
    np.testing.assert_allclose(np.c_[rows[5000:], np.ones(50)] @ matrix, queries, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_few_rows_or_features_that_say_nothing_are_whitened_to_finite_numbers(rows: int) -> None:
    bank = np.random.default_rng(0).normal(size=(rows, 64)).astype(np.float32)
    bank[:, 5:9] = 2.5
    queries = bank[:1] + 1
    whiten(bank, queries)
    assert bank.dtype == np.float32 and np.isfinite(bank).all() and np.isfinite(queries).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, few_digits) -> str:
    """A run folder with a small, untrained model. Not to be changed, but for its results."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = load_recipe("pretrain", "digits", ["steps=1", "batch_size=8", "embed_dim=16", "depth=2", "num_heads=2"])
    pretrain(recipe, Start(folder, quiet=True))
    return str(folder)


def test_every_number_comes_with_its_protocol_and_is_kept(run: str) -> None:
    results = knn.knn(
        run, "digits", kind=FeatureKind("cls", 1, "batch"), neighbours=[5, 1], bank_split="val", labels=50
    )
    assert [(one["protocol"]["k"], one["protocol"]["votes"]) for one in results] == [
        (1, "weighted"),
        (5, "weighted"),
        (1, "plain"),
        (5, "plain"),
    ]
    assert all(0 < one["top1"] < 1 for one in results)
    assert results[0]["top1"] == results[2]["top1"], "one neighbour wins however it votes"
    assert (results[0]["train"], results[0]["train_images"]) == ("50 of digits (val)", 50)
    assert (results[0]["eval"], results[0]["eval_images"]) == ("digits (test)", 200)
    assert results[0]["protocol"]["labels"] == 50 and results[0]["start"] == "pretrained"
    lines = [json.loads(line) for line in Path(run, "results.jsonl").read_text().splitlines()]
    assert [{name: line[name] for name in one} for line, one in zip(lines[-len(results) :], results)] == results
    assert all(line["command"] and line["at"] for line in lines)
    first, *_, last = knn.results_text(results).splitlines()
    assert "k=1, exp(cosine / 0.07), cls token after block 1, norm: batch" in first
    assert f"accuracy {results[0]['majority']['top1']:.2%}" in last


def test_mean_and_deviation_of_the_tokens_whitened(run: str) -> None:
    for layer in (1, None):
        kind = FeatureKind("mean+std", layer, "whiten")
        first = knn.knn(run, "digits", kind=kind, neighbours=[5], bank_split="val", labels=100)[0]
        assert first["protocol"]["token"] == "mean+std" and first["protocol"]["norm"] == "whiten"
        assert first["top1"] > 0.3, "an untrained encoder keeps much of a digit"


def test_by_default_k_is_what_the_bank_can_give(run: str) -> None:
    results = knn.knn(run, "digits", kind=FeatureKind(), bank_split="val", labels=30)
    assert sorted({one["protocol"]["k"] for one in results}) == [10, 20]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(neighbours=[201], bank_split="val"), r"k must be in 1..200 .*, got 201"),
        (dict(temperature=0.0), "the temperature of votes must be above 0, got 0"),
        (dict(kind=FeatureKind(layer=9)), "layer must be one of the encoder's 2 blocks, 1..2, got 9"),
        (dict(bank_split="nonsense"), "expected one of digits' splits"),
    ],
)
def test_mistakes_get_one_line(run: str, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as fault:
        knn.knn(run, "digits", **{"kind": FeatureKind(), **changes})
    assert "\n" not in str(fault.value)
