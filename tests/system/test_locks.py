"""One command at a time writes into a folder: who is second is told who is first, and a dead one keeps nobody out."""

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from paddlemae.system import locks
from paddlemae.system.locks import LOCK_FILE, check_unlocked, lock_file, lock_folder

HOLDER = """
import sys, time
from pathlib import Path
from paddlemae.system.locks import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds the folder `run`."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_the_second_learns_who_is_the_first(tmp_path: Path, holder) -> None:
    first = rf"another command is writing there \(process {holder.pid} on {platform.node()}, since 20"
    for attempt in (lambda: lock_folder(tmp_path / "run").__enter__(), lambda: check_unlocked(tmp_path / "run")):
        with pytest.raises(BlockingIOError, match=first) as caught:
            attempt()
        assert caught.value.filename == str(tmp_path / "run")
    holder.send_signal(signal.SIGTERM)  # without a handler: as a kill, the file stays
    holder.wait()
    assert (tmp_path / "run" / LOCK_FILE).exists()
    check_unlocked(tmp_path / "run")
    with lock_folder(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK_FILE).read_text())["process"][0] == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_link_to_the_folder_is_the_folder(tmp_path: Path, holder) -> None:
    (tmp_path / "link").symlink_to("run")
    with pytest.raises(BlockingIOError), lock_folder(tmp_path / "link"):
        pass


def test_one_that_can_wait_waits(tmp_path: Path, holder) -> None:
    said: list[str] = []

    def wait(who: str) -> None:
        said.append(who)
        holder.kill()

    with lock_folder(tmp_path / "run", wait):
        assert len(said) == 1 and f"process {holder.pid} on " in said[0]


def test_nothing_is_left_of_a_folder_that_was_made_for_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), lock_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK_FILE).exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    with lock_folder(tmp_path / "old"):
        pass
    with lock_folder(tmp_path / "new"):
        (tmp_path / "new" / "result").touch()
    assert {str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*")} == {"old", "new", "new/result"}


def test_a_file_has_a_lock_next_to_it(tmp_path: Path) -> None:
    with lock_file(tmp_path / "f" / "a.npz"):
        with lock_file(tmp_path / "f" / "b.npz"):
            assert sorted(path.name for path in (tmp_path / "f").iterdir()) == [".a.npz.lock", ".b.npz.lock"]
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"), lock_file(tmp_path / "f" / "a.npz"):
            pass
    assert list(tmp_path.iterdir()) == []


def left_by(folder: Path, **others) -> Path:
    """What a killed process left, whose flock is free."""
    folder.mkdir()
    path = folder / LOCK_FILE
    path.write_text(json.dumps({"host": platform.node(), "process": [os.getpid(), "0"], "since": "then", **others}))
    return path


@pytest.mark.parametrize("text", ["", "{", "[]", '{"process": 3}', '{"host": "x", "process": ["y", 0]}', "\0" * 9])
def test_a_damaged_file_keeps_nobody_out(tmp_path: Path, text: str) -> None:
    left = left_by(tmp_path / "run")
    left.write_text(text)
    with lock_folder(tmp_path / "run"):
        assert json.loads(left.read_text())["process"][0] == os.getpid()


@pytest.fixture
def quickly(monkeypatch) -> None:
    monkeypatch.setattr(locks, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(locks, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(locks, "_LOOK_EVERY_SECONDS", 0.02)


def test_another_host_s_is_watched_for_signs_of_life(tmp_path: Path, quickly) -> None:
    path, ended = left_by(tmp_path / "run", host="node7"), threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            os.utime(path)

    alive = threading.Thread(target=beat)
    alive.start()
    with pytest.raises(BlockingIOError, match=r"process \d+ on node7, since then"), lock_folder(tmp_path / "run"):
        pass
    ended.set()
    alive.join()
    with lock_folder(tmp_path / "run"):
        assert json.loads(path.read_text())["host"] == platform.node()


def test_signs_of_life_are_given(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.02)
    with lock_folder(tmp_path):
        os.utime(tmp_path / LOCK_FILE, (0, 0))
        deadline = time.monotonic() + 30
        while (tmp_path / LOCK_FILE).stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_where_there_is_no_flock_the_record_decides(tmp_path: Path, monkeypatch, holder, quickly) -> None:
    monkeypatch.setattr(locks, "_flock", lambda descriptor: None)
    with pytest.raises(BlockingIOError, match=f"process {holder.pid} "), lock_folder(tmp_path / "run"):
        pass
    holder.kill()
    holder.wait()
    with lock_folder(tmp_path / "run"):
        pass


def test_a_lock_whose_process_says_nothing_is_still_one(tmp_path: Path, monkeypatch, quickly) -> None:
    monkeypatch.setattr(locks, "_write", lambda descriptor: None)  # a full disk
    with lock_folder(tmp_path), pytest.raises(BlockingIOError, match="it does not say who"):
        lock_folder(tmp_path).__enter__()
    with lock_folder(tmp_path):
        pass


def test_where_nothing_can_be_written_there_is_no_lock(tmp_path: Path, monkeypatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(locks, "_open", refused)
    with lock_folder(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_while_it_was_opened_is_none(tmp_path: Path, monkeypatch) -> None:
    first, flock = contextlib.ExitStack(), locks._flock
    first.enter_context(lock_folder(tmp_path / "run"))

    def freed(descriptor: int) -> bool | None:
        first.close()
        return flock(descriptor)

    monkeypatch.setattr(locks, "_flock", freed)
    with lock_folder(tmp_path / "run"), pytest.raises(BlockingIOError):
        lock_folder(tmp_path / "run").__enter__()


def test_many_at_once_are_one_after_the_other(tmp_path: Path) -> None:
    inside, seen = [], []

    def work(number: int) -> None:
        with lock_folder(tmp_path / "run", lambda who: None):
            inside.append(number)
            seen.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert seen == [1] * 8
    assert not list((tmp_path / "run").rglob("*"))  # the folder stays where another one was there while it was removed
