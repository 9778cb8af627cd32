"""How many CPUs this process may use, and its share of them in a launch. Knows no Paddle."""

from __future__ import annotations

import os

from paddlemae.system.limits import cpu_quota

LOCAL_SIZE = "PADDLE_LOCAL_SIZE"  # processes of a launch on this host


def usable_cpus() -> int:
    """Count the CPUs that this process may use: those it is bound to, or fewer under a container's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return bound if quota is None else min(bound, max(1, round(quota)))


def threads_of(threads: int | str) -> int:
    """Return the CPU threads of a setting; "auto" divides the usable cores among a launch's processes."""
    return max(1, usable_cpus() // int(os.environ.get(LOCAL_SIZE, "1"))) if threads == "auto" else int(threads)
