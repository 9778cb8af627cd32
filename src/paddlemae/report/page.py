"""Write the report as one self-contained HTML page: pictures, styles and scripts are inside.

Class names, file names and numbers come from strangers' folders. The template escapes them all, and the page's own
policy (CSP) runs no script but ours and fetches nothing, whatever should slip through.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from paddlemae.report.exhibit_views import PARTS, shown_exhibits
from paddlemae.report.formatting import duration, finite, interval, number, percent, points, short, text
from paddlemae.report.missing import is_usual
from paddlemae.report.results import gain, kind_of, majorities, majority_title, name_of, spread
from paddlemae.report.sprites import LOST, Pictures, position
from paddlemae.runs.metrics import ALL_METRICS, CLASSIFICATION, TASKS, metrics_named
from paddlemae.runs.runlog import flatten
from paddlemae.system.display_names import display_name, escape_lines

ASSETS = Path(__file__).with_name("assets")
MOST_POINTS = 2000  # of a curve: twice the pixels that a wide screen gives it

STARTS = {"pretrained": "pretrained", "random": "untrained", "scratch": "from scratch"}
# frozen features are compared with untrained ones, trained networks with those from scratch
UNLIKE = {"knn": "scratch", "probe": "scratch", "partial": "random", "finetune": "random", "segment": "random"}
KINDS = {
    "knn": "kNN",
    "probe": "Linear probe",
    "partial": "Partial fine-tuning",
    "finetune": "Fine-tuning",
    "segment": "Segmentation",
    "evaluate": "Evaluated",
}
CURVES = {  # in the page's order; whatever else was logged comes behind
    "loss": "Loss",
    "lr": "Learning rate",
    "images_per_second": "Images per second",
    "memory_gb": "Memory, GB",
    "eval_loss": "Loss on held-out images",
    **{
        key: f"{name[0].upper()}{name[1:]} on held-out images"
        for metrics in ALL_METRICS
        for key, name in metrics.titles.items()
    },
    "waiting": "Share of the time spent waiting for data",
}

Json = dict[str, Any]


def render(report: Mapping[str, Any], folders: Sequence[Path]) -> str:
    """Return the report as one page of HTML.

    Args:
        report: as `collect` makes it.
        folders: of each run in the report, where its pictures are.
    """
    pictures = Pictures()
    labels = _labels(report["runs"])
    runs = [_run(place, *each, pictures) for place, each in enumerate(zip(report["runs"], labels, folders))]
    script = _asset("uPlot.iife.min.js") + "\n" + _asset("page.js")
    return _template().render(
        report=report,
        runs=runs,
        summary=report.get("summary"),
        kinds=[kind for kind in KINDS if any(kind in run["headline"] for run in runs)],
        compared=_curve_facts(runs),
        data=_script_json(_for_script(runs)),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup("\n".join([_asset("uPlot.min.css"), _asset("page.css"), *pictures.rules])),
    )


@functools.cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


@functools.cache
def _template() -> Template:
    settings: Json = dict(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    loader = FileSystemLoader(ASSETS, encoding="utf-8")
    environment = Environment(loader=loader, finalize=_printable, **settings)
    filters = (heading, values, others, spread, gain, kind_of, text, number, percent, interval, points, short, duration)
    environment.filters |= {function.__name__: function for function in (*filters, position)}
    environment.globals |= dict(LOST=LOST, STARTS=STARTS, KINDS=KINDS, UNLIKE=UNLIKE, PARTS=PARTS)
    return environment.get_template("page.html.jinja")


def heading(rows: Sequence[Json]) -> str:
    """Return the names of the primary metrics in rows of results."""
    names = ", ".join(dict.fromkeys(name_of(row["metric"]) for row in rows)) or CLASSIFICATION.name
    return names[0].upper() + names[1:]


def values(content: Json, row: Json) -> list[float | None]:
    """Return the values of a row's primary metric: those of a cell's seeds, or of each run that is compared."""
    metrics = metrics_named(row["metric"])
    found: list[float | None] = content[row["metric"] if row["metric"] in metrics.titles else metrics.primary]
    return found


def others(cell: Json, row: Json) -> str:
    """Return the means of a cell's further metrics, such as "top-5 accuracy 99.0%"."""
    titles = {key: name for key, name in metrics_named(row["metric"]).titles.items() if key != row["metric"]}
    return ", ".join(f"{name} {percent(fmean(cell[key]))}" for key, name in titles.items() if cell.get(key))


