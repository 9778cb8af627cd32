"""Write and read a run folder's records: recipe, environment, lines of metrics."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from paddlemae.system.atomic import PARTIAL, append_text, is_partial, remove, replace_text
from paddlemae.system.documents import read_lines, read_name, read_record
from paddlemae.system.locks import LOCK_FILE

RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.jsonl"
ENVIRONMENT_FILE = "environment.json"
RESULTS_FILE = "results.jsonl"  # evaluations of the run's checkpoints, a JSON object a line
RESULT_FILE = "result.json"  # of a run that trains a classifier: its own
SKIPPED_FILE = "skipped.jsonl"  # images that the run left out, a JSON object a line
CHECKPOINTS = "checkpoints"  # their folders, and `latest`, which names the newest
FIGURES = "figures"
EXHIBITS = "exhibits"  # pictures and what belongs to them, for the report
REPORT_FILES = ("report.html", "report.json", "report.md")
# all that a run's folder holds; --overwrite removes nothing else
RUN_ENTRIES = (
    RECIPE_FILE,
    METRICS_FILE,
    ENVIRONMENT_FILE,
    RESULTS_FILE,
    SKIPPED_FILE,
    FIGURES,
    EXHIBITS,
    CHECKPOINTS,
    RESULT_FILE,
    *REPORT_FILES,
)


class EnvironmentType(BaseModel):
    """Content of `environment.json`; entries that an older version did not write may be missing."""

    model_config = ConfigDict(strict=True, extra="ignore")
    command: list[str] | None = None
    started: str | None = None
    python: str | None = None
    packages: dict[str, str] | None = None
    commit: str | None = None
    system: str | None = None
    processor: str | None = None
    cpus: int | None = None
    products: str | None = None
    finished: str | None = None


PACKAGES = ("paddlemae", "paddlepaddle", "paddlepaddle-gpu", "numpy", "pillow", "safetensors")


def check_folder(
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    marker: str = RECIPE_FILE,
    entries: Collection[str] = RUN_ENTRIES,
) -> None:
    """Raise a ValueError for a folder that a run must not take.

    Args:
        marker: the file that a folder of a run has and others have not.
        entries: what a run puts there, with wildcards; a folder that holds more is not overwritten.
    Raises:
        ValueError: it holds a run and neither resume nor overwrite was asked for; or it holds something else, which
            is never overwritten; or there is nothing to resume.
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other: resume the run or replace it")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; --out needs a folder for the run")
    is_run = (folder / marker).exists()
    if resume and not is_run:
        raise ValueError(f"{folder} holds no run to resume; leave --resume out to start one there")
    if folder.is_dir() and not resume and not all(_is_of_a_beginning(name, marker) for name in os.listdir(folder)):
        if not is_run:
            raise ValueError(f"{folder} is not empty and holds no run; choose another folder with --out")
        if not overwrite:
            ways = "--resume to continue it, --overwrite to replace it" if marker == RECIPE_FILE else "--overwrite"
            raise ValueError(f"{folder} already holds a run; add {ways}, or choose another --out")
        others = sorted(path.name for path in folder.iterdir() if not _is_of_a_run(path, entries))
        if others:
            raise ValueError(
                f"{folder} holds more than a run ({', '.join(others[:3])}); move that or choose another --out"
            )
        _check_link(folder / CHECKPOINTS)


def _check_link(checkpoints: Path) -> None:
    """Refuse a link that leads to anything but checkpoints: they are to be removed."""
    if checkpoints.is_symlink() and checkpoints.is_dir():
        ours = ("step_*", "latest", "best", f".*{PARTIAL}")
        if others := sorted(path.name for path in checkpoints.iterdir() if not any(map(path.match, ours))):
            raise ValueError(
                f"{checkpoints} is a link to {checkpoints.resolve()}, which holds more than checkpoints "
                f"({', '.join(others[:3])}); remove the link, or choose another --out"
            )


