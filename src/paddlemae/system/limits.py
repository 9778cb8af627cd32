"""Read the CPUs and memory that a container, a scheduler and the machine leave to this process.

Control groups limit a process by its own group and by every group around that; the least counts. Version 1 has a
hierarchy for each controller, version 2 one for all, and a machine may have both. `root` is "/", or a copy for tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
USUAL_MOUNT = PurePosixPath("/sys/fs/cgroup")  # of version 2, where the list of mounts can't be read


def check_current_folder() -> None:
    """Raise a FileNotFoundError if the current folder, which Paddle and its launcher need, was deleted."""
    try:
        os.getcwd()
    except FileNotFoundError as fault:
        text = "the current folder was deleted; change to one that exists, and run the command there"
        raise FileNotFoundError(fault.errno, text) from None


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return the CPUs whose time this process may use; None without such a limit."""
    quotas = [_quota(folder) for folder in _groups("cpu", root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def free_memory(root: Path = ROOT) -> int | None:
    """Return how many bytes of memory this process can still get; None where that is unknown."""
    machine = _named(root / "proc/meminfo", "MemAvailable:")
    left = [machine * 1024 if machine is not None else None]
    left += [_left_in(folder) for folder in _groups("memory", root)]
    return min((max(0, number) for number in left if number is not None), default=None)


def _quota(folder: Path) -> float | None:
    words = _words(folder / "cpu.max")  # version 2
    if len(words) != 2:
        words = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
    try:
        quota, period = map(int, words)
    except ValueError:  # "max", or no files
        return None
    return quota / period if quota > 0 and period > 0 else None  # -1 is no limit in version 1


def _left_in(folder: Path) -> int | None:
    """Return the bytes left up to a group's limit; inactive file caches count as free."""
    limits = [_number(folder / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    limit = min((number for number in limits if number is not None), default=None)
    if limit is None:
        return None
    version_2 = _number(folder / "memory.current")
    used = version_2 if version_2 is not None else _number(folder / "memory.usage_in_bytes")
    cached = [_named(folder / "memory.stat", name) for name in ("total_inactive_file", "inactive_file")]
    return limit - (used or 0) + next((number for number in cached if number is not None), 0)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups, from its own to the outermost visible one."""
    groups = _own_groups(root)
    for mount, top, controllers in [*_mounts(root), (USUAL_MOUNT, PurePosixPath("/"), None)]:
        if controllers is not None and controller not in controllers:  # None: version 2
            continue
        name = controller if controllers is not None else ""
        group = groups.get(name, PurePosixPath("/"))
        inside = group.relative_to(top) if group.is_relative_to(top) and ".." not in group.parts else PurePosixPath()
        for place in [inside, *inside.parents]:
            yield root / mount.relative_to("/") / place


def _own_groups(root: Path) -> dict[str, PurePosixPath]:
    """Return controller -> this process's group; "" for version 2."""
    groups = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        groups.update({name: PurePosixPath(path) for name in controllers.split(",")})
    return groups


def _mounts(root: Path) -> Iterator[tuple[PurePosixPath, PurePosixPath, set[str] | None]]:
    """Yield (mount point, the group mounted there, its controllers or None for version 2)."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind or kind[0] not in ("cgroup", "cgroup2"):
            continue
        top, mount = (PurePosixPath(name.encode().decode("unicode_escape")) for name in fields[3:5])
        yield mount, top, set(kind[-1].split(",")) if kind[0] == "cgroup" else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if len(words) == 1 and words[0].isdigit() else None


def _named(path: Path, name: str) -> int | None:
    """Return the number behind a name in a file of names and numbers."""
    numbers = [line.split()[1] for line in _lines(path) if line.split()[:1] == [name] and len(line.split()) > 1]
    return int(numbers[0]) if numbers and numbers[0].isdigit() else None
