"""A command whose words are lost, wherever they went, does its work and ends with its own status."""

import errno
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paddlemae.runs.full_disk_output import survive_lost_output
from paddlemae.runs.runlog import is_finished, newest_checkpoint, read_metrics

FULL_DEVICE = Path("/dev/full")


class Stream:
    """Standard output on something that refuses."""

    def __init__(self, number: int):
        self.number = number

    @property
    def buffer(self) -> "Stream":
        return self

    def write(self, text: str | bytes) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("name", ["ENOSPC", "EPIPE", "EIO", "ECONNRESET", "EAGAIN", "EBADF"])
def test_whatever_refuses_words_is_outlived(monkeypatch, capfd, name: str) -> None:
    monkeypatch.setattr(sys, "stdout", Stream(getattr(errno, name)))
    with survive_lost_output():
        print("lost")
        sys.stdout.buffer.write(b"lost too")
    is_said = name in ("ENOSPC", "EAGAIN", "EBADF")  # not where a reader has left on purpose
    assert ("standard output is incomplete" in capfd.readouterr().err) == is_said


def test_other_faults_are_not_outlived() -> None:
    with pytest.raises(OSError, match="of the work"), survive_lost_output():
        raise OSError("of the work")


def test_words_arrive_where_there_is_room(capsys) -> None:
    with survive_lost_output():
        print("kept")
        print("this too", file=sys.stderr)
    assert capsys.readouterr() == ("kept\n", "this too\n")


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="this system has no device that is always full")
def test_the_status_is_the_commands_own() -> None:
    for words, status in [(["--version"], 0), (["pretrain", "digits"], 2)]:
        with FULL_DEVICE.open("w") as full:
            done = subprocess.run([sys.executable, "-m", "paddlemae", *words], stdout=full, stderr=full, timeout=60)
        assert done.returncode == status


def in_shell(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A line of shell in which $0 is `paddlemae` and $@ are the arguments."""
    command = ["sh", "-c", script.replace("paddlemae", f"{sys.executable} -m paddlemae"), "sh", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("streams", [">&-", ">&- 2>&- <&-"])
def test_closed_streams_are_outlived(photos, streams: str) -> None:
    done = in_shell(f'exec 9>&1; paddlemae data check --quiet "$@" {streams}; echo $? >&9', photos)
    assert done.stdout.endswith("0\n") and "Traceback" not in done.stdout and done.stderr == ""


def test_a_file_is_not_opened_where_a_closed_stream_was(tmp_path) -> None:
    """Else whatever a library writes to standard error would go into it, a checkpoint say."""
    code = """
import os, sys
from paddlemae.runs.full_disk_output import survive_lost_output
with survive_lost_output():
    with open(sys.argv[1], "w") as file:
        os.write(2, b"words of a library")
        print(file.fileno() > 2, file=file)
"""
    script = f"{sys.executable} -c '{code}' \"$@\" >&- 2>&- <&-"
    assert subprocess.run(["sh", "-c", script, "sh", str(tmp_path / "file")]).returncode == 0
    assert (tmp_path / "file").read_text() == "True\n"


@pytest.mark.parametrize("words", [["data", "check"], ["--help"]], ids=str)
def test_text_that_nobody_reads_to_its_end_is_no_fault(photos, words: list[str]) -> None:
    path = [] if words == ["--help"] else [photos]
    done = in_shell('(paddlemae "$@"; echo $? >&2) | head -c 1', *words, *path)
    assert done.stderr.splitlines()[-1:] == ["0"] and "Traceback" not in done.stderr and "Errno" not in done.stderr


@pytest.mark.slow
def test_a_training_whose_reader_left_is_finished(tiny, photos, tmp_path) -> None:
    script = '(paddlemae pretrain "$@" 2>&1; echo $? >&3) 3>&2 | true'
    done = in_shell(script, *tiny, "steps=5", "--data", photos, "--out", tmp_path / "run")
    assert done.stderr == "0\n" and is_finished(tmp_path / "run")


def on_a_terminal_that_is_closed(command: list[str], run: Path, ignored: bool) -> int:
    """The exit status of a training whose terminal goes away while its progress is drawn."""
    pid, terminal = os.forkpty()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        os.execv(sys.executable, command)
    try:
        deadline = time.monotonic() + 60
        while sum(1 for _ in read_metrics(run)) < 3:
            assert time.monotonic() < deadline
            if select.select([terminal], [], [], 0.02)[0]:
                os.read(terminal, 1 << 16)
        os.close(terminal)
        while time.monotonic() < deadline:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        raise AssertionError("it did not end")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise


@pytest.mark.slow
@pytest.mark.parametrize(("ignored", "steps", "status"), [(False, 1_000_000, 75), (True, 400, 0)])
def test_a_terminal_that_is_closed_costs_nothing(tiny, photos, tmp_path, ignored, steps, status) -> None:
    run = tmp_path / "run"
    words = [*tiny, f"steps={steps}", "workers=1", "--data", photos, "--out", run]
    command = [sys.executable, "-m", "paddlemae", "pretrain", *map(str, words)]
    assert on_a_terminal_that_is_closed(command, run, ignored) == status
    assert newest_checkpoint(run) is not None and is_finished(run) == ignored
