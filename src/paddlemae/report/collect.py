"""A report's figures, read from run folders alone: what `report.json` holds and the page shows.

What a folder lacks, or holds damaged, is named in the report and never left out in silence.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from types import NoneType
from typing import Any

from pydantic import BaseModel, ConfigDict

from paddlemae.model.shape import EncoderShape, names_of
from paddlemae.runs.confusion import read_confusion
from paddlemae.runs.exhibit_files import PARTS, read_exhibit
from paddlemae.runs.runlog import (
    CHECKPOINTS,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    RESULTS_FILE,
    SKIPPED_FILE,
    command_line,
    flat,
    is_number,
    newest_checkpoint,
    now,
    read_environment,
    read_metric_lines,
    read_results,
    read_skipped,
)
from paddlemae.system.display_names import shown, shown_lines
from paddlemae.system.documents import read_record, read_yaml

FORMAT = 2  # 1 had confusions as matrices
STARTS = ("pretrained", "random", "scratch")
ORDER = ("knn", "probe", "partial", "finetune", "evaluate")  # of results
PLACE = ("step", "epoch", "seconds")  # what a line of metrics is about, not a metric
TASKS = ("finetune", "pretrain", "probe")
# the settings of a pretraining's model that a classifier has too
ENCODER = ("size", *(name for name in names_of(EncoderShape) if name != "drop_path"))
# of a protocol, what the title says or what is averaged over
SAID = ("seed", "k", "votes", "labels", "trainable_blocks", "cached", "token", "layer", "norm")

MODEL_FILE = "model.json"
MAX_MODEL_BYTES = 2**24

Json = dict[str, Any]


class ProvenanceType(BaseModel):
    """What the report says of how a model was made."""

    model_config = ConfigDict(strict=True, extra="allow")
    data: str | None = None
    images: int | None = None
    parameters: int | None = None


class ModelType(BaseModel):
    """What the report says of a model."""

    model_config = ConfigDict(strict=True, extra="ignore")
    kind: str | None = None
    architecture: dict[str, Any] = {}
    classes: list[str] = []
    provenance: ProvenanceType = ProvenanceType()


def collect(runs: Sequence[Path]) -> Json:
    """The figures of one run, or of several beside each other.

    Raises:
        ValueError, FileNotFoundError: no run, or a folder that holds none.
    """
    if not runs:
        raise ValueError("name at least one run folder to report on")
    import paddlemae

    found = [_run(Path(run)) for run in runs]
    return {
        "format": FORMAT,
        "made": now(),
        "version": paddlemae.__version__,
        "command": command_line(),
        "runs": found,
        "comparison": _comparison(found) if len(found) > 1 else None,
        "markdown": markdown(found),
    }


def _run(run: Path) -> Json:
    recipe = _recipe(run)
    problems: list[str] = []
    lines = _whole(METRICS_FILE, read_metric_lines(run), problems)
    results = _whole(RESULTS_FILE, read_results(run), problems)
    if skipped := len(list(read_skipped(run))):
        problems.append(f"{skipped} images could not be read and were left out; {SKIPPED_FILE} lists them")
    last = lines[-1] if lines else {}
    rows = list(_rows(results, recipe["task"], problems))
    exhibits = {part: _exhibit(run, part, results, problems) for part in PARTS}
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
        "missing": list(_missing(run, recipe, rows, exhibits)),
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
        raise ValueError(f"{path} is damaged ({shown(fault, 300)}); restore it to report on this run") from fault
    if not isinstance(content, dict) or content.get("task") not in TASKS:
        raise ValueError(f"{path} is no recipe of PaddleMAE; its task must be one of {', '.join(TASKS)}")
    return content


def _whole(name: str, found: tuple[list[Json], list[int]], problems: list[str]) -> list[Json]:
    """The whole lines of a file; the damaged ones are a problem."""
    lines, damaged = found
    if damaged:
        numbers = ", ".join(map(str, damaged[:5])) + (" ..." if len(damaged) > 5 else "")
        problems.append(f"{name}: line {numbers} is damaged and was left out")
    return lines


def _setup(run: Path, recipe: Json, problems: list[str]) -> Json:
    environment = _found(ENVIRONMENT_FILE, lambda: read_environment(run), problems)
    model = _model(run, problems)
    provenance, classes = model.get("provenance", {}), model.get("classes", [])
    return {
        "recipe": dict(flat(recipe)),
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
    """The description of the newest checkpoint's model."""
    newest = newest_checkpoint(run)
    if newest is None:
        problems.append("there is no checkpoint yet")
        return {}
    path = run / CHECKPOINTS / newest / MODEL_FILE
    return _found(MODEL_FILE, lambda: read_record(path, ModelType, "", MAX_MODEL_BYTES).model_dump(), problems)


