"""Pretrain for hours and check that memory, open files, processes and speed stay constant.

python -m drill.soak --data cifar10/ --hours 2 --out runs/soak

The training is one of `paddlemae pretrain cifar10` in a process of its own, which `max_hours` ends. Samples are taken
from /proc, speed from the run's own metrics. Judged is what comes after a warm-up: growth of the resident memory from
the median of the first window to that of the last, and the speed of each window against the median of all. Speed is a
ratio, as everywhere in this house: the images trained on in the time that a fixed peer takes (drill/peer.py), which is
asked at each sample, so a machine that is shared with others is not taken for a training that slows down.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from drill.leftovers import descendants, in_shared_memory
from drill.peer import Peer
from paddlemae.runs.runlog import read_metrics
from paddlemae.system.signals import REQUEUE_STATUS

RECIPE = "cifar10"
EVERY_SECONDS = 15
WARM_UP_MINUTES = 10
WINDOW_MINUTES = 10
MOST_GROWTH = 0.02
LINGERING_SECONDS = 10  # that a helper of Python's multiprocessing takes to notice that it is not needed any more
MOST_DEVIATION = 0.05


@dataclass(frozen=True)
class Sample:
    """Resources of the training's processes, data workers included, at one moment, and the peer's time then."""

    seconds: float
    peer_seconds: float
    resident_bytes: int
    processes: int
    threads: int
    open_files: int
    shared_segments: int


def family(pid: int) -> list[int]:
    """Return a process and all living processes that it started, directly or indirectly."""
    return [pid, *(one.pid for one in descendants(pid))]


def sample(pid: int, started: float, peer: Peer) -> Sample | None:
    """Take a sample; None if a process ended meanwhile."""
    peer_seconds = peer.seconds()
    try:
        pids = family(pid)
        resident = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in pids]
        return Sample(
            seconds=time.monotonic() - started,
            peer_seconds=peer_seconds,
            resident_bytes=sum(resident) * os.sysconf("SC_PAGE_SIZE"),
            processes=len(pids),
            threads=sum(len(list(Path(f"/proc/{one}/task").iterdir())) for one in pids),
            open_files=sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in pids),
            shared_segments=len(in_shared_memory()),
        )
    except OSError:
        return None


def windows(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """Return the medians of (seconds, value) pairs over whole windows after the warm-up."""
    warm, length = 60 * WARM_UP_MINUTES, 60 * WINDOW_MINUTES
    last = pairs[-1][0]
    starts = range(warm, int(last - length) + 1, length)
    return [median(value for at, value in pairs if start <= at < start + length) for start in starts]


def judge(samples: Sequence[Sample], speeds: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return growth and deviations as ratios, and counts after the warm-up and at the end."""
    memory = windows([(one.seconds, one.resident_bytes) for one in samples])
    peer = windows([(one.seconds, one.peer_seconds) for one in samples])
    images = windows(speeds)
    if len(memory) < 2 or len(images) < 2:
        minutes = WARM_UP_MINUTES + 2 * WINDOW_MINUTES
        raise ValueError(f"a soak must last {minutes} minutes or more, this one took {samples[-1].seconds / 60:.0f}")
    warm = [one for one in samples if one.seconds >= 60 * WARM_UP_MINUTES]
    counts = {
        f"{name}_{when}": float(getattr(one, name))
        for name in ("processes", "threads", "open_files", "shared_segments")
        for when, one in (("after_warm_up", warm[0]), ("at_the_end", warm[-1]))
    }
    speed = [each * seconds for each, seconds in zip(images, peer)]
    usual = median(speed)
    return {
        "memory_gb": [round(one / 1e9, 4) for one in memory],
        "memory_growth": memory[-1] / memory[0] - 1,
        "images_per_second": [round(one, 1) for one in images],
        "peer_seconds": [round(one, 4) for one in peer],
        "images_while_the_peer_steps": [round(one, 1) for one in speed],
        "worst_deviation_of_speed": max(abs(one / usual - 1) for one in speed),
        **counts,
    }