def _printable(value: Any) -> Any:
    """Replace characters in a template's expression that a name may hold and a page may not."""
    return escape_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _script_json(content: Any) -> Markup:
    """Return JSON that is safe inside a <script> element."""
    line = json.dumps(content, allow_nan=False, separators=(",", ":"))  # all but ASCII is escaped, so U+2028 too
    for sign in "<>&":
        line = line.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(line)


def _labels(runs: Sequence[Json]) -> list[str]:
    """Return labels that distinguish the runs: their names, or their folders where two names are equal."""
    are_distinct = len({run["name"] for run in runs}) == len(runs)
    return [display_name(run["name" if are_distinct else "folder"]) for run in runs]


def _run(place: int, run: Json, label: str, folder: Path, pictures: Pictures) -> Json:
    problems = list(run["problems"])
    missing = {one["part"]: one for one in run["missing"]}
    exhibits = shown_exhibits(run, Path(folder), pictures, problems)
    return {
        **run,
        "id": f"run-{place}",
        "label": label,
        "missing_parts": {
            part: missing.get(part, _unknown(part))
            for part in PARTS
            if part not in exhibits and (part in missing or is_usual(run["task"], part))
        },
        "missing_results": [one for part, one in missing.items() if part not in PARTS],
        "headline": _headline(run),
        "majorities": [{**one, "title": majority_title(one)} for one in majorities(run["results"])],
        "facts": _facts(run),
        "recipe": _grouped(run["setup"]["recipe"]),
        "environment": dict(flatten(run["setup"]["environment"])),
        "curves": _curves(run["curves"], problems),
        "exhibits": exhibits,
        "problems": problems,
    }


def _unknown(part: str) -> Json:
    return {"part": part, "title": PARTS[part], "reason": "there is nothing to show", "command": None}


def _for_script(runs: Sequence[Json]) -> Json:
    """Return the data that the page's script draws."""
    of_map = ("classes", "points", "sheet")
    return {
        "titles": CURVES,
        "runs": [
            {
                "id": run["id"],
                "label": run["label"],
                "curves": run["curves"],
                "confusion": run["exhibits"].get("confusion", {}).get("drawn"),
                "map": {key: run["exhibits"]["map"][key] for key in of_map} if "map" in run["exhibits"] else None,
            }
            for run in runs
        ],
    }


def _facts(run: Json) -> dict[str, str]:
    """Return what was run as (name, value) pairs for readers."""
    setup, totals = run["setup"], run["totals"]
    environment, data, model = setup["environment"], setup["data"], setup["model"]
    counts = [f"{number(data[what])} {what}" for what in ("images", "classes") if data.get(what) is not None]
    size = f"{number(model['parameters'])} parameters" if model.get("parameters") else None
    architecture = model.get("architecture", {})
    shape = "{depth} blocks x {embed_dim}".format(**architecture) if {"depth", "embed_dim"} <= {*architecture} else None
    length = [f"{number(totals[what])} {what}" for what in ("steps", "epochs") if totals.get(what) is not None]
    time = duration(totals["seconds"]) if totals.get("seconds") is not None else None
    cores = environment.get("cpus") and f"{number(environment['cpus'])} cores"
    packages = environment.get("packages")
    software = [f"Python {environment['python']}"] if environment.get("python") else []
    software += [f"{name} {version}" for name, version in packages.items()] if isinstance(packages, dict) else []
    command = environment.get("command")
    return {
        "Task": TASKS.get(run["task"], str(run["task"])),
        "Data": _listed(data.get("name"), *counts),
        "Model": _listed(model.get("kind"), shape, size),
        "Trained for": _listed(*length, time),
        "Started": _listed(environment.get("started")),
        "Folder": str(run["folder"]),
        "Commit": _listed(environment.get("commit")),
        "Machine": _listed(environment.get("processor"), cores, environment.get("system")),
        "Software": _listed(*software),
        "Command": shlex.join(map(str, command)) if isinstance(command, list) else _listed(command),
    }


