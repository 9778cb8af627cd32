"""Run jobs in separate processes, the sides in turn, and return medians and spreads of what they print."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.calibration import Calibration, is_disturbed
from benchmarks.limit import rate
from benchmarks.works import BRIEF, ISAS, SIDES, Job, Run, Work

ROOT = Path(__file__).resolve().parents[1]
# a child inherits nothing that makes its arithmetic faster or slower
DROPPED = (
    *("OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "ONEDNN_", "DNNL_", "FLAGS_", "TORCH", "ATEN_"),
    *("MALLOC_", "LD_PRELOAD", "CPU_NUM", "PADDLEMAE_"),
)
HOPELESS = 1.05  # a variant this many times slower than its framework's best is not measured again
TIMEOUT_SECONDS = 300  # a first torch.compile included


@dataclass(frozen=True)
class Summary:
    """Median over processes, and the smallest and largest.

    Attributes:
        disturbed: none of the processes ran while the machine was quiet.
    """

    value: float
    low: float
    high: float
    runs: int
    disturbed: bool = False


def environment(job: Job) -> dict[str, str]:
    """Return the environment variables of a job's process: ours without `DROPPED`, its limit's and its side's own."""
    own = {name: value.format(threads=job.threads) for name, value in SIDES[job.side].environment.items()}
    return {**clean_environment(), **ISAS.get(job.isa, {}), **own}


def clean_environment() -> dict[str, str]:
    """Return this process's environment variables without `DROPPED`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}


def calibration_rate(threads: int, prefix: str = "") -> float:
    """Return the GFLOP/s of the calibration product in a new process."""
    command = [*shlex.split(prefix), sys.executable, "-m", "benchmarks.calibration"]
    own = {name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(
        command, env=clean_environment() | own, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
    )
    return float(done.stdout)


def run_job(job: Job, prefix: str = "") -> Run:
    """Run a job in a new process.

    Args:
        prefix: words before the command, such as "taskset -c 0,1".
    Returns:
        what `worker.run` gives; {"unavailable": reason} where the process fails.
    """
    command = [*shlex.split(prefix), sys.executable, "-m", "benchmarks.worker", json.dumps(asdict(job))]
    try:
        done = subprocess.run(
            command, env=environment(job), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=TIMEOUT_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"unavailable": f"took more than {TIMEOUT_SECONDS} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        return {"unavailable": f"exit status {done.returncode}: {said[-1][:200]}".replace(str(ROOT), ".")}
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_work(
    work: Work,
    sides: Sequence[str],
    repeats: int,
    *,
    changes: dict[str, Any],
    prefix: str = "",
    calibration: Calibration | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, list[Run]]:
    """Measure a work: its sides in turn, again and again, so that a slow minute of the machine meets all of them.

    Args:
        sides: those to measure.
        repeats: processes for each side; hopeless variants and those measured `once` get one.
        changes: fields of the work's job that are set otherwise.
        calibration: repeats what was disturbed; None measures everything once. Memory is not repeated.
    Returns:
        for each side what its processes gave.
    """
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for number in range(repeats):
        for side in sides:
            if number and (SIDES[side].once or unavailable(runs[side]) or is_hopeless(work, side, runs)):
                continue
            start = partial(run_job, job_of(work, side, changes), prefix)
            run = calibration.measure(start, say) if calibration and work.quantity != "GB" else start()
            runs[side].append(run)
            found = run.get("unavailable") or f"{measured(work, run):.4g} {work.quantity}"
            say(f"{work.name} {number + 1}/{repeats}  {SIDES[side].title}: {found}")
    return runs


def job_of(work: Work, side: str, changes: dict[str, Any]) -> Job:
    """Return the job that one of a side's processes runs."""
    brief = BRIEF if SIDES[side].once else {}
    return replace(work.job, side=side, **{**changes, **brief})


def unavailable(runs: Iterable[Run]) -> str | None:
    """Return why a side could not be measured, or None."""
    return next((run["unavailable"] for run in runs if "unavailable" in run), None)


def is_hopeless(work: Work, side: str, runs: dict[str, list[Run]]) -> bool:
    """Return whether a variant is too slow to be its framework's best result in its precision."""
    module, precision = SIDES[side].module, SIDES[side].options.get("precision")
    if module != "torch_peer" or work.quantity not in ("images/s", "ms"):
        return False
    alike = [other for other in runs if SIDES[other].module == module]
    alike = [other for other in alike if SIDES[other].options.get("precision") == precision]
    rivals = [other for other in alike if runs[other] and not unavailable(runs[other])]
    fastest = min(step_seconds(runs[other][0]) for other in rivals)
    return step_seconds(runs[side][0]) > HOPELESS * fastest


def step_seconds(run: Run) -> float:
    """Return the median over the steps of a process."""
    return statistics.median(run["seconds"])


def measured(work: Work, run: Run) -> float:
    """Return the result of a process in the work's quantity."""
    if work.quantity == "GB":
        return run["peak_bytes"] / 1e9
    if work.quantity == "GFLOP/s":
        return rate(run["products"]) / 1e9
    # batches from files may come unevenly, so that the total counts
    seconds = statistics.mean(run["seconds"]) if work.section == "end-to-end" else step_seconds(run)
    return {"s": seconds, "ms": 1000 * seconds, "images/s": work.job.batch / seconds}[work.quantity]


def summary(work: Work, runs: Sequence[Run], usual: float = 0.0) -> Summary | None:
    """Return the median and spread over a side's undisturbed processes, or over all if there are none.

    Args:
        usual: the GFLOP/s of the calibration product when the machine is quiet.
    Returns:
        None without results.
    """
    if not runs or unavailable(runs):
        return None
    quiet = [run for run in runs if not is_disturbed(run, usual)]
    values = [measured(work, run) for run in quiet or runs]
    return Summary(statistics.median(values), min(values), max(values), len(values), disturbed=not quiet)
