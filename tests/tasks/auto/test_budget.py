"""The time of each stage: together they take what was given."""

import pytest

from paddlemae.tasks.auto.budget import LEAST_SHARE, Budget, most_images


@pytest.mark.parametrize("minutes", [0.5, 5, 30, 600])
@pytest.mark.parametrize("has_labels", [True, False])
def test_all_stages_fill_the_time(minutes: float, has_labels: bool) -> None:
    total, used, finetune = 60 * minutes, 3.0, 0.25 * 60 * minutes * has_labels
    budget = Budget.of(total, has_labels=has_labels)
    left = total - used - budget.baselines
    pretrain = budget.pretrain_seconds(left, finetune)
    assert used + budget.around + pretrain + finetune == pytest.approx(total)
    assert pretrain > 0.5 * total
    assert budget.around < 0.12 * total
    assert (budget.baselines > 0) == has_labels


def test_fine_tuning_takes_what_is_left_but_not_nothing() -> None:
    budget = Budget.of(600, has_labels=True)
    assert budget.finetune_seconds(500, 100, is_short=False) == 100
    assert budget.finetune_seconds(500, 100, is_short=True) == 500 - budget.report
    for is_short in (True, False):
        assert budget.finetune_seconds(60 + budget.report, 100, is_short) == pytest.approx(60)
        assert budget.finetune_seconds(-30, 100, is_short) == LEAST_SHARE * 100


def test_images_are_as_many_as_the_time_allows() -> None:
    assert most_images(10, 0.01, 200, 5000) == 1000
    assert most_images(10, 1.0, 200, 5000) == 200
    assert most_images(1000, 0.01, 200, 5000) == 5000
