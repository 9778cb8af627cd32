"""Which checkpoint counts: a few validation images do not let a lucky evaluation win over the end of a training."""

from dataclasses import dataclass

import numpy as np
import pytest

from paddlemae.runs.class_metrics import Answers
from paddlemae.runs.metrics import CLASSIFICATION, SEGMENTATION, Metrics
from paddlemae.tasks.training.classification import Evaluation
from paddlemae.tasks.training.run_training import next_best


@dataclass
class Measured:
    """An evaluation with one metric, `top1`, of some images."""

    value: float
    images: int
    kind: Metrics = CLASSIFICATION

    @property
    def metrics(self) -> dict[str, float]:
        return {"top1": self.value}


def chosen(values: list[float], images: int) -> int:
    """Return the index of the evaluation that counts in the end."""
    best: dict[str, float] = {}
    for number, value in enumerate(values):
        if (found := next_best(best, "top1", Measured(value, images))) is not None:
            best = found | {"step": number}
    return int(best["step"])


@pytest.mark.parametrize(
    ("values", "images", "index"),
    [
        ([0.40, 0.50, 0.46, 0.47], 80, 3),  # the standard error of 50% is 5.6%
        ([0.40, 0.50, 0.46, 0.47], 8000, 1),  # 0.6%
        ([0.40, 0.50, 0.43, 0.42], 80, 1),
        ([0.50, 0.46, 0.45, 0.44], 80, 2),  # compared with the highest, so that it does not sink step by step
        ([0.30, 0.50, 0.60, 0.55, 0.50], 80, 3),
        ([1.0, 1.0, 0.99], 100, 1),
        ([float("nan"), 0.2, float("nan")], 10, 1),
    ],
)
def test_the_last_one_that_is_not_clearly_worse_counts(values: list[float], images: int, index: int) -> None:
    assert chosen(values, images) == index


def test_a_run_of_an_earlier_version_keeps_its_best() -> None:
    best = {"top1": 0.5, "eval_loss": 1.0, "step": 3}
    assert next_best(best, "top1", Measured(0.45, 80)) is None
    assert next_best(best, "top1", Measured(0.5, 80)) is not None


def test_the_standard_error_is_that_of_images_drawn_again() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    predicted = np.where(rng.random(200) < 0.7, labels, 1 - labels)
    evaluation = Evaluation(Answers(2, labels, predicted), 1.0)
    drawn = [(labels == predicted)[rng.integers(0, 200, 200)].mean() for _ in range(4000)]
    found = evaluation.kind.standard_error(evaluation.metrics["top1"], evaluation.images)
    assert found == pytest.approx(np.std(drawn), rel=0.1)


def test_segmenters_keep_the_highest() -> None:
    best = next_best({}, "top1", Measured(0.5, 4, SEGMENTATION))
    assert best is not None and next_best(best, "top1", Measured(0.49, 4, SEGMENTATION)) is None
