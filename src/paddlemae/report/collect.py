"""Collect a report's figures from run folders: the content of `report.json` and of the page.

What a folder lacks, or holds damaged, is named in the report and never left out in silence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from paddlemae.report.missing import missing_of
from paddlemae.report.results import compared_rows, markdown, rows_of
from paddlemae.runs.confusion import read_confusion
from paddlemae.runs.exhibit_files import EXHIBIT_TITLES, read_exhibit
from paddlemae.runs.metrics import TASKS
from paddlemae.runs.runlog import (
    CHECKPOINTS,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    RESULTS_FILE,
    SKIPPED_FILE,
    command_line,
    flatten,
    is_number,
    newest_checkpoint,
    read_environment,
    read_metric_lines,
    read_results,
    read_skipped,
    utc_now,
)
from paddlemae.system.display_names import display_name
from paddlemae.system.documents import read_record, read_yaml

FORMAT = 2  # 1 had confusions as matrices
PLACE = ("step", "epoch", "seconds")  # what a line of metrics is about, not a metric
MODEL_FILE = "model.json"
MAX_MODEL_BYTES = 2**24

Json = dict[str, Any]


class ProvenanceType(BaseModel):
    """The provenance in `model.json` that the report shows."""

    model_config = ConfigDict(strict=True, extra="allow")
    data: str | None = None
    images: int | None = None
    parameters: int | None = None


class ModelType(BaseModel):
    """The fields of `model.json` that the report shows."""

    model_config = ConfigDict(strict=True, extra="ignore")
    kind: str | None = None
    architecture: dict[str, Any] = {}
    classes: list[str] = []
    provenance: ProvenanceType = ProvenanceType()


def collect(runs: Sequence[Path]) -> Json:
    """Return the figures of one run, or of several with a comparison.

    Raises:
        ValueError, FileNotFoundError: no run, or a folder that holds none.
    """
    if not runs:
        raise ValueError("name at least one run folder to report on")
    found = [_run(Path(run)) for run in runs]
    return {
        "format": FORMAT,
        "made": utc_now(),
        "version": metadata.version("paddlemae"),
        "command": command_line(),
        "runs": found,
        "comparison": _comparison(found) if len(found) > 1 else None,
        "markdown": markdown(found),
        "summary": None,
    }


def _run(run: Path) -> Json:
    recipe = _recipe(run)
    problems: list[str] = []
    lines = _whole_lines(METRICS_FILE, read_metric_lines(run), problems)
    results = _whole_lines(RESULTS_FILE, read_results(run), problems)
    if skipped := len(list(read_skipped(run))):
        problems.append(f"{skipped} images could not be read and were left out; {SKIPPED_FILE} lists them")
    last = lines[-1] if lines else {}
    rows = list(rows_of(results, recipe["task"], problems))
    exhibits = {part: _exhibit(run, part, results, problems) for part in EXHIBIT_TITLES}
    return {
        "name": run.resolve().name,
        "folder": str(run),
        "task": recipe["task"],
        "problems": problems,
        "setup": _setup(run, recipe, problems),
        "totals": {"steps": last.get("step"), "epochs": last.get("epoch"), "seconds": last.get("seconds")},
        "curves": _curves(lines),
        "results": rows,
        "exhibits": exhibits,
        "missing": list(missing_of(run, recipe, rows, exhibits)),
    }


def _recipe(run: Path) -> Json:
    path = run / RECIPE_FILE
    if run.exists() and not run.is_dir():
        raise ValueError(f"{run} is a file; expected a run folder, as --out named it")
    if not run.is_dir():
        raise FileNotFoundError(f"{run} does not exist; expected a run folder, as --out named it")
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} holds no run (no {RECIPE_FILE}); name folders that pretrain, finetune or probe wrote"
        )
    try:
        content = read_yaml(path)
    except ValueError as fault:
        raise ValueError(f"{path} is damaged ({display_name(fault, 300)}); restore it to report on this run") from fault
    if not isinstance(content, dict) or content.get("task") not in tuple(TASKS):  # it may be a list
        raise ValueError(f"{path} is no recipe of PaddleMAE; its task must be one of {', '.join(sorted(TASKS))}")
    return content


def _whole_lines(name: str, found: tuple[list[Json], list[int]], problems: list[str]) -> list[Json]:
    """Return the whole lines of a file; damaged ones become a problem."""
    lines, damaged = found
    if damaged:
        numbers = ", ".join(map(str, damaged[:5])) + (" ..." if len(damaged) > 5 else "")
        problems.append(f"{name}: line {numbers} is damaged and was left out")
    return lines


def _setup(run: Path, recipe: Json, problems: list[str]) -> Json:
    environment = _read_or_note(ENVIRONMENT_FILE, lambda: read_environment(run), problems)
    model = _model(run, problems)
    provenance, classes = model.get("provenance", {}), model.get("classes", [])
    return {
        "recipe": dict(flatten(recipe)),
        "environment": environment,
        "data": {
            "name": provenance.get("data") or recipe.get("data"),
            "images": provenance.get("images"),
            "classes": len(classes) or None,
        },
        "model": {
            "kind": model.get("kind"),
            "parameters": provenance.get("parameters"),
            "architecture": model.get("architecture", {}),
        }
        if model
        else {},
    }


def _model(run: Path, problems: list[str]) -> Json:
    """Return the description of the newest checkpoint's model."""
    newest = newest_checkpoint(run)
    if newest is None:
        problems.append("there is no checkpoint yet")
        return {}
    path = run / CHECKPOINTS / newest / MODEL_FILE
    return _read_or_note(MODEL_FILE, lambda: read_record(path, ModelType, "", MAX_MODEL_BYTES).model_dump(), problems)