def _is_of_a_beginning(name: str, marker: str) -> bool:
    """Return whether a file is one that a run writes before its recipe."""
    return name in (LOCK_FILE, ENVIRONMENT_FILE) or any(is_partial(name, file) for file in (ENVIRONMENT_FILE, marker))


def _is_of_a_run(path: Path, entries: Collection[str]) -> bool:
    """Return whether a path is one of a run's entries, a temporary file of one, or the lock."""
    patterns = [*entries, *(f".{entry}.*{PARTIAL}" for entry in entries), *(f".{entry}{PARTIAL}" for entry in entries)]
    return path.name == LOCK_FILE or any(map(path.match, patterns))


def open_run(
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    marker: str = RECIPE_FILE,
    entries: Collection[str] = RUN_ENTRIES,
) -> None:
    """Make a run folder, or take over one that is there; arguments and errors are those of `check_folder`."""
    check_folder(folder, resume=resume, overwrite=overwrite, marker=marker, entries=entries)
    if overwrite and folder.exists():
        _empty(folder, last=folder / marker)
    folder.mkdir(parents=True, exist_ok=True)


def _empty(folder: Path, last: Path) -> None:
    """Remove all that is in a folder but its lock, what marks it as a run's last, so a kill leaves one to overwrite.

    The folder of checkpoints may be a link, to a larger disk say: it stays one, and what it leads to is emptied. Other
    links are removed, and what they lead to stays.
    """
    checkpoints = folder / CHECKPOINTS
    if checkpoints.is_symlink() and checkpoints.is_dir():
        _empty(checkpoints, last=checkpoints)
    for path in sorted(folder.iterdir(), key=last.is_relative_to):
        if path.name != LOCK_FILE and not (path == checkpoints and path.is_symlink() and path.is_dir()):
            remove(path)


def newest_checkpoint(run: Path) -> str | None:
    """Return the newest checkpoint's folder name, read from `latest`; None if that is missing or damaged."""
    try:
        return read_name(run / CHECKPOINTS / "latest", "step_[0-9]{8}")
    except (OSError, ValueError):
        return None


def write_environment(folder: Path, products: str | None = None) -> None:
    """Write versions, machine and command: enough to repeat a run, no variable of the user's environment.

    Args:
        products: which library computes matrix products, and why that one.
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    content = {
        "command": command_line(),
        "started": utc_now(),
        "python": platform.python_version(),
        "packages": versions,
        "commit": source_commit(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "products": products,
    }
    replace_text(folder / ENVIRONMENT_FILE, json.dumps(content, indent=2) + "\n")


def flatten(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (section.key, value) of every entry of nested objects, such as a recipe's."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_environment(folder: Path) -> dict[str, Any]:
    """Return what `environment.json` holds, each part of the type that `write_environment` gives it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    path = folder / ENVIRONMENT_FILE
    advice = "the next session of this run writes it again"
    return read_record(path, EnvironmentType, advice).model_dump(exclude_unset=True)


def mark_finished(folder: Path) -> None:
    """Note that the run has done all it was to do."""
    try:
        content = read_environment(folder)
    except (OSError, ValueError):  # lost or damaged: no reason to lose what the run has done, too
        content = {}
    replace_text(folder / ENVIRONMENT_FILE, json.dumps({**content, "finished": utc_now()}, indent=2) + "\n")


def is_finished(folder: Path) -> bool:
    """Return whether a run has done all it was to do."""
    try:
        return "finished" in read_environment(folder)
    except (OSError, ValueError):
        return False


def command_line() -> list[str]:
    """Return the command line of this process, the program's name first; `python -m paddlemae` is `paddlemae`."""
    name = Path(sys.argv[0]).name
    return ["paddlemae" if name == "__main__.py" else name, *sys.argv[1:]]


