"""Trainings within a time: steps follow the measured speed, and the end of the time is no stop from outside."""

from pathlib import Path

import pytest

from paddlemae.recipe import load_recipe
from paddlemae.runs.runlog import is_finished, read_metrics
from paddlemae.system.signals import Preempted
from paddlemae.tasks.auto import within_time
from paddlemae.tasks.auto.within_time import Speed, other_steps, read_speed, train_within
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.training.run_start import Start, stored_recipe


@pytest.fixture
def recipe(tiny: list[str], photos: Path):
    return load_recipe("pretrain", None, [*tiny, f"data={photos}", "steps=40"])


@pytest.fixture(autouse=True)
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of these tests are too short to be measured, unless a test says so."""
    monkeypatch.setattr(within_time, "FEWEST_PROBED", 1e9)


def within(recipe, out: Path, seconds: float, train=pretrain, may_stop: bool = True) -> bool:
    return train_within(train, recipe, out, seconds, quiet=True, may_stop=may_stop, may_grow=True)


def test_an_unmeasured_run_takes_the_planned_steps(recipe, tmp_path: Path) -> None:
    assert within(recipe, tmp_path / "run", 60)
    assert list(read_metrics(tmp_path / "run"))[-1]["step"] == 40
    assert within(recipe, tmp_path / "run", 60, train=None)  # it is finished


def test_steps_follow_the_measured_speed(recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(within_time, "FEWEST_PROBED", 0.0)
    monkeypatch.setattr(within_time, "AROUND_SECONDS", 0.0)
    monkeypatch.setattr(within_time, "PROBE_SHARE", 0.2)
    long = within_time.with_training(recipe, steps=10**7, log_every=7)
    assert within(long, tmp_path / "run", 4, may_stop=False)
    training = stored_recipe(tmp_path / "run", "pretrain").training
    assert training.log_every == 7 and training.steps < 10**5 and is_finished(tmp_path / "run")
    assert list(read_metrics(tmp_path / "run"))[-1]["lr"] < 1e-6  # the schedule came to its end


def test_evaluations_leave_less_time_for_steps(recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def choose(stored, speed: Speed, seconds: float, may_grow: bool) -> int:
        asked.append(seconds)
        return 3

    monkeypatch.setattr(within_time, "FEWEST_PROBED", 0.0)
    monkeypatch.setattr(within_time, "PROBE_SHARE", 1e-4)
    # in so short a time a busy machine takes no two steps, whose speed could be read
    monkeypatch.setattr(within_time, "read_speed", lambda *_: Speed(2, 0.01, 100.0))
    monkeypatch.setattr(within_time, "other_steps", choose)
    slow = within_time.with_training(recipe, steps=10**7)
    for number, evaluating in enumerate((0.0, 400.0, 10_000.0)):
        out = tmp_path / str(number)
        train_within(pretrain, slow, out, 1000, quiet=True, may_stop=False, may_grow=True, evaluating=evaluating)
    none, some, most = asked
    assert none - some == pytest.approx(400, abs=5) and none - most == pytest.approx(700, abs=5)


def test_an_unfinished_run_is_resumed_with_its_own_steps(recipe, tmp_path: Path) -> None:
    stops = []

    def stopped(one, start: Start) -> None:
        stops.append(one.training.max_hours)
        pretrain(within_time.with_training(one, max_hours=1e-9), start)

    def asked_to_stop(one, start: Start) -> None:
        try:
            stopped(one, start)
        except Preempted as end:
            raise Preempted("a signal") from end

    with pytest.raises(Preempted, match="a signal"):
        within(recipe, tmp_path / "run", 60, train=asked_to_stop)
    assert not is_finished(tmp_path / "run")
    assert within(recipe.model_copy(update={"mask_ratio": 0.5}), tmp_path / "run", 60)
    assert stored_recipe(tmp_path / "run", "pretrain").mask_ratio == recipe.mask_ratio


def test_the_end_of_the_time_is_no_stop_from_outside(recipe, tmp_path: Path) -> None:
    def slow(one, start: Start) -> None:
        pretrain(within_time.with_training(one, max_hours=1e-9), start)

    assert not within(recipe, tmp_path / "run", 60, train=slow)
    assert not is_finished(tmp_path / "run")


def test_speed_is_that_of_the_steps_behind_the_first(recipe, tmp_path: Path) -> None:
    out = pretrain(recipe, Start(tmp_path / "run", quiet=True))
    speed = read_speed(out, recipe)
    assert speed and speed.steps == 40 and speed.num_images == pytest.approx(12, rel=1e-3)
    assert read_speed(tmp_path, recipe) is None


@pytest.mark.parametrize(
    ("taken", "seconds_a_step", "expected"),
    [(4, 1.0, None), (4, 2.0, 18), (4, 0.5, 72), (30, 2.0, None)],
    ids=["as planned", "slower", "faster", "too late"],
)
def test_steps_are_chosen_again_only_early_and_if_far_off(
    recipe, taken: int, seconds_a_step: float, expected: int | None
) -> None:
    assert other_steps(recipe, Speed(taken, seconds_a_step, 12.0), 36.0, may_grow=True) == expected
    fewer = expected if expected is None or expected < 40 else None
    assert other_steps(recipe, Speed(taken, seconds_a_step, 12.0), 36.0, may_grow=False) == fewer