def _read_or_note(name: str, read: Callable[[], Json], problems: list[str]) -> Json:
    """Return what a file holds; nothing of a damaged or missing one, which becomes a problem."""
    try:
        return read()
    except FileNotFoundError:
        problems.append(f"{name} is missing")
    except (OSError, ValueError):
        problems.append(f"{name} is damaged and was left out")
    return {}


def _curves(lines: Iterable[Json]) -> Json:
    curves: Json = {}
    for line in lines:
        for name, value in line.items():
            if name in PLACE or not is_number(value):
                continue
            curve = curves.setdefault(name, {key: [] for key in (*PLACE, "value")})
            for key in PLACE:
                curve[key].append(line.get(key))
            curve["value"].append(value)
    if not any(curves.get("skipped", {}).get("value", [])):  # a line along zero says nothing
        curves.pop("skipped", None)
    return curves


def _exhibit(run: Path, part: str, results: Sequence[Json], problems: list[str]) -> Json | None:
    """Return the run's own exhibit; or of classes and mistakes the newest one of a model that was trained from it."""
    folders = [run]
    if part in ("confusion", "mistakes", "classes", "scenes", "worst_scenes"):
        folders += [run / result["run"] for result in reversed(results) if isinstance(result.get("run"), str)]
    for folder in folders:
        try:
            content = read_exhibit(folder, part)
        except ValueError as fault:
            problems.append(str(fault))
            continue
        if content:
            if part == "confusion":
                content = _by_pairs(content)
            place = os.path.relpath(folder, run)
            return content if place == "." else _with_folder(content, place)
    return None


def _by_pairs(content: Json) -> Json:
    """Replace the matrix of counts of an older run by pairs, so that no figures grow with the square of the classes."""
    try:
        return {name: content[name] for name in content if name != "counts"} | read_confusion(content).as_json()
    except (ValueError, TypeError, KeyError, OverflowError):
        return content  # the page says that it is damaged


def _with_folder(content: Any, folder: str) -> Any:
    """Add a folder to the names of the files of pictures, wherever they are in an exhibit."""
    if isinstance(content, dict):
        return {key: f"{folder}/{one}" if key == "file" else _with_folder(one, folder) for key, one in content.items()}
    return [_with_folder(one, folder) for one in content] if isinstance(content, list) else content


def _comparison(runs: Sequence[Json]) -> Json:
    return {
        "recipes": list(_different([run["setup"]["recipe"] for run in runs])),
        "environments": list(_different([dict(flatten(run["setup"]["environment"])) for run in runs])),
        "results": list(compared_rows(runs)),
    }


def _different(settings: Sequence[Json]) -> Iterator[Json]:
    for key in dict.fromkeys(key for one in settings for key in one):
        values = [one.get(key) for one in settings]
        if any(value != values[0] for value in values):
            yield {"key": key, "values": values}