def _listed(*words: Any) -> str:
    return ", ".join(str(word) for word in words if word) or "unknown"


def _grouped(recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Group settings by the section of the recipe that they are in."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in recipe.items():
        section, _, name = key.rpartition(".")
        groups.setdefault(section, {})[name] = value
    return groups


def _headline(run: Json) -> dict[str, Json | None]:
    """Return kind of result -> its best row with the start to show of it; None where nothing was measured yet."""
    headline: dict[str, Json | None] = {}
    awaited = {one["part"].split(".")[1] for one in run["missing"] if one["part"].startswith("results.")}
    for name in KINDS:
        rows = [row for row in run["results"] if kind_of(row) == name and row["starts"]]
        # a pretraining is judged by what was done with it; without any such row, by what there is
        rows = [row for row in rows if "pretrained" in row["starts"]] or rows
        if rows:
            best = max(rows, key=lambda row: next(iter(row["starts"].values()))["mean"])
            headline[name] = {**best, "start": next(iter(best["starts"])), "rows": len(rows)}
        elif name in awaited and name != "partial":
            headline[name] = None
    return headline


def _curves(curves: Mapping[str, Json], problems: list[str]) -> dict[str, Json]:
    found = {}
    for name in sorted(curves, key=_place_of_curve):
        curve, lost = _curve(curves[name])
        if lost:
            problems.append(f"{name}: {lost} values are no finite numbers and are not drawn")
        if curve["value"]:
            found[display_name(name)] = curve
    return found


def _place_of_curve(name: str) -> int:
    return list(CURVES).index(name) if name in CURVES else len(CURVES)


def _curve(curve: Mapping[str, Sequence[Any]]) -> tuple[Json, int]:
    """Return (a curve of few enough points to draw, the number of values that are not finite)."""
    kept = [place for place, value in enumerate(curve["value"]) if finite(value) is not None]
    chosen = [kept[place] for place in pick_places([curve["value"][place] for place in kept], MOST_POINTS)]
    light = {key: [_rounded(curve[key][place]) for place in chosen] for key in ("step", "epoch", "seconds", "value")}
    return light, len(curve["value"]) - len(kept)


def _rounded(value: Any) -> int | float | None:
    value = finite(value)
    return float(f"{value:.7g}") if isinstance(value, float) else value


def pick_places(values: Sequence[float], most: int) -> Sequence[int]:
    """Return the places of at most `most` values, ascending: both ends, and the lowest and highest of equal spans."""
    if len(values) <= most:
        return range(len(values))
    array = np.asarray(values, float)
    edges = np.linspace(0, len(values), most // 2).astype(int)
    chosen = {0, len(values) - 1}
    for start, end in itertools.pairwise(edges):
        chosen |= {int(start + array[start:end].argmin()), int(start + array[start:end].argmax())}
    return sorted(chosen)


def _curve_facts(runs: Sequence[Json]) -> dict[str, Json]:
    """Return name -> title and a text per run with the curve's ends and extremes, for readers without the drawing."""
    names = dict.fromkeys(name for run in runs for name in run["curves"])
    return {
        name: {"title": CURVES.get(name, name), "words": [_extremes(run["curves"].get(name)) for run in runs]}
        for name in sorted(names, key=_place_of_curve)
    }


def _extremes(curve: Json | None) -> str:
    if curve is None:
        return "not logged"
    values = curve["value"]
    if len(values) == 1:
        return f"{short(values[0])}, logged once"
    return (
        f"first {short(values[0])}, last {short(values[-1])}, lowest {short(min(values))}, highest {short(max(values))}"
    )
