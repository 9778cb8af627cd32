"""Several processes of one command: started by Paddle's launcher, watched, ended together, started again after a crash.

The launcher ends all processes of a host when one dies, and that is all: it starts nothing again (not without etcd), it
writes the whole environment, passwords included, into its log folder, and the only orderly end it knows is status 0. So
its folder is a private one that is deleted; signals go to the training's processes, which agree on the step to stop
after; and their statuses come back in files. Knows no Paddle.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER_VARIABLE = "PADDLEMAE_LAUNCH_FOLDER"  # where processes leave their identity and status
SUPERVISOR_VARIABLE = "PADDLEMAE_SUPERVISOR"  # the identity of the process that watches
ENTERED = "entered"
RANK_SCRIPT = Path(__file__).parent / "rank.py"
LOOK_EVERY_SECONDS = 0.1
GRACE_SECONDS = 10.0  # for the launcher, once its processes have ended, and for processes without a launcher
MOST_RESTARTS = 3  # in a row, without a new checkpoint in between
PAUSE_SECONDS = 1.0  # before a restart, times how many there were
SHOWN_LINES = 30  # of the log of a process that crashed
FORWARDED = ("SIGINT", "SIGTERM", "SIGUSR1")
FAILED = re.compile(r"Container rank (\d+) status failed .* code (-?\d+)")  # in the launcher's log


@dataclass(frozen=True)
class Hosts:
    """The machines that train together, each running the same command.

    Attributes:
        count: how many.
        master: "host:port" of the first, any free port, the same on all.
        number: this one, from 0; None lets the launchers number themselves.
    """

    count: int = 1
    master: str | None = None
    number: int | None = None

    def check(self) -> None:
        if self.count > 1 and not self.master:
            raise ValueError("several hosts need a place to meet: --master HOST:PORT of the first one, the same on all")
        if self.master and (self.count == 1 or not self.master.rpartition(":")[2].isdigit()):
            raise ValueError(f"--master is HOST:PORT of several --nodes, got {self.master!r} for {self.count}")
        if self.number is not None and not 0 <= self.number < self.count:
            raise ValueError(f"--node-rank counts from 0 to --nodes - 1, got {self.number} of {self.count}")


def identity(pid: int) -> list:
    """[process id, when it started]: no other process has both; [process id, None] when there is none."""
    try:
        return [pid, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]]
    except OSError:
        if Path("/proc/self/stat").exists():
            return [pid, None]
    try:  # not Linux
        os.kill(pid, 0)
        return [pid, ""]
    except OSError:
        return [pid, None]


def replace_file(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_text(text)
    os.replace(beside, path)


def is_rank() -> bool:
    """Whether this process is one that the launcher started."""
    return "PADDLE_TRAINER_ID" in os.environ


def note_entered() -> None:
    """Tell the command that watches that the run folder was taken, so that no restart empties it again."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        (Path(folder) / ENTERED).touch()


def run_ranks(
    command: Sequence[str],
    processes: int,
    hosts: Hosts,
    newest: Callable[[], str | None],
    variables: dict[str, str] | None = None,
) -> int:
    """Run `paddlemae COMMAND` in so many processes on this host, again after crashes; returns its exit status.

    Args:
        command: the arguments; `--overwrite` is given to the first attempt alone.
        newest: what names the newest checkpoint; crashes count anew once there is another.
        variables: of the environment, besides this process's own.
    """
    restarts, before = 0, newest()
    command = list(command)
    while True:
        attempt = _Attempt(command, processes, hosts, variables or {})
        with attempt:
            status = attempt.watch()
        if status is not None:
            return status
        now = newest()
        restarts, before = (1 if now != before else restarts + 1), now
        if restarts > MOST_RESTARTS:
            _say(f"gave up after {MOST_RESTARTS} restarts without a new checkpoint; once mended, start it again")
            return 1
        if attempt.entered:
            command = [word for word in command if word != "--overwrite"]
        _say(f"starting again from {now or 'the beginning'} ({restarts} of {MOST_RESTARTS} restarts)")
        time.sleep(PAUSE_SECONDS * restarts)


