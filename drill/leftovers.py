"""Find living processes, and what ended ones leave: processes, temporary folders, shared memory. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
VANISH_SECONDS = 20  # what is killed along with another may take so long on a busy machine


@dataclass(frozen=True)
class Process:
    """Attributes: pid, parent: process ids. words: the command line."""

    pid: int
    parent: int
    words: str

    def variable(self, name: str) -> str | None:
        """Return the value of an environment variable at the process's start; None if it was not set."""
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{self.pid}/environ").read_bytes().decode(errors="replace").split("\0"):
                if entry.startswith(f"{name}="):
                    return entry.removeprefix(f"{name}=")
        return None


def adopt_orphans() -> None:
    """Make descendants whose parent died children of this process: so none can be lost from sight."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def descendants(pid: int) -> list[Process]:
    """Return the living processes that a process started, directly or indirectly, by process id."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                parents[int(folder.name)] = int(parent)
    found: list[Process] = []
    family = {pid}
    while children := {child for child, parent in parents.items() if parent in family} - family:
        family |= children
        for child in sorted(children):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(Process(child, parents[child], words.strip()))
    return found


def in_shared_memory() -> set[str]:
    return {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.exists() else set()


def left_behind(shared_before: Collection[str], but: str = "") -> list[str]:
    """Return what this process's descendants left behind, after waiting for them to end.

    Args:
        shared_before: what was in shared memory already.
        but: how the names of temporary folders begin that may stay.
    """
    deadline = time.monotonic() + VANISH_SECONDS
    while (alive := descendants(os.getpid())) and time.monotonic() < deadline:
        time.sleep(0.01)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # orphans that were adopted
            pass
    temporary = [path.name for path in Path(tempfile.gettempdir()).iterdir() if not (but and path.name.startswith(but))]
    return [
        *(f"process {one.pid} ({one.words[:60]})" for one in alive),
        *(f"{SHARED_MEMORY / name}" for name in sorted(in_shared_memory() - {*shared_before})),
        *(f"temporary {name}" for name in temporary),
    ]