def _found(name: str, read: Callable[[], Json], problems: list[str]) -> Json:
    """What a file holds; nothing of a damaged one, which is a problem."""
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


def _rows(results: Iterable[Json], task: str, problems: list[str]) -> Iterator[Json]:
    """Results as rows of a table: what was done in the same way from other starts and seeds is beside each other."""
    rows: dict[tuple[Any, ...], Json] = {}
    cells: dict[tuple[Any, ...], dict[Any, Json]] = {}
    for result in results:
        if not _makes_sense(result):
            problems.append(f"{RESULTS_FILE}: a result of {result['task']} is damaged and was left out")
            continue
        key, start = _identity(result), result.get("start", "pretrained")
        row = {"task": result["task"], "title": key[1], "detail": key[2], "checkpoint": key[3], "starts": {}}
        rows.setdefault(key, row)
        cells.setdefault((key, start), {})[result["protocol"].get("seed")] = result  # done again, the newest counts
    for (key, start), by_seed in cells.items():
        rows[key]["starts"][start] = _cell(list(by_seed.values()))
    for key in sorted(rows, key=lambda key: (key[0], _numbers(key[1]), *key[1:])):
        starts = rows[key]["starts"]
        yield {**rows[key], "starts": {name: starts[name] for name in STARTS if name in starts}}


def _makes_sense(result: Json) -> bool:
    """Whether a result has its number, protocol and start, and the rest of it is of the types that are written."""
    command = result.get("command", [])
    return (
        is_number(result.get("top1"))
        and isinstance(result["task"], str)
        and result.get("start", STARTS[0]) in STARTS
        and isinstance(result.get("protocol"), dict)
        and isinstance(result["protocol"].get("seed"), (int, NoneType))
        and all(isinstance(result.get(name), (int, NoneType)) for name in ("train_images", "eval_images"))
        and isinstance(command, list)
        and all(isinstance(word, str) for word in command)
    )


def _identity(result: Json) -> tuple[int, str, str, str]:
    """(place among the kinds of results, what was done, what else it depends on, the pretrained checkpoint)."""
    protocol, kind = result["protocol"], result["task"]
    blocks, labels = protocol.get("trainable_blocks"), protocol.get("labels")
    if kind == "finetune" and blocks is not None:
        kind = "partial"
    titles = {
        "knn": f"kNN, k = {protocol.get('k')}, {protocol.get('votes')} votes",
        "probe": f"linear probe{', cached features' if protocol.get('cached') else ''}",
        "partial": f"last {blocks:g} block{'' if blocks == 1 else 's'} fine-tuned"
        if isinstance(blocks, (int, float))
        else "",
        "finetune": "fine-tuned",
        "evaluate": "evaluated",
    }
    title = titles.get(kind, str(kind)) + (f", {labels} labels" if labels else "")
    parts = [_features(protocol)] if "token" in protocol else []
    for verb, side in (("searched" if kind == "knn" else "trained on", "train"), ("measured on", "eval")):
        if result.get(f"{side}_images") is not None:
            name = f": {result[side]}" if result.get(side) else ""
            parts.append(f"{verb} {result[f'{side}_images']:,} images{name}")
    parts += [f"{name} {_plain(value)}" for name, value in protocol.items() if name not in SAID and value is not None]
    place = ORDER.index(kind) if kind in ORDER else len(ORDER)
    return place, title, "; ".join(parts), str(result.get("checkpoint") or "")