class _Attempt:
    """One launch of all processes of this host; a context that leaves none of them behind."""

    def __init__(self, command: list[str], processes: int, hosts: Hosts, variables: dict[str, str]):
        self.command, self.processes, self.hosts, self.variables = command, processes, hosts, variables
        self.entered = False  # whether the run folder was taken
        self.asked: str | None = None  # a signal that ends the training
        self.hurried = False
        self.told: set[int] = set()  # processes that were sent it

    def __enter__(self) -> _Attempt:
        self.folder = Path(tempfile.mkdtemp(prefix="paddlemae-launch-"))  # nobody else may look into it
        self.logs = self.folder / "logs"
        options = ["--nproc_per_node", str(self.processes), "--log_dir", str(self.logs)]
        if self.hosts.count > 1:
            options += ["--nnodes", str(self.hosts.count), "--master", str(self.hosts.master)]
            options += ["--rank", str(self.hosts.number)] if self.hosts.number is not None else []
        words = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "paddle.distributed.launch",
            *options,
            str(RANK_SCRIPT),
            *self.command,
        ]
        known = {FOLDER_VARIABLE: str(self.folder), SUPERVISOR_VARIABLE: json.dumps(identity(os.getpid()))}
        self.output = (self.folder / "launcher.log").open("w")
        self.before = {
            number: signal.signal(number, self._remember)
            for number in (getattr(signal, name) for name in FORWARDED if hasattr(signal, name))
        }
        # a session of its own: a terminal's Ctrl-C comes here only, and goes on from here
        self.launcher = subprocess.Popen(
            words,
            env={**os.environ, **self.variables, **known},
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._alive():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if self.launcher.poll() is None:
            self.launcher.kill()
        self.launcher.wait()
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.output.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _remember(self, number: int, frame: object) -> None:
        self.hurried = self.asked == "SIGINT" and number == signal.SIGINT
        self.asked = signal.Signals(number).name

    def watch(self) -> int | None:
        """Until all have ended: their exit status, or None if one crashed; its log is shown then."""
        shown = _Shown(self.logs / "workerlog.0")
        ended_at: float | None = None
        while self.launcher.poll() is None:
            shown.go_on()
            self._forward()
            ended_at = (ended_at or time.monotonic()) if self._all_have_ended() else None
            if ended_at and time.monotonic() - ended_at > GRACE_SECONDS:
                break
            time.sleep(LOOK_EVERY_SECONDS)
        shown.go_on()
        self.entered = (self.folder / ENTERED).exists()
        statuses = self._statuses()
        orderly = [status for status in statuses.values() if status in (2, 75, 130)]
        if orderly:
            return max(orderly, key=(75, 130, 2).index)
        if len(statuses) == self.processes and not any(statuses.values()):
            return 0
        if self.asked:  # before there was anything to save
            return 130 if self.asked == "SIGINT" else 75
        self._show_crash(statuses)
        return None

    def _processes(self) -> Iterator[list]:
        for path in self.folder.glob("*.process"):
            yield json.loads(path.read_text())

    def _alive(self) -> list[int]:
        return [pid for pid, started in self._processes() if identity(pid) == [pid, started]]

    def _statuses(self) -> dict[int, int]:
        return {int(path.stem): int(path.read_text()) for path in self.folder.glob("*.status")}

    def _all_have_ended(self) -> bool:
        return len(list(self._processes())) == self.processes and not self._alive()

    def _forward(self) -> None:
        """Tell the processes what this one was told; a second Ctrl-C ends them at once."""
        if not self.asked:
            return
        for pid in self._alive():
            if pid not in self.told or self.hurried:
                self.told.add(pid)
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL if self.hurried else getattr(signal, self.asked))

    def _show_crash(self, statuses: dict[int, int]) -> None:
        """Who crashed, how, and the end of its log; the others' only say that they lost it."""
        words = (self.folder / "launcher.log").read_text(errors="replace")
        failed = {int(number): int(code) for number, code in FAILED.findall(words)}
        if not failed:
            crashed = [number for number in range(self.processes) if statuses.get(number) != 0]
            failed = {number: statuses.get(number, -signal.SIGKILL) for number in crashed}
        if not list(self.logs.glob("workerlog.*")):
            _say(f"the launcher started no process; its last words: {words[-500:]}")
        for number, code in sorted(failed.items()):
            log = self.logs / f"workerlog.{number}"
            _say(f"process {number} of this host crashed ({_ended_by(code)})")
            if number and log.exists():  # the first one's is shown already
                print(
                    *log.read_text(errors="replace").splitlines()[-SHOWN_LINES:], sep="\n", file=sys.stderr, flush=True
                )


class _Shown:
    """The log of the first process, shown as it grows."""

    def __init__(self, path: Path):
        self.path, self.offset = path, 0

    def go_on(self) -> None:
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self.offset)
            while piece := file.read(1 << 16):
                self.offset += len(piece)
                sys.stderr.buffer.write(piece)
            sys.stderr.flush()


def _ended_by(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit status {code}"


def _say(text: str) -> None:
    print(f"paddlemae: {text}", file=sys.stderr, flush=True)
