"""Run one job in a child process, and print what it measured as one line of JSON.

python -m benchmarks.worker '{"task": "pretrain", "side": "ours", "model": "tiny", ...}'
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.processor import used_kernels
from benchmarks.works import CHANNELS, NUM_CLASSES, PIXEL_CLASSES, SIDES, Job

VERSIONS = ("paddlepaddle", "torch", "transformers", "numpy", "pillow", "onnxruntime")
BATCHES = 4  # different batches in memory, taken in turn


class NotAvailable(RuntimeError):
    """Raised by a side that can't run the job here; the text states why."""


class Clock:
    """Wall time of each step, from the end of the step before, so that nothing between two steps is left out."""

    def __init__(self, job: Job):
        self.job = job
        self.marks = [time.perf_counter()]

    def mark(self) -> None:
        """Call at the end of every step, results in hand."""
        self.marks.append(time.perf_counter())

    def done(self) -> bool:
        seconds = self.seconds()
        return len(seconds) >= self.job.min_steps and sum(seconds) >= self.job.min_seconds

    def seconds(self) -> list[float]:
        """Return the seconds of the counted steps, those after the warm-up."""
        return np.diff(self.marks)[self.job.warmup :].tolist()


def images_u8(job: Job) -> list[np.ndarray]:
    """Return the batches that every side gets: uint8 [B, C, H, W], the same numbers on every side."""
    size = job.shape["image_size"]
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (job.batch, CHANNELS, size, size), np.uint8) for _ in range(BATCHES)]


def labels(job: Job) -> list[np.ndarray]:
    """Return the class numbers of `images_u8`, int64 [B]."""
    rng = np.random.default_rng(1)
    return [rng.integers(0, NUM_CLASSES, job.batch) for _ in range(BATCHES)]


def masks(job: Job) -> list[np.ndarray]:
    """Return the classes of the pixels of `images_u8`, int64 [B, H, W]."""
    rng, size = np.random.default_rng(2), job.shape["image_size"]
    return [rng.integers(0, PIXEL_CLASSES, (job.batch, size, size)) for _ in range(BATCHES)]


def peak_bytes() -> int:
    """Return the largest resident memory so far of this process and of the living processes that it started.

    From /proc, since `ru_maxrss` of a child starts with its parent's.
    """
    return sum(_status_bytes(pid, "VmHWM") for pid in [Path("/proc/self"), *_descendants(Path("/proc/self"))])


def resident_bytes() -> int:
    """Return the resident memory of this process now."""
    return _status_bytes(Path("/proc/self"), "VmRSS")


def _status_bytes(process: Path, field: str) -> int:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:  # it has ended, or there is no /proc
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0)


def _descendants(process: Path) -> list[Path]:
    children = [Path("/proc", pid) for file in process.glob("task/*/children") for pid in file.read_text().split()]
    return children + [below for child in children for below in _descendants(child)]


def versions() -> dict[str, str]:
    """Return the versions of the relevant packages that are loaded in this process."""
    modules = {"paddlepaddle": "paddle", "pillow": "PIL"}
    found = [name for name in VERSIONS if modules.get(name, name) in sys.modules]
    return {name: importlib.metadata.version(name) for name in found}


def run(job: Job) -> dict[str, object]:
    """Run a job in this process.

    Returns:
        what the side's module measured, with `peak_bytes`, `versions` and `kernels`.
    """
    side = SIDES[job.side]
    module = importlib.import_module(f"benchmarks.{side.module}")
    try:
        measured = module.TASKS[job.task](job, side.options)
    except NotAvailable as reason:
        return {"unavailable": str(reason)}
    return {**measured, "peak_bytes": peak_bytes(), "versions": versions(), "kernels": used_kernels()}


def main() -> None:
    print(json.dumps(run(Job(**json.loads(sys.argv[1])))), flush=True)


if __name__ == "__main__":
    importlib.import_module("benchmarks.worker").main()  # whose `NotAvailable` is the one that sides raise
