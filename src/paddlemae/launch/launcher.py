"""Launch the processes of one command: Paddle's launcher starts them; they are watched, ended together, restarted.

Paddle's launcher ends all processes of a host when one dies. It restarts none (without etcd), writes the whole
environment, passwords included, into its log folder, and knows no orderly end except status 0. Therefore its folder is
private and deleted afterwards (by the next launch if this command is killed), signals are sent to the training's
processes, which agree on the step to stop after, and the processes report their statuses in files. Knows no Paddle.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import locale
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddlemae.system.display_names import say
from paddlemae.system.limits import check_current_folder
from paddlemae.system.locks import lock_descriptor, process_identity
from paddlemae.system.run_module import module_command
from paddlemae.system.signals import INTERRUPTED_STATUS, REQUEUE_STATUS, stop_signals
from paddlemae.train.stopping import MISTAKE_STATUS

FOLDER_VARIABLE = "PADDLEMAE_LAUNCH_FOLDER"  # where processes leave their identity and status
SUPERVISOR_VARIABLE = "PADDLEMAE_SUPERVISOR"  # the identity of the process that watches
AUTO = "auto"
ENTERED = "entered"
LAUNCHER_LOG = "launcher.log"
RANK_SCRIPT = Path(__file__).parents[1] / "cli" / "rank_main.py"
LOOK_EVERY_SECONDS = 0.1
GRACE_SECONDS = 10.0  # for the launcher, once its processes have ended, and for processes without a launcher
MOST_RESTARTS = 3
PAUSE_SECONDS = 1.0  # before a restart, times how many there were
LOG_LINES = 30  # of the log of a process that crashed, at least


@dataclass(frozen=True)
class Launch:
    """Settings of a launch: the number of processes, the hosts, and the restarts after crashes.

    Attributes:
        procs: processes per host, a number or "auto"; None is one process, which needs no launcher.
        nodes: number of hosts that run the same command.
        master: "host:port" of the first host, with any free port; the same on all hosts.
        node_rank: number of this host, from 0; None lets the launchers assign it.
        restarts: most consecutive restarts without a new checkpoint.
    """

    procs: str | None = None
    nodes: int = 1
    master: str | None = None
    node_rank: int | None = None
    restarts: int = MOST_RESTARTS

    @property
    def is_needed(self) -> bool:
        """Return whether several processes must be started, and this is not one of them."""
        return (self.procs not in (None, "1") or self.nodes > 1) and not is_rank()

    def check(self) -> None:
        """Check that the settings are consistent.

        Raises:
            ValueError: they are not.
        """
        if self.procs not in (None, AUTO) and not (self.procs.isdigit() and int(self.procs)):
            raise ValueError(f"--procs must be a number of processes, or {AUTO}; got {self.procs!r}")
        if self.nodes > 1 and not self.master:
            raise ValueError(
                f"--nodes {self.nodes} needs --master HOST:PORT, the address of the first host, the same on all"
            )
        host, _, port = (self.master or "").rpartition(":")
        if self.master and (self.nodes == 1 or not host or not port.isdigit()):
            raise ValueError(
                f"--master must be HOST:PORT and needs several --nodes; got {self.master!r} with --nodes {self.nodes}"
            )
        if self.node_rank is not None and not 0 <= self.node_rank < self.nodes:
            raise ValueError(
                f"--node-rank must be from 0 to --nodes - 1; got {self.node_rank} with --nodes {self.nodes}"
            )


def is_rank() -> bool:
    """Return whether this process is one of those that a launcher started."""
    return "PADDLE_TRAINER_ID" in os.environ


def _folder_prefix() -> str:
    """Return the name prefix of this host's launch folders: locks of other hosts may be invisible here."""
    return f"paddlemae-launch-{platform.node()}-"


def remove_orphans() -> None:
    """Remove the launch folders of killed commands, which no process locks any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_folder_prefix()}*"):
        with contextlib.suppress(OSError):
            has_log = (folder / LAUNCHER_LOG).exists()  # a folder is locked before it has a log
            if has_log and (descriptor := lock_descriptor(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(descriptor)


def report_entered() -> None:
    """Report to the supervising command that the run folder was taken, so that no restart empties it again."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        (Path(folder) / ENTERED).touch()


