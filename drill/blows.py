"""Strike a running training: kill any of its processes, stop it, fill its disk, refuse or limit its files."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from drill.leftovers import descendants
from paddlemae.runs.runlog import read_metrics
from paddlemae.train.checkpoint_folders import FOLDER, STEPS

TMPFS_MB = 4
PATIENCE_SECONDS = 600
MAIN = "main process"
WORKER = "data worker"
LAUNCHER = "launcher"
RANKS = ("rank 0", "rank 1")

Blow = Callable[[int, Path, random.Random], str | None]  # what was done; None if the training ended before


def is_running(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def await_(pid: int, happened: Callable[[], object]) -> bool:
    """Wait until something has happened; False if the process ended before."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        if not is_running(pid):
            return False
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} neither ends nor does what it should")
        time.sleep(0.001)
    return True


def _steps_logged(out: Path) -> int:
    return sum(1 for _ in read_metrics(out))


def _await_training(pid: int, out: Path) -> bool:
    """Wait until the number of metric lines changes: a new step, or fewer lines after a resume."""
    before = _steps_logged(out)
    return await_(pid, lambda: _steps_logged(out) != before)


def _await_writing(pid: int, out: Path) -> bool:
    """Wait until this process writes a checkpoint; a partial one of a killed process must be gone before."""

    def is_writing() -> bool:
        return any(out.glob(f"{FOLDER}/.*.partial"))

    return await_(pid, lambda: not is_writing()) and await_(pid, is_writing)


def _victims(whom: str, main: int) -> list[int]:
    """Return the ids of the processes of a training that `whom` names."""
    if whom == MAIN:
        return [main] if is_running(main) else []
    processes = descendants(main)
    if whom == WORKER:
        return [one.pid for one in processes if "multiprocessing.spawn" in one.words]
    if whom == LAUNCHER:
        return [one.pid for one in processes if "paddle.distributed.launch" in one.words]
    rank = whom.removeprefix("rank ")
    return [
        one.pid
        for one in processes
        if "paddlemae/cli/rank_main.py" in one.words and one.variable("PADDLE_TRAINER_ID") == rank
    ]


def kill(whom: str, start_seconds: float, writing_share: float = 0.5) -> Blow:
    """Make a blow that kills one of the training's processes, half of the times while a checkpoint is being written.

    Args:
        start_seconds: from its start, or from the blow before, in which the other half falls.
    """

    def blow(pid: int, out: Path, dice: random.Random) -> str | None:
        writing = dice.random() < writing_share
        if writing and not _await_writing(pid, out):
            return None
        time.sleep(dice.uniform(0, 0.02) if writing else dice.uniform(0, start_seconds))
        if not await_(pid, lambda: _victims(whom, pid)):
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(_victims(whom, pid)), signal.SIGKILL)
            return f"{whom} killed" + " while a checkpoint was written" * writing
        return None

    return blow


def stop(start_seconds: float = 0) -> Blow:
    """Make a blow that sends SIGTERM several times, as schedulers do, once training has begun.

    Args:
        start_seconds: from its start, in which one of four falls, if the training answers before it has begun.
    """

    def blow(pid: int, out: Path, dice: random.Random) -> str | None:
        starting = dice.random() < (0.25 if start_seconds else 0)
        if not starting and not _await_training(pid, out):
            return None
        time.sleep(dice.uniform(0.5, start_seconds) if starting else dice.uniform(0, 1))
        if not is_running(pid):
            return None
        for _ in range(3):
            if is_running(pid):
                os.kill(pid, signal.SIGTERM)
        return "stopped at its start" if starting else "stopped"

    return blow


def fill(pid: int, out: Path, dice: random.Random) -> str | None:
    """Use up the disk that the run is on, for a moment or until the run gives up."""
    checkpoints = len(list(out.glob(f"{FOLDER}/{STEPS}")))
    if not await_(pid, lambda: len(list(out.glob(f"{FOLDER}/{STEPS}"))) != checkpoints or dice.random() < 0.001):
        return None
    ballast = out.parent / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with contextlib.suppress(TimeoutError):
        deadline = time.monotonic() + dice.choice([0.3, 60])
        await_(pid, lambda: time.monotonic() > deadline)
    ballast.unlink()
    return "disk full"


def refuse_renames(dice: random.Random) -> None:
    """Let renames of checkpoints fail in the process to come: one attempt, which it survives, or all from then on."""
    replace, calls = os.replace, [0]
    first, last = (start := dice.randint(1, 4)), start + dice.choice([0, 1000])

    def refused(source, target):
        calls[0] += Path(target).match("step_*")
        if Path(target).match("step_*") and first <= calls[0] <= last:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return replace(source, target)

    os.replace = refused  # type: ignore[assignment]


def limit_files(dice: random.Random) -> None:
    """Limit the size of files in the process to come, below that of some files of a checkpoint."""
    size = dice.choice([1000, 20_000, 200_000])
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a file system of a few megabytes if that is allowed; yield whether it was."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
