"""Measure the wall time of short commands, each a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from benchmarks.worker import Clock
from benchmarks.works import Job


def start(job: Job, options: dict[str, Any]) -> dict[str, object]:
    """Run a command again and again; the first, which reads files from the disk, does not count."""
    command = [sys.executable, *options["arguments"]]
    clock = Clock(job)
    while not clock.done():
        subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))
        clock.mark()
    return {"seconds": clock.seconds()}


TASKS = {"startup": start}
