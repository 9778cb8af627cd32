"""The state of an `auto` run: what is done is not done again, and the used time is kept over sessions."""

import json
import os
import time
from pathlib import Path

import pytest

from paddlemae.tasks.auto.auto_state import AUTO_FILE, AutoState, StateType, open_state


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def new_state(out: Path, clock: Clock) -> AutoState:
    out.mkdir(exist_ok=True)
    return AutoState(out, StateType(data="photos", minutes=1.0, seed=0), clock)


def test_a_finished_stage_is_not_repeated(tmp_path: Path) -> None:
    clock = Clock()
    state = new_state(tmp_path / "run", clock)

    def work() -> dict:
        clock.now += 5
        return {"steps": 3}

    assert state.once("pretrain", work) == {"steps": 3, "seconds": 5.0}
    assert state.once("pretrain", lambda: pytest.fail("done twice")) == {"steps": 3, "seconds": 5.0}
    assert state.used == 5 and state.left == 55
    stored = json.loads((state.out / AUTO_FILE).read_text())
    assert stored["stages"]["pretrain"]["steps"] == 3


def test_a_stage_that_was_stopped_counts_its_sessions(tmp_path: Path) -> None:
    clock = Clock()
    state = new_state(tmp_path / "run", clock)

    def stopped() -> dict:
        clock.now += 5
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        state.once("pretrain", stopped)
    state.end()
    assert json.loads((state.out / AUTO_FILE).read_text())["begun"] == {"pretrain": 5.0}

    def work() -> dict:
        clock.now += 2
        return {}

    assert state.once("pretrain", work) == {"seconds": 7.0}


def test_time_adds_up_over_sessions(tmp_path: Path) -> None:
    out = tmp_path / "run"
    state = open_state(out, "photos", 1.0, 0)
    state.record.seconds = 20.0
    state.end()
    again = open_state(out, "photos", 1.0, 0)
    assert 20 <= again.used < 25
    assert again.record.began is not None


def test_the_time_of_a_killed_session_counts_to_its_last_file(tmp_path: Path) -> None:
    out = tmp_path / "run"
    open_state(out, "photos", 10.0, 0)  # and never ended
    later = time.time() + 90
    (out / "pretrain").mkdir()
    (out / "pretrain" / "metrics.jsonl").write_text("")
    os.utime(out / "pretrain" / "metrics.jsonl", (later, later))
    (out / ".lock").write_text("")  # that of the session that begins now
    os.utime(out / ".lock", (later + 1000, later + 1000))
    assert 89 <= open_state(out, "photos", 10.0, 0).used < 95


@pytest.mark.parametrize("change", [{"data": "others"}, {"minutes": 2.0}, {"seed": 1}])
def test_other_settings_are_refused(tmp_path: Path, change: dict) -> None:
    settings = {"data": "photos", "minutes": 1.0, "seed": 0}
    state = open_state(tmp_path / "run", **settings)
    state.end()
    assert open_state(tmp_path / "run", **{**settings, **change}).used < 1  # nothing was planned yet
    state.once("plan", dict)
    with pytest.raises(ValueError, match="other settings"):
        open_state(tmp_path / "run", **{**settings, **change})
    replaced = open_state(tmp_path / "run", **{**settings, **change}, overwrite=True)
    assert replaced.record.stages == {}


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        open_state(tmp_path, "photos", 1.0, 0)


@pytest.mark.parametrize("content", ["{", '{"format": 99, "data": "photos", "minutes": 1.0, "seed": 0}'])
def test_a_damaged_state_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / AUTO_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"auto\.json"):
        open_state(tmp_path, "photos", 1.0, 0)
