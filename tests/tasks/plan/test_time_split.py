"""Shares of a given time."""

import pytest

from paddlemae.tasks.plan.time_split import split_time


@pytest.mark.parametrize("has_labels", [True, False])
def test_both_trainings_and_planning_take_less_than_the_time(has_labels: bool) -> None:
    for seconds in (120, 1800, 36_000):
        split = split_time(seconds, has_labels=has_labels, opening=2, before=30)
        assert 0.8 * (seconds - 30) < split.pretrain + split.finetune < 0.95 * (seconds - 30)
        assert split.pretrain_steps < split.pretrain and split.finetune_steps <= split.finetune
        assert bool(split.finetune) == has_labels
        assert split.finetune_steps <= split.most_finetune_steps <= split.pretrain


@pytest.mark.parametrize("has_labels", [True, False])
def test_the_least_time_is_enough(has_labels: bool) -> None:
    short = split_time(10, has_labels=has_labels, opening=2, before=30)
    assert short.pretrain_steps == 0
    for needed in (1.0, 20.0, 1000.0):
        seconds = 60 * short.least_minutes(needed)
        assert split_time(seconds, has_labels=has_labels, opening=2, before=30).pretrain_steps >= needed
