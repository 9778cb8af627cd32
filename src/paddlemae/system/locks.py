"""Lock folders and files, so that only one command at a time writes there.

A lock is a small hidden file, `.lock` in a folder and `.NAME.lock` next to a file. The command that holds it has an
`flock` on it, which the system releases when the process ends, however it ends; the file says which process on which
host that is, and its time of change is renewed every few seconds. It is removed at the end. Of a file that a killed
process left, the `flock` is free: the next command takes it over. Not every network file system shares these locks
among hosts, so what another host left is watched first, and taken over if its time of change stands still.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"
BEAT_SECONDS = 5.0  # between two signs of life
SILENT_SECONDS = 20.0  # without one a command of another host is dead
GRACE_SECONDS = 5.0  # for a lock whose process is gone or has not said who it is
_LOOK_EVERY_SECONDS = 0.1
_NO_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def process_identity(pid: int) -> list[Any]:
    """Return [process id, when it started], which no other process has; [process id, None] when there is none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return [pid, None if state == "Z" else fields[18]]
    except OSError:
        if Path("/proc/self/stat").exists():
            return [pid, None]
    try:  # not Linux
        os.kill(pid, 0)
        return [pid, ""]
    except OSError:
        return [pid, None]


def lock_descriptor(path: Path) -> int | None:
    """Return an open descriptor of a file or folder with an `flock` on it; None where there are no such locks.

    Processes that inherit the descriptor hold the lock too. On a folder in /tmp it also keeps systemd from clearing it.

    Raises:
        BlockingIOError: another process has it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    if taken := _flock(descriptor):
        return descriptor
    os.close(descriptor)
    if taken is False:
        raise BlockingIOError(errno.EAGAIN, "another process has the lock", str(path))
    return None


@contextlib.contextmanager
def lock_folder(folder: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a folder: made if it is not there, and removed at the end if it is still empty.

    Args:
        on_wait: called once with who holds it, if somebody does, before this waits; without it that is an error.
    Raises:
        BlockingIOError: another command holds it; the text says which.
    """
    with _make_folder(folder), _hold_lock(folder / LOCK_FILE, folder, on_wait):
        yield


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold a file that is being made; its folder is made and removed, and errors raised, as by `lock_folder`."""
    with _make_folder(path.parent), _hold_lock(path.with_name(f".{path.name}{LOCK_FILE}"), path, None):
        yield


@contextlib.contextmanager
def _make_folder(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; at the end those of them that are empty are removed."""
    folder = Path(os.path.abspath(folder))
    new = list(itertools.takewhile(lambda parent: not parent.exists(), [folder, *folder.parents]))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for parent in new:
            with contextlib.suppress(OSError):
                parent.rmdir()


def check_unlocked(folder: Path) -> None:
    """Raise the BlockingIOError of `lock_folder` if another command holds a folder now."""
    if (folder / LOCK_FILE).exists():
        with lock_folder(folder):
            pass


@contextlib.contextmanager
def _hold_lock(path: Path, target: Path, on_wait: Callable[[str], None] | None) -> Iterator[None]:
    descriptor = _take(path, target, on_wait)
    if descriptor is None:  # writing the result will say what is wrong
        yield
        return
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(descriptor, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if _is_there(path, descriptor):
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _beat(descriptor: int, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(descriptor)


@dataclass(frozen=True)
class _Owner:
    """Who holds a lock, as its file says."""

    host: str
    process: list[Any]
    since: str

    def __str__(self) -> str:
        return f"process {self.process[0]} on {self.host}, since {self.since}"

    @property
    def is_here(self) -> bool:
        return self.host == platform.node()

    def is_alive(self, path: Path) -> bool:
        """Return whether the owner's process is alive; one of another host must renew its lock file."""
        if self.is_here:
            return process_identity(self.process[0]) == self.process
        before, deadline = _changed(path), time.monotonic() + SILENT_SECONDS
        while time.monotonic() < deadline:
            if _changed(path) != before:
                return True
            time.sleep(_LOOK_EVERY_SECONDS)
        return False


def _take(path: Path, target: Path, on_wait: Callable[[str], None] | None) -> int | None:
    """Open the file and lock it; None where it can't be written."""
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)  # the one that held it may have removed it
            descriptor = _open(path)
        except OSError as fault:
            if fault.errno in _NO_PLACE:
                return None
            if fault.errno == errno.ENOENT and time.monotonic() < deadline:  # removed in between
                continue
            raise
        taken, owner = _flock(descriptor), _read(descriptor)
        if taken is False:
            busy = (owner is not None and (not owner.is_here or owner.is_alive(path))) or time.monotonic() > deadline
        elif not _is_there(path, descriptor):  # removed by the one that held it
            busy = False
        elif not (busy := owner is not None and not (taken and owner.is_here) and owner.is_alive(path)):
            _write(descriptor)
            return descriptor
        os.close(descriptor)
        if busy and on_wait is None:
            who = owner or "it does not say who"
            text = f"another command is writing there ({who}): wait until it has ended, or write to another place"
            raise BlockingIOError(errno.EAGAIN, text, str(target))
        if busy and on_wait:
            on_wait(f"waiting for {owner or 'another command'}")
            on_wait = _say_no_more
        time.sleep(_LOOK_EVERY_SECONDS)


def _say_no_more(text: str) -> None:
    pass


def _open(path: Path) -> int:
    flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except PermissionError:  # another user's, which can be locked all the same
        return os.open(path, os.O_RDONLY | flags)


def _flock(descriptor: int) -> bool | None:
    """Return whether the lock was taken; None where there are no such locks."""
    if not fcntl:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_there(path: Path, descriptor: int) -> bool:
    """Return whether this path still leads to the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _changed(path: Path) -> int | None:
    """Return the file's modification time, ns; it is opened each time, since NFS caches attributes of closed files."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _read(descriptor: int) -> _Owner | None:
    """Return the owner that a lock file names; None if it is empty or damaged."""
    try:
        content = json.loads(os.pread(descriptor, 4096, 0))
        pid, started = content["process"]
        return _Owner(str(content["host"]), [int(pid), started], str(content["since"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write(descriptor: int) -> None:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    content = {"host": platform.node(), "process": process_identity(os.getpid()), "since": since}
    with contextlib.suppress(OSError):  # a full disk; the lock itself needs no space
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(content).encode(), 0)