def run_ranks(
    command: Sequence[str],
    processes: int,
    launch: Launch,
    newest: Callable[[], str | None],
    variables: dict[str, str] | None = None,
) -> int:
    """Run `paddlemae COMMAND` in several processes on this host, again after crashes; return its exit status.

    Args:
        command: the arguments; `--overwrite` is given to the first attempt alone.
        newest: returns the name of the newest checkpoint; a new one resets the count of crashes.
        variables: additional environment variables.
    """
    check_current_folder()
    restarts, before = 0, newest()
    command = list(command)
    while True:
        attempt = _Attempt(command, processes, launch, variables or {})
        with attempt:
            status = attempt.watch()
        if status is not None:
            return status
        now = newest()
        restarts, before = (1 if now != before else restarts + 1), now
        if restarts > launch.restarts:
            tried = f"gave up after {launch.restarts} restarts without a new checkpoint; " if launch.restarts else ""
            _say(f"{tried}fix the cause, then rerun the same command to resume")
            return 1
        if attempt.entered:
            command = [word for word in command if word != "--overwrite"]
        _say(f"starting again from {now or 'the beginning'} ({restarts} of {launch.restarts} restarts)")
        time.sleep(PAUSE_SECONDS * restarts)


class _Attempt:
    """One launch of all processes of this host; a context that leaves none of them behind."""

    def __init__(self, command: list[str], processes: int, launch: Launch, variables: dict[str, str]):
        self.command, self.processes, self.launch, self.variables = command, processes, launch, variables
        self.entered = False  # whether the run folder was taken
        self.stop_signal: str | None = None  # the signal that ends the training
        self.is_forced = False  # by a second Ctrl-C
        self.notified: set[int] = set()  # processes that were sent the signal
        self.silent: dict[int, None] = {}  # processes that died without a status, in order of death

    def __enter__(self) -> _Attempt:
        remove_orphans()
        self.before = {number: signal.signal(number, self._receive) for number in stop_signals()}
        self.held: int | None = None
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=_folder_prefix()))  # nobody else may look into it
            try:
                self._start()
            except BaseException:
                self._remove_folder()
                raise
        except BaseException:
            self._restore_handlers()
            raise
        return self

    def _start(self) -> None:
        self.held = lock_descriptor(self.folder)
        self.logs = self.folder / "logs"
        options = ["--nproc_per_node", str(self.processes), "--log_dir", str(self.logs)]
        if self.launch.nodes > 1:
            options += ["--nnodes", str(self.launch.nodes), "--master", str(self.launch.master)]
            options += ["--rank", str(self.launch.node_rank)] if self.launch.node_rank is not None else []
        words = [*module_command("paddle.distributed.launch"), *options, str(RANK_SCRIPT), *self.command]
        known = {FOLDER_VARIABLE: str(self.folder), SUPERVISOR_VARIABLE: json.dumps(process_identity(os.getpid()))}
        # a separate session: a terminal's Ctrl-C reaches only this process, which forwards it
        with (self.folder / LAUNCHER_LOG).open("w") as output:
            self.launcher = subprocess.Popen(
                words,
                env={"GLOG_minloglevel": "2", **os.environ, **self.variables, **known},  # no message per connection
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=() if self.held is None else (self.held,),  # the launcher would recreate a deleted folder
            )

    def _remove_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.held is not None:
            os.close(self.held)

    def _restore_handlers(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        for pid in self._alive():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if self.launcher.poll() is None:
            self.launcher.kill()
        self.launcher.wait()
        deadline = time.monotonic() + GRACE_SECONDS
        while self._alive() and time.monotonic() < deadline:  # a killed process may be in the middle of a write
            time.sleep(LOOK_EVERY_SECONDS)
        self._restore_handlers()
        self._remove_folder()
        remove_orphans()  # folders that a launcher still held when this launch began

    def _receive(self, number: int, frame: object) -> None:
        self.is_forced = self.stop_signal == "SIGINT" and number == signal.SIGINT
        self.stop_signal = signal.Signals(number).name

    def watch(self) -> int | None:
        """Wait until all processes have ended; return the exit status, or None after a crash, whose log is shown."""
        shown = _LogFollower(self.logs / "workerlog.0")
        ended_at: float | None = None
        while self.launcher.poll() is None:
            shown.update()
            self._forward()
            self._note_deaths()
            ended_at = (ended_at or time.monotonic()) if self._all_have_ended() else None
            if ended_at and time.monotonic() - ended_at > GRACE_SECONDS:
                break
            time.sleep(LOOK_EVERY_SECONDS)
        shown.update()
        self._note_deaths()
        self.entered = (self.folder / ENTERED).exists()
        statuses = self._statuses()
        crashed = bool(self.silent) or 1 in statuses.values()
        stopped = (
            (REQUEUE_STATUS, INTERRUPTED_STATUS) if self.stop_signal or not crashed else ()
        )  # else by the launcher, because of the crash
        orderly = [status for status in statuses.values() if status in (MISTAKE_STATUS, *stopped)]
        if orderly:
            return max(orderly, key=(REQUEUE_STATUS, INTERRUPTED_STATUS, MISTAKE_STATUS).index)
        if len(statuses) == self.processes and not any(statuses.values()):
            return 0
        if self.stop_signal:  # before the first checkpoint, or after the last
            _say(f"stopped ({self.stop_signal}); rerun the same command to resume")
            return INTERRUPTED_STATUS if self.stop_signal == "SIGINT" else REQUEUE_STATUS
        self._show_crash(statuses)
        return None

    def _processes(self) -> Iterator[list[Any]]:
        for path in self.folder.glob("*.process"):
            yield json.loads(path.read_text())

    def _alive(self) -> list[int]:
        return [pid for pid, started in self._processes() if process_identity(pid) == [pid, started]]

    def _statuses(self) -> dict[int, int]:
        return {int(path.stem): int(path.read_text()) for path in self.folder.glob("*.status")}

    def _all_have_ended(self) -> bool:
        return len(list(self._processes())) == self.processes and not self._alive()

    def _forward(self) -> None:
        """Forward this process's signals to the others; a second Ctrl-C ends them at once."""
        if not self.stop_signal:
            return
        for pid in self._alive():
            if pid not in self.notified or self.is_forced:
                self.notified.add(pid)
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL if self.is_forced else getattr(signal, self.stop_signal))

    def _note_deaths(self) -> None:
        """Note the processes that died without a status, in order; the launcher then kills the others."""
        for path in sorted(self.folder.glob("*.process")):
            pid, started = json.loads(path.read_text())
            if not path.with_suffix(".status").exists() and process_identity(pid) != [pid, started]:
                self.silent.setdefault(int(path.stem))

    def _show_crash(self, statuses: dict[int, int]) -> None:
        """Print which process crashed and the end of its log; the others' logs only report that they lost it."""
        if not list(self.folder.glob("*.process")):
            words = (self.folder / LAUNCHER_LOG).read_text(errors="replace")
            _say(f"the launcher started no process; its last output: {words[-500:]}")
        elif self.launcher.returncode is not None and self.launcher.returncode < 0:
            _say(f"the launcher was ended by {signal.Signals(-self.launcher.returncode).name}")
        for number in [*self.silent][:1]:
            _say(f"process {number} of this host exited without a status: killed, perhaps for lack of memory")
            self._show_log(number)
        for number, status in sorted(statuses.items()):
            if status and "Traceback" in self._log(number):
                _say(f"process {number} of this host crashed")
                self._show_log(number)

    def _log(self, number: int) -> str:
        path = self.logs / f"workerlog.{number}"
        return path.read_text(errors="replace") if path.exists() else ""

    def _show_log(self, number: int) -> None:
        if number:  # the log of process 0 has been shown
            lines = self._log(number).splitlines()
            tracebacks = [place for place, line in enumerate(lines) if line.startswith("Traceback")]
            first = min([len(lines) - LOG_LINES, *tracebacks[-1:]])  # a traceback whole, typer's many frames included
            print(*lines[max(0, first) :], sep="\n", file=sys.stderr, flush=True)


class _LogFollower:
    """Show the log of the first process as it grows."""

    def __init__(self, path: Path):
        self.path, self.offset = path, 0
        # text: the stderr of a notebook does not take bytes
        self.decoder = codecs.getincrementaldecoder(locale.getpreferredencoding(False))("backslashreplace")

    def update(self) -> None:
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self.offset)
            while piece := file.read(1 << 16):
                self.offset += len(piece)
                sys.stderr.write(self.decoder.decode(piece))
            sys.stderr.flush()


def _say(text: str) -> None:
    say(f"paddlemae: {text}", error=True)
