"""Start and end commands in several processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddlemae
from paddlemae.launch.launcher import process_identity

SOURCES = Path(paddlemae.__file__).parents[1]
LONG = 300.0  # seconds, for what takes half a minute


def processes_with(setting: str) -> list[int]:
    """Return the processes that have a variable, such as "TMPDIR=/there", in their environment; zombies have none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if setting.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


class Job:
    """A command as a process of its own, with a folder for temporary files of its own; a context that ends it all."""

    def __init__(self, folder: Path, *arguments: object, module: str = "paddlemae", **variables: str):
        self.temporary = folder / "temporary"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        paths = [variables.pop("FIRST_PATH", ""), str(SOURCES), os.environ.get("PYTHONPATH", "")]
        known = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "TMPDIR": str(self.temporary)}
        self.command = [sys.executable, "-m", module, *map(str, arguments)]
        self.environment = {**os.environ, **known, **variables}

    def __enter__(self) -> Job:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        """Kill whatever is left, so that nothing outlives a test."""
        for pid in self.alive():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def alive(self) -> list[int]:
        return processes_with(f"TMPDIR={self.temporary}")

    @property
    def said(self) -> str:
        return self.log.read_text()

    def ranks(self) -> dict[int, int]:
        """Return the process id of each rank of this host that is running."""
        found = {}
        for path in self.temporary.glob("paddlemae-launch-*/[0-9]*.process"):
            with contextlib.suppress(FileNotFoundError):
                pid, started = json.loads(path.read_text())
                if process_identity(pid) == [pid, started]:
                    found[int(path.stem)] = pid
        return found

    def wait_for(self, happened: Callable[[], Any], seconds: float = LONG) -> None:
        """Wait while it runs until something has happened."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None, f"it ended first: {self.said}"
            assert time.monotonic() < deadline, f"it did not happen: {self.said}"
            time.sleep(0.005)

    def end(self, seconds: float = LONG) -> int:
        """Wait for the command and return its exit status; assert that no process and no temporary file is left."""
        status = self.process.wait(seconds)
        assert self.alive() == []
        assert list(self.temporary.iterdir()) == []
        return status


def run(folder: Path, *arguments: object, **variables: str) -> Job:
    """Run a command and assert that it succeeds."""
    with Job(folder, *arguments, **variables) as job:
        assert job.end() == 0, job.said
    return job