def _features(protocol: Json) -> str:
    token = "cls token" if protocol["token"] == "cls" else "mean of the patch tokens"
    layer = "the last block" if protocol.get("layer") is None else f"block {protocol['layer']}"
    return f"{token} after {layer}, norm: {protocol.get('norm')}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _numbers(title: str) -> tuple[float, ...]:
    """The numbers in a title, so that k = 100 comes behind k = 20."""
    return tuple(float(word) for word in title.replace(",", "").split() if word.replace(".", "").isdigit())


def _cell(results: Sequence[Json]) -> Json:
    top1 = [result["top1"] for result in results]
    last = results[-1]
    return {
        "top1": top1,
        "top5": [result["top5"] for result in results if "top5" in result],
        "mean": mean(top1),
        "std": stdev(top1) if len(top1) > 1 else None,
        "command": shlex.join(last.get("command", [])),
        "at": last.get("at"),
        "commit": last.get("commit"),
    }


def _exhibit(run: Path, part: str, results: Sequence[Json], problems: list[str]) -> Json | None:
    """The run's own exhibit; mistakes also from the newest classifier that was trained from it."""
    folders = [run]
    if part in ("confusion", "mistakes"):
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
            return _moved(content, os.path.relpath(folder, run))
    return None


def _by_pairs(content: Json) -> Json:
    """The same of an older run, whose counts are a matrix, so that no figures grow with the square of the classes."""
    try:
        return {name: content[name] for name in content if name != "counts"} | read_confusion(content).as_json()
    except (ValueError, TypeError, KeyError, OverflowError):
        return content  # the page says that it is damaged


def _moved(content: Json, folder: str) -> Json:
    """The same with the files of pictures named from another folder on."""
    if folder == ".":
        return content

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: f"{folder}/{one}" if key == "file" else moved(one) for key, one in value.items()}
        return [moved(one) for one in value] if isinstance(value, list) else value

    return moved(content)


def _missing(run: Path, recipe: Json, rows: Sequence[Json], exhibits: Json) -> Iterator[Json]:
    """Everything that a run could show and does not, with the command that would make it."""
    folder, data = shlex.quote(str(run)), shlex.quote(str(recipe.get("data") or "FOLDER"))
    knn = f"paddlemae knn {folder} --data {data}"
    pretrained = recipe["task"] == "pretrain"
    if recipe["task"] != "probe":
        ways = {"knn": ("kNN", {"pretrained": knn})}
        if pretrained:
            ways = _evaluations(folder, data, _model_settings(recipe))
        for kind, (title, commands) in ways.items():
            done = {start for row in rows if kind_of(row) == kind for start in row["starts"]}
            for start, command in commands.items():
                if start not in done:
                    words = "" if start == "pretrained" else f", {OTHER_STARTS[start]}"
                    yield _part(f"results.{kind}.{start}", title + words, "not run", command)
    of_knn = {"confusion": knn, "mistakes": knn, "neighbours": knn, "map": knn}
    for part, title in PARTS.items():
        if exhibits[part] is not None:
            continue
        if recipe["task"] == "probe" and part not in ("confusion", "mistakes"):
            yield _part(part, title, f"not part of a probe; see the report of {recipe.get('init')}", None)
        elif part == "reconstructions" and not pretrained:
            yield _part(part, title, "not part of fine-tuning: a classifier has no decoder", None)
        else:
            yield _part(part, title, "not run", of_knn.get(part) if recipe["task"] != "probe" else None)


OTHER_STARTS = {"random": "of the untrained encoder", "scratch": "from scratch"}


def _model_settings(recipe: Json) -> str:
    """What a training from scratch has to be told to have the pretrained encoder's model."""
    model = recipe.get("model")
    given = {name: model.get(name) for name in ENCODER} if isinstance(model, dict) else {}
    return " ".join(shlex.quote(f"model.{name}={json.dumps(v)}") for name, v in given.items() if v is not None)


