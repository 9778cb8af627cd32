"""A run whose words go to a full disk goes on, and ends with its own status."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddlemae.report.output import outliving_lost_output

FULL_DEVICE = Path("/dev/full")


class Stream:
    """Standard output on something that refuses."""

    def __init__(self, number: int):
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def flush(self) -> None:
        pass


def test_a_full_disk_is_outlived_and_no_other_fault(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", Stream(errno.ENOSPC))
    with outliving_lost_output():
        print("lost")
    monkeypatch.setattr(sys, "stdout", Stream(errno.EBADF))
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)), outliving_lost_output():
        print("lost")


def test_words_arrive_where_there_is_room(capsys) -> None:
    with outliving_lost_output():
        print("kept")
        print("this too", file=sys.stderr)
    assert capsys.readouterr() == ("kept\n", "this too\n")


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize(
    ("words", "status"), [(["--version"], 0), (["pretrain", "digits"], 2)], ids=["success", "a mistake"]
)
def test_the_status_is_the_commands_own(words: list[str], status: int) -> None:
    with FULL_DEVICE.open("w") as full:
        done = subprocess.run([sys.executable, "-m", "paddlemae", *words], stdout=full, stderr=full, timeout=60)
    assert done.returncode == status
