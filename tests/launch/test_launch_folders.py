"""The folders of launches: none is left for good, none of a launch that is under way is touched, all is read whole."""

import os
import signal
import subprocess
import sys
import time

from paddlemae.launch.launcher import Launch, _Attempt, remove_orphans
from paddlemae.system.atomic import replace_text


def held_elsewhere(folder):
    """A process that has a launch folder in `folder`, as a command has while it watches, until it is killed."""
    code = (
        "import tempfile, time; from pathlib import Path; from paddlemae.launch import launcher as launch;"
        f"tempfile.tempdir = {str(folder)!r}; made = Path(tempfile.mkdtemp(prefix=launch._folder_prefix()));"
        "held = launch.lock_descriptor(made); (made / launch.LAUNCHER_LOG).touch();"
        "print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def test_only_folders_of_killed_commands_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with held_elsewhere(tmp_path) as process:
        (folder,) = tmp_path.iterdir()
        remove_orphans()
        assert folder.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    remove_orphans()
    assert not folder.exists()


class Launched:
    """A launcher that another command's start falls together with, and that has ended."""

    def __init__(self, *_, pass_fds, **__):
        (self.held,) = pass_fds
        remove_orphans()

    def poll(self):
        return 0

    wait = poll


def test_a_folder_is_held_as_soon_as_it_looks_orphaned(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("subprocess.Popen", Launched)
    with _Attempt([], 1, Launch(), {}) as attempt:
        assert attempt.folder.exists()
    assert not attempt.folder.exists()
    attempt.folder.mkdir()  # not locked yet, and without the log
    remove_orphans()
    assert attempt.folder.exists()


def test_a_killed_commands_folder_waits_for_its_launcher(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("subprocess.Popen", Launched)
    attempt = _Attempt([], 1, Launch(), {})
    with attempt:
        held_by_launcher = os.dup(attempt.held)
        os.close(attempt.held)
        attempt.held = None  # as if this process were dead
        remove_orphans()
        assert attempt.folder.exists()
        os.close(held_by_launcher)
        remove_orphans()
        assert not attempt.folder.exists()


def test_a_file_that_is_being_written_is_not_taken_for_one_that_is(tmp_path, monkeypatch):
    beside = []
    monkeypatch.setattr("os.replace", lambda source, target: beside.append(source))
    replace_text(tmp_path / "0.process", "[1, 2]")
    assert beside[0].exists() and not [*tmp_path.glob("*.process")]


def test_a_process_that_a_launch_gave_up_before_it_knew_of_it_ends(tmp_path):
    folder = tmp_path / "launch"
    folder.mkdir()
    code = (
        "import json, os; from pathlib import Path; from paddlemae.cli import rank_main;"
        "from paddlemae.system.locks import process_identity;"
        f"rank_main._die_with(process_identity(os.getppid()), Path({str(folder)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        time.sleep(1)
        assert process.poll() is None
        folder.rmdir()
        assert process.wait(30) == 1
