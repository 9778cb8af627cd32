"""Targets, loss and evaluation of images of several classes."""

from functools import partial

import numpy as np
import pytest

from paddlemae.data.batches import Batch
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.views.mixup import Mixing, mix_batch
from paddlemae.tasks.training.finetuning_loss import multi_label_targets_of
from paddlemae.tasks.training.multi_label import multi_label_evaluation_of
from tests.support.connected_ranks import close, meet, on_each

HALF = [0.5, 0.5, 0.5]


def predictions(count: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (rng.random((count, 3)) < (0.5, 0.3, 0.2)).astype(np.float32)
    return np.arange(count), labels, (3 * labels + rng.normal(-1, 1.5, (count, 3))).astype(np.float32)


def parts(rank: int, world: int, size: int = 7) -> list[tuple[np.ndarray, ...]]:
    whole = predictions()
    starts = range(rank * size, len(whole[0]), world * size)
    return [tuple(column[start : start + size] for column in whole) for start in starts]


def test_the_loss_is_binary_cross_entropy() -> None:
    _, labels, logits = predictions()
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    wanted = -np.mean(labels * np.log(probabilities) + (1 - labels) * np.log(1 - probabilities))
    found = multi_label_evaluation_of(parts(0, 1), HALF)
    assert found.loss == pytest.approx(wanted, rel=1e-6) and found.images == 40
    assert found.answers.probabilities == pytest.approx(probabilities, rel=1e-6)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_evaluate_what_one_does(world: int) -> None:
    ranks = meet(world)
    found = on_each(ranks, lambda one: multi_label_evaluation_of(parts(one.rank, world), HALF, one))
    close(ranks)
    alone = multi_label_evaluation_of(parts(0, 1), HALF).with_own_thresholds()
    for each in found:
        assert each.with_own_thresholds().metrics == alone.metrics


def test_thresholds_of_a_validation_part_raise_its_f1() -> None:
    found = multi_label_evaluation_of(parts(0, 1), HALF)
    assert found.with_own_thresholds().metrics["macro_f1"] >= found.metrics["macro_f1"]
    assert found.with_own_thresholds().metrics["auroc"] == found.metrics["auroc"]


def test_without_an_image_there_is_nothing_to_evaluate() -> None:
    with pytest.raises(DataFault, match="no image to evaluate"):
        multi_label_evaluation_of([], HALF)


def test_targets_are_smoothed_and_mixed() -> None:
    indices, labels, _ = predictions(4)
    batch = Batch(np.zeros((4, 3, 8, 8), np.uint8), labels, indices, np.zeros(4, np.int64))
    targets_of = partial(multi_label_targets_of, smoothing=0.2)
    assert targets_of(batch).numpy() == pytest.approx(np.where(labels > 0, 0.9, 0.1))
    mixed = mix_batch(batch, Mixing(0.8, 0.0, 0.5), np.random.default_rng(0))
    kept = float(mixed.kept[0])
    wanted = kept * labels + (1 - kept) * labels[::-1]
    assert multi_label_targets_of(mixed, 0.0).numpy() == pytest.approx(wanted, rel=1e-5)
