"""Checkpoints written during training: the state of their moment, one at a time, and what happens when they fail."""

import errno
import os
import threading

import pytest

from paddlemae.train import checkpoint
from paddlemae.train import saver as module
from paddlemae.train.checkpoint import load_checkpoint
from paddlemae.train.checkpoint_folders import find_checkpoint
from paddlemae.train.saver import Saver
from tests.support.train_states import DESCRIPTION, assert_same, everything, new_state, save_checkpoint, take_step

SECONDS = 20


@pytest.fixture
def held(monkeypatch):
    """Writes that begin when they are told to, and what was told of them."""
    gate, begun, write = threading.Event(), [], module.write_snapshot

    def waiting(run, snapshot, **settings):
        begun.append(snapshot.step)
        assert gate.wait(SECONDS)
        return write(run, snapshot, **settings)

    monkeypatch.setattr(module, "write_snapshot", waiting)
    return gate, begun


def failing(monkeypatch, *failures: bool) -> None:
    """Attempts to write that find no space where it says so."""
    write, left = module.write_snapshot, list(failures)

    def sometimes(run, snapshot, **settings):
        if left.pop(0):
            raise OSError(errno.ENOSPC, f"could not save step {snapshot.step} (No space)", "somewhere")
        return write(run, snapshot, **settings)

    monkeypatch.setattr(module, "write_snapshot", sometimes)


def test_training_continues_while_its_state_is_written(tmp_path, held) -> None:
    gate, _ = held
    state = new_state(steps=2)
    expected = everything(state)
    with Saver(tmp_path, state, DESCRIPTION) as saver:
        saver.save()
        take_step(state)
        assert state.last_checkpoint is None and not list(tmp_path.glob("checkpoints/step_*"))
        gate.set()
        saver.finish()
        assert state.last_checkpoint.name == "step_00000003"
    loaded = new_state(seed=9)
    load_checkpoint(tmp_path / "checkpoints" / "step_00000002", loaded)
    assert_same(everything(loaded), expected)


def test_one_write_at_a_time(tmp_path, held) -> None:
    gate, begun = held
    state = new_state(steps=1)
    with Saver(tmp_path, state, DESCRIPTION) as saver:
        saver.save()
        take_step(state)
        second = threading.Thread(target=saver.save)
        second.start()
        second.join(0.05)
        assert second.is_alive() and begun == [1], "waits for the first"
        gate.set()
        second.join(SECONDS)
    assert begun == [1, 2] and find_checkpoint(tmp_path).name == "step_00000002"


def test_the_first_failure_is_a_word_and_the_second_the_end(tmp_path, monkeypatch) -> None:
    state = new_state(steps=1)
    failing(monkeypatch, False, True, False, True, True)
    with Saver(tmp_path, state, DESCRIPTION) as saver:
        for fails in (False, True, False, True):
            saver.save()
            if fails:
                with pytest.warns(UserWarning, match="save step .*last good checkpoint: .*; training continues"):
                    saver.wait()
            saver.wait()
            state.step += 1
        with pytest.raises(OSError, match="step 5 .*last good checkpoint: .*step_00000003; make room") as fault:
            saver.save()
            saver.wait()
        assert fault.value.errno == errno.ENOSPC
    assert find_checkpoint(tmp_path, whole=True).name == "step_00000003"


def test_nothing_is_left_to_hope_for_at_the_end(tmp_path, monkeypatch) -> None:
    state = new_state(steps=1)
    failing(monkeypatch, True)
    with pytest.raises(OSError, match="could not save step 1"), Saver(tmp_path, state, DESCRIPTION) as saver:
        saver.finish()


def test_metrics_off_disk_count_as_a_failed_attempt(tmp_path) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "could not log step 7", "metrics.jsonl")

    state = new_state(steps=1)
    with Saver(tmp_path, state, DESCRIPTION, before=full) as saver:
        with pytest.warns(UserWarning, match="could not log step 7; last good checkpoint: none yet"):
            saver.save()
        with pytest.raises(OSError, match="could not log step 7"):
            saver.save()


def test_a_step_that_is_tried_again_is_still_the_best(tmp_path, monkeypatch) -> None:
    state = new_state(steps=1)
    failing(monkeypatch, True, False)
    with Saver(tmp_path, state, DESCRIPTION) as saver:
        saver.save(best=True)
        with pytest.warns(UserWarning):
            saver.wait()
        saver.finish()
    assert (tmp_path / "checkpoints" / "best").read_text() == "step_00000001\n"


def test_a_bug_in_the_thread_is_raised(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "write_snapshot", lambda *parts, **settings: 1 / 0)
    with pytest.raises(ZeroDivisionError), Saver(tmp_path, new_state(steps=1), DESCRIPTION) as saver:
        saver.save()


def test_a_saved_step_is_not_saved_again(tmp_path) -> None:
    state = new_state(steps=1)
    with Saver(tmp_path, state, DESCRIPTION) as saver:
        saver.finish()
        inode = os.stat(state.last_checkpoint).st_ino
        saver.finish()
    assert os.stat(state.last_checkpoint).st_ino == inode


def test_what_a_kill_left_of_old_ones_goes_at_the_end(tmp_path) -> None:
    state = new_state(steps=1)
    for state.step in (1, 2, 3):
        save_checkpoint(tmp_path, state, DESCRIPTION, keep=9)
    with Saver(tmp_path, state, DESCRIPTION, keep=1) as saver:
        saver.finish()
    assert [path.name for path in tmp_path.glob("checkpoints/step_*")] == ["step_00000003"]


def test_what_a_full_disk_left_makes_room_for_the_next_write(tmp_path, monkeypatch) -> None:
    def full(*_, **__) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def kept() -> list[str]:
        return sorted(path.name[-1] for path in tmp_path.glob("checkpoints/step_*"))

    state = new_state(steps=1)
    for state.step in (1, 2):
        save_checkpoint(tmp_path, state, DESCRIPTION)
    state.step = 3
    with Saver(tmp_path, state, DESCRIPTION) as saver, monkeypatch.context() as patch:
        patch.setattr(checkpoint, "replace_text", full)  # the checkpoint is whole, and there is no room to say so
        saver.save()
        with pytest.warns(UserWarning, match="could not save step 3"):
            saver.wait()
        assert kept() == ["1", "2"]
    save_checkpoint(tmp_path, state, DESCRIPTION, keep=9)
    load_checkpoint(tmp_path / "checkpoints" / "step_00000002", state)
    with Saver(tmp_path, state, DESCRIPTION):
        assert kept() == ["1", "2", "3"], "what a pointer names stays"
        (tmp_path / "checkpoints" / "latest").write_text("step_00000002\n")  # as a kill before it was moved leaves it
    with Saver(tmp_path, state, DESCRIPTION):
        assert kept() == ["1", "2"]
