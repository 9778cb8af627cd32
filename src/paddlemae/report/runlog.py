"""A run folder's records: recipe, environment and one line of metrics after another."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.jsonl"
ENVIRONMENT_FILE = "environment.json"
FIGURES = "figures"
PACKAGES = ("paddlemae", "paddlepaddle", "paddlepaddle-gpu", "numpy", "pillow", "safetensors")


def open_run(folder: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Make a run folder, or take over one that is there.

    Raises:
        ValueError: the folder holds a run, or something else, and neither resume nor overwrite was asked for.
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other: continue the run or start it anew")
    if folder.is_file():
        raise ValueError(f"{folder} is a file; --out needs a folder for the run")
    if folder.is_dir() and any(folder.iterdir()) and not resume:
        is_run = (folder / RECIPE_FILE).exists()
        if not is_run:
            raise ValueError(f"{folder} is not empty and holds no run; choose another folder with --out")
        if not overwrite:
            raise ValueError(f"{folder} already holds a run; add --resume, or --overwrite, or choose another --out")
        shutil.rmtree(folder)
    if resume and not (folder / RECIPE_FILE).exists():
        raise ValueError(f"{folder} holds no run to resume; leave --resume out to start one there")
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)


def write_environment(folder: Path) -> None:
    """Write versions, machine and command: enough to repeat a run, no variable of the user's environment."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    content = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "packages": versions,
        "commit": _commit(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
    }
    (folder / ENVIRONMENT_FILE).write_text(json.dumps(content, indent=2) + "\n")


def _commit() -> str | None:
    """The commit of PaddleMAE's own checkout, if it runs from one."""
    source = Path(__file__).parent
    if not any((parent / ".git").exists() for parent in source.parents):
        return None
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=source,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def log_metrics(folder: Path, step: int, epoch: float, seconds: float, **values: float) -> None:
    """Append one line to `metrics.jsonl`: step, epoch, seconds since the start of training, name -> value."""
    line = {"step": step, "epoch": round(epoch, 4), "seconds": round(seconds, 3), **values}
    with (folder / METRICS_FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a damaged line, as a crash may leave, is left out."""
    path = folder / METRICS_FILE
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def forget_metrics_after(folder: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will take again."""
    kept = [line for line in read_metrics(folder) if line["step"] <= step]
    beside = folder / f".{METRICS_FILE}.partial"
    beside.write_text("".join(json.dumps(line) + "\n" for line in kept))
    os.replace(beside, folder / METRICS_FILE)