def faults(found: dict[str, Any]) -> Iterator[str]:
    """Yield one line for each measure outside of its limits."""
    growth, deviation = found["memory_growth"], found["worst_deviation_of_speed"]
    if growth >= MOST_GROWTH:
        yield f"memory grew by {growth:.1%}"
    if deviation > MOST_DEVIATION:
        yield f"speed deviates by {deviation:.1%}"
    for name in ("processes", "open_files", "shared_segments"):
        if found[f"{name}_at_the_end"] > found[f"{name}_after_warm_up"]:
            yield f"{name} grew from {found[f'{name}_after_warm_up']:.0f} to {found[f'{name}_at_the_end']:.0f}"


def draw(path: Path, samples: Sequence[Sample], speeds: Sequence[tuple[float, float]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(4, 1, figsize=(9, 9), sharex=True, layout="constrained")
    minutes = [one.seconds / 60 for one in samples]
    axes[0].plot(minutes, [one.resident_bytes / 1e9 for one in samples])
    axes[0].set_ylabel("resident, GB")
    axes[1].plot([at / 60 for at, _ in speeds], [value for _, value in speeds])
    axes[1].set_ylabel("images/s")
    axes[2].plot(minutes, [one.peer_seconds for one in samples])
    axes[2].set_ylabel("the peer's step, s")
    for name in ("processes", "threads", "open_files", "shared_segments"):
        axes[3].plot(minutes, [getattr(one, name) for one in samples], label=name.replace("_", " "))
    axes[3].legend(loc="center right")
    axes[3].set_xlabel("minutes")
    for one in axes:
        one.set_ylim(bottom=0)
        one.axvline(WARM_UP_MINUTES, color="grey", linestyle=":")
    figure.savefig(path, dpi=120)


def soak(data: str, out: Path, hours: float, settings: Sequence[str]) -> int:
    """Run, watch and judge; returns the exit status."""
    command = [sys.executable, "-m", "paddlemae", "pretrain", RECIPE, "--data", data, "--out", str(out), "--quiet"]
    command += ["epochs=1000", "workers=1", "checkpoint_every=0.5", f"max_hours={hours}", *settings]
    before, peer = in_shared_memory(), Peer(RECIPE)
    samples: list[Sample] = []
    started = time.monotonic()
    with subprocess.Popen(command) as process:
        try:
            seen: set[int] = set()
            while process.poll() is None:
                if taken := sample(process.pid, started, peer):
                    samples.append(taken)
                    seen.update(family(process.pid))
                time.sleep(EVERY_SECONDS)
        finally:
            if process.poll() is None:
                process.terminate()
    speeds = [(line["seconds"], line["images_per_second"]) for line in read_metrics(out) if "images_per_second" in line]
    found = judge(samples, speeds)
    wrong = list(faults(found))
    if process.returncode != REQUEUE_STATUS:
        wrong.append(f"it ended with {process.returncode}, not with {REQUEUE_STATUS}")
    deadline = time.monotonic() + LINGERING_SECONDS
    while (alive := [pid for pid in seen if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(1)
    if alive:
        wrong.append(f"processes were left over: {alive}")
    if left := in_shared_memory() - before:
        wrong.append(f"shared memory was left over: {sorted(left)}")
    if torn := [str(path) for path in out.rglob(".*.partial")]:
        wrong.append(f"files were left over: {torn}")
    document = {"command": command[1:], "judged": found, "wrong": wrong, "samples": [asdict(one) for one in samples]}
    (out / "soak.json").write_text(json.dumps(document, indent=1) + "\n")
    draw(out / "soak.png", samples, speeds)
    for name, value in found.items():
        print(f"{name:28} {value if isinstance(value, list) else round(value, 4)}")
    print(f"{len(wrong)} wrong", *wrong, sep="\n")
    return bool(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder of images, such as CIFAR-10's")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("settings", nargs="*", help="KEY=VALUE of the recipe, such as threads=1")
    wanted = parser.parse_args()
    return soak(wanted.data, wanted.out, wanted.hours, wanted.settings)


if __name__ == "__main__":
    sys.exit(main())