def utc_now() -> str:
    """Return the current time, UTC, in ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def log_result(folder: Path, results: Iterable[dict[str, Any]]) -> None:
    """Append evaluations to `results.jsonl`, each with the command, the time and the commit that made it."""
    made = {"command": command_line(), "at": utc_now(), "commit": source_commit()}
    append_text(folder / RESULTS_FILE, "".join(json.dumps({**result, **made}) + "\n" for result in results))


def is_logged(folder: Path, result: dict[str, Any]) -> bool:
    """Return whether `results.jsonl` holds this evaluation, whenever it was made."""
    return any(result.items() <= line.items() for line in read_results(folder)[0])


def source_commit() -> str | None:
    """Return the commit of PaddleMAE's own checkout, if it runs from one, with "-dirty" if files were changed."""
    source = Path(__file__).parent
    if not any((parent / ".git").exists() for parent in source.parents):
        return None
    try:
        name, changed = (_git(source, *words) for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"]))
    except (OSError, subprocess.TimeoutExpired):
        return None
    return f"{name}-dirty" if name and changed else name or None


def _git(folder: Path, *words: str) -> str:
    """Return git's output; read only, unlike `git describe --dirty`, whose lock remains if it is killed."""
    command = ["git", "--no-optional-locks", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10).stdout.strip()


def log_metrics(folder: Path, step: int, epoch: float, seconds: float, **values: float) -> None:
    """Append one line to `metrics.jsonl`: step, epoch, seconds since the start of training, name -> value."""
    line = {"step": step, "epoch": float(f"{epoch:.7g}"), "seconds": round(seconds, 3), **values}
    path = folder / METRICS_FILE
    try:
        append_text(path, json.dumps(line) + "\n")
    except OSError as fault:
        raise OSError(fault.errno, f"could not log step {step} ({fault.strerror})", str(path)) from fault


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of `metrics.jsonl`; a damaged line, as a crash may leave, is left out."""
    yield from read_metric_lines(folder)[0]


def read_metric_lines(folder: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the whole lines of `metrics.jsonl`, and the numbers of its damaged ones, from 1."""
    return read_lines(folder / METRICS_FILE, _is_metric)


def read_results(folder: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the whole lines of `results.jsonl`, of any task, and the numbers of its damaged ones, from 1."""
    return read_lines(folder / RESULTS_FILE, lambda line: "task" in line)


def _is_metric(line: dict[str, Any]) -> bool:
    """Return whether a line has its step, and numbers that can be drawn (NaN as well) where there are numbers."""
    places = all(is_number(line.get(name, 0)) or line.get(name) is None for name in ("epoch", "seconds"))
    return places and isinstance(line.get("step"), int) and is_number(line["step"]) and line["step"] >= 0


def is_number(value: Any) -> bool:
    """Return whether a value of a JSON file is a number; `true` is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def forget_metrics_after(folder: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will take again."""
    kept = [line for line in read_metrics(folder) if line["step"] <= step]
    replace_text(folder / METRICS_FILE, "".join(json.dumps(line) + "\n" for line in kept))


def log_skipped(folder: Path, step: int, path: str, reason: str) -> None:
    """Append one image that was left out after `step` steps to `skipped.jsonl`."""
    line = json.dumps({"path": path, "reason": reason, "step": step})  # ASCII, whatever bytes the name has
    try:
        append_text(folder / SKIPPED_FILE, line + "\n")
    except OSError as fault:
        text = f"could not record an unreadable image ({fault.strerror}); free some space and rerun with --resume"
        raise OSError(fault.errno, text, str(folder / SKIPPED_FILE)) from fault


def read_skipped(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of `skipped.jsonl`: path, reason, step; a damaged line, as a crash may leave, is left out."""
    texts = ("path", "reason")
    yield from read_lines(folder / SKIPPED_FILE, lambda line: all(isinstance(line.get(key), str) for key in texts))[0]


def write_skipped(folder: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Replace `skipped.jsonl`."""
    replace_text(folder / SKIPPED_FILE, "".join(json.dumps(line) + "\n" for line in lines))


def write_recipe(folder: Path, text: str) -> None:
    """Write the resolved recipe; on a full disk the one before stays."""
    replace_text(folder / RECIPE_FILE, text)