def _evaluations(folder: str, data: str, model: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Every way to say how good a pretraining is: kind -> (title, start -> command)."""
    knn = f"paddlemae knn {folder} --data {data}"
    probe = f"paddlemae probe --init {folder} --data {data} --out PROBE cached=true"
    study = f"paddlemae study --init {folder} --data {data} --out STUDY"
    return {
        "knn": ("kNN", {"pretrained": knn, "random": f"{knn} --random"}),
        "probe": ("linear probe", {"pretrained": probe, "random": f"{probe} random=true"}),
        "partial": (
            "partial fine-tuning",
            {"pretrained": f"{study} --vary trainable_blocks --value 0 --value 0.5 --value 1"},
        ),
        "finetune": (
            "fine-tuning",
            {
                "pretrained": f"paddlemae finetune --init {folder} --data {data} --out TUNED",
                "scratch": f"{study} --vary labels --value 1000 --scratch {model}".rstrip(),
            },
        ),
    }


def kind_of(row: Json) -> str:
    """Which of `ORDER` a row of results is of."""
    return "partial" if row["title"].startswith("last ") else row["task"]


def _part(part: str, title: str, reason: str, command: str | None) -> Json:
    return {"part": part, "title": title, "reason": reason, "command": command}


def _comparison(runs: Sequence[Json]) -> Json:
    return {
        "recipes": list(_different([run["setup"]["recipe"] for run in runs])),
        "environments": list(_different([dict(flat(run["setup"]["environment"])) for run in runs])),
        "results": list(_compared(runs)),
    }


def _different(settings: Sequence[Json]) -> Iterator[Json]:
    for key in dict.fromkeys(key for one in settings for key in one):
        values = [one.get(key) for one in settings]
        if any(value != values[0] for value in values):
            yield {"key": key, "values": values}


def _compared(runs: Sequence[Json]) -> Iterator[Json]:
    """Results of the same kind beside each other, of each run's newest checkpoint that has them."""
    found: dict[tuple[str, str, str], list[float | None]] = {}
    for place, run in enumerate(runs):
        for row in run["results"]:
            for start, cell in row["starts"].items():
                key = row["title"], row["detail"], start
                found.setdefault(key, [None] * len(runs))[place] = cell["mean"]
    for (title, detail, start), top1 in found.items():
        first, last = top1[0], top1[-1]
        difference = last - first if first is not None and last is not None else None
        yield {"title": title, "detail": detail, "start": start, "top1": top1, "difference": difference}


def markdown(runs: Sequence[Json]) -> str:
    """The results of every run as a table to paste; several runs stand below each other."""
    parts = []
    for run in runs:
        lines = [f"### {shown(run['name'])}", ""] if len(runs) > 1 else []
        lines += ["| top-1 | pretrained | untrained | from scratch | points gained |", "|---|---:|---:|---:|---:|"]
        lines += [markdown_row(row) for row in run["results"]]
        if not run["results"]:
            lines.append("| not measured yet | | | | |")
        parts.append("\n".join(lines) + "\n")
    return shown_lines("\n".join(parts))


def markdown_row(row: Json, *more: str) -> str:
    """What was done, top-1 from every start, points gained, and whatever else stands behind."""
    cells = [spread(row["starts"][start]) if start in row["starts"] else "" for start in STARTS]
    gained = gain(row)
    title = shown(row["title"], None).replace("|", "\\|")
    return f"| {' | '.join([title, *cells, '' if gained is None else f'{100 * gained:+.1f}', *more])} |"


def spread(cell: Json) -> str:
    """Mean and standard deviation over seeds, in percent."""
    return f"{cell['mean']:.1%}" + (f" ± {cell['std']:.1%}" if cell["std"] is not None else "")


def gain(row: Json) -> float | None:
    """What pretraining is worth: top-1 above that from scratch, or else of the untrained encoder."""
    starts = row["starts"]
    base = starts.get("scratch") or starts.get("random")
    return starts["pretrained"]["mean"] - base["mean"] if base and "pretrained" in starts else None
