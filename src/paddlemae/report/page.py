"""The report as one HTML page that needs nothing beside it: pictures, styles and scripts are inside.

Class names, file names and numbers come from strangers' folders. The template escapes them all, and the page's own
policy (CSP) runs no script but ours and fetches nothing, whatever should slip through.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import itertools
import json
import math
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from paddlemae.report import exhibits
from paddlemae.report.collect import gain, kind_of, spread
from paddlemae.report.runlog import flat

ASSETS = Path(__file__).with_name("assets")
MOST_POINTS = 2000  # of a curve: twice the pixels that a wide screen gives it
NUMBERED_CLASSES = 20  # up to here a confusion matrix is a table of numbers, above it is a picture
CONFUSED_PAIRS = 12
SEEN, LOOKED_AT = 64, 96  # a picture's side in pixels of the screen: at least, and about where details matter
FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}

TASKS = {"pretrain": "pretraining", "finetune": "fine-tuning", "probe": "linear probing"}
STARTS = {"pretrained": "pretrained", "random": "untrained", "scratch": "from scratch"}
# frozen features are compared with untrained ones, trained networks with those from scratch
UNLIKE = {"knn": "scratch", "probe": "scratch", "partial": "random", "finetune": "random"}
KINDS = {
    "knn": "kNN",
    "probe": "Linear probe",
    "partial": "Partial fine-tuning",
    "finetune": "Fine-tuning",
    "evaluate": "Evaluated",
}
CURVES = {  # in the page's order; whatever else was logged comes behind
    "loss": "Loss",
    "lr": "Learning rate",
    "images_per_second": "Images per second",
    "memory_gb": "Memory, GB",
    "eval_loss": "Loss on held-out images",
    "top1": "Top-1 on held-out images",
    "top5": "Top-5 on held-out images",
    "waiting": "Share of the time spent waiting for data",
}
PARTS = {part: title[0].upper() + title[1:] for part, title in exhibits.PARTS.items()}

Json = dict[str, Any]


def render(report: Mapping[str, Any], folders: Sequence[Path]) -> str:
    """One page of HTML.

    Args:
        report: as `collect` makes it.
        folders: of each run in the report, where its pictures are.
    """
    pictures = Pictures()
    labels = _labels(report["runs"])
    runs = [_run(place, *each, pictures) for place, each in enumerate(zip(report["runs"], labels, folders))]
    script = _asset("uPlot.iife.min.js") + "\n" + _asset("page.js")
    page = _template().render(
        report=report,
        runs=runs,
        kinds=[kind for kind in KINDS if any(kind in run["headline"] for run in runs)],
        compared=_curve_facts(runs),
        data=_script_json(_for_script(runs)),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup("\n".join([_asset("uPlot.min.css"), _asset("page.css"), *pictures.rules])),
    )
    return page.encode("utf-8", "replace").decode()  # half a surrogate, which JSON can hold, can't be written


@functools.cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


@functools.cache
def _template() -> Template:
    settings: Json = dict(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment = Environment(loader=FileSystemLoader(ASSETS, encoding="utf-8"), **settings)
    shown = (spread, gain, kind_of, text, number, percent, points, short, duration, position)
    environment.filters |= {function.__name__: function for function in shown}
    environment.globals |= {
        "LOST": LOST,
        "STARTS": STARTS,
        "KINDS": KINDS,
        "UNLIKE": UNLIKE,
        "PARTS": PARTS,
        "TASKS": TASKS,
    }
    return environment.get_template("page.html.jinja")


def _script_json(content: Any) -> Markup:
    """JSON that neither ends the <script> it stands in nor means anything to a reader of HTML."""
    line = json.dumps(content, allow_nan=False, separators=(",", ":"))  # all but ASCII is escaped, so U+2028 too
    for sign in "<>&":
        line = line.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(line)


def _labels(runs: Sequence[Json]) -> list[str]:
    """What tells the runs apart: their names, or where two are the same their folders."""
    names = [run["name"] for run in runs]
    return names if len(set(names)) == len(names) else [run["folder"] for run in runs]


def _run(place: int, run: Json, label: str, folder: Path, pictures: Pictures) -> Json:
    problems = list(run["problems"])
    missing = {one["part"]: one for one in run["missing"]}
    exhibits = _exhibits(run, Path(folder), pictures, problems)
    return {
        **run,
        "id": f"run-{place}",
        "label": label,
        "missing_parts": {part: missing.get(part, _unknown(part)) for part in PARTS if part not in exhibits},
        "missing_results": [one for part, one in missing.items() if part not in PARTS],
        "headline": _headline(run),
        "facts": _facts(run),
        "recipe": _grouped(run["setup"]["recipe"]),
        "environment": dict(flat(run["setup"]["environment"])),
        "curves": _curves(run["curves"], problems),
        "exhibits": exhibits,
        "problems": problems,
    }


def _unknown(part: str) -> Json:
    return {"part": part, "title": PARTS[part], "reason": "there is nothing to show", "command": None}


def _for_script(runs: Sequence[Json]) -> Json:
    """What the page's script draws itself."""
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


# ------------------------------------------------------------------------------------------------- words and numbers


def text(value: Any) -> str:
    """A setting as a reader writes it."""
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value)


def number(value: Any) -> str:
    """With thousands apart: 50,000 or 1.02."""
    if _finite(value) is None:
        return "unknown" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def percent(share: Any) -> str:
    """0.815 as 81.5%."""
    return "unknown" if _finite(share) is None else f"{share:.1%}"


def points(difference: float | None) -> str:
    """A difference of two shares in points, with its sign."""
    return "" if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def short(value: Any) -> str:
    """Four significant digits: 0.6006 or 1.2e-7."""
    return "unknown" if _finite(value) is None else f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e")


def duration(seconds: Any) -> str:
    """Seconds as a reader says them: 41 s, 2 min 21 s, 3 h 12 min."""
    if _finite(seconds) is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _finite(value: Any) -> int | float | None:
    """The value if it is a number that can be drawn."""
    try:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int beyond any float
        return None
    return value if number else None


# ----------------------------------------------------------------------------------------------------- what was run


def _facts(run: Json) -> dict[str, str]:
    """What was run, in a reader's words."""
    setup, totals = run["setup"], run["totals"]
    environment, data, model = setup["environment"], setup["data"], setup["model"]
    counts = [f"{number(data[what])} {what}" for what in ("images", "classes") if data.get(what) is not None]
    size = f"{number(model['parameters'])} parameters" if model.get("parameters") else None
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
        "Model": _listed(model.get("kind"), setup["recipe"].get("model.size"), size),
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
    """Settings by the section of the recipe that they are in."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in recipe.items():
        section, _, name = key.rpartition(".")
        groups.setdefault(section, {})[name] = value
    return groups


def _headline(run: Json) -> dict[str, Json | None]:
    """Kind of result -> its best row with the start to show of it; None where nothing was measured yet."""
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


# ----------------------------------------------------------------------------------------------------------- curves


def _curves(curves: Mapping[str, Json], problems: list[str]) -> dict[str, Json]:
    names = [name for name in CURVES if name in curves] + [name for name in curves if name not in CURVES]
    found = {}
    for name in names:
        curve, lost = _curve(curves[name])
        if lost:
            problems.append(f"{name}: {lost} values are no finite numbers and are not drawn")
        if curve["value"]:
            found[name] = curve
    return found


def _curve(curve: Mapping[str, Sequence[Any]]) -> tuple[Json, int]:
    """(a curve that is light enough to draw, how many of its values can't be drawn)."""
    kept = [place for place, value in enumerate(curve["value"]) if _finite(value) is not None]
    chosen = [kept[place] for place in thinned([curve["value"][place] for place in kept], MOST_POINTS)]
    light = {key: [_rounded(curve[key][place]) for place in chosen] for key in ("step", "epoch", "seconds", "value")}
    return light, len(curve["value"]) - len(kept)


def _rounded(value: Any) -> int | float | None:
    value = _finite(value)
    return float(f"{value:.7g}") if isinstance(value, float) else value


def thinned(values: Sequence[float], most: int) -> Sequence[int]:
    """Places of at most `most` values, ascending: both ends, and of equal stretches the lowest and the highest."""
    if len(values) <= most:
        return range(len(values))
    array = np.asarray(values, float)
    edges = np.linspace(0, len(values), most // 2).astype(int)
    chosen = {0, len(values) - 1}
    for start, end in itertools.pairwise(edges):
        chosen |= {int(start + array[start:end].argmin()), int(start + array[start:end].argmax())}
    return sorted(chosen)


def _curve_facts(runs: Sequence[Json]) -> dict[str, Json]:
    """Name -> title and, of each run, the curve's ends and extremes in words, for readers without the drawing."""
    names = dict.fromkeys(name for run in runs for name in run["curves"])
    order = [name for name in CURVES if name in names] + [name for name in names if name not in CURVES]
    return {
        name: {"title": CURVES.get(name, name), "words": [_extremes(run["curves"].get(name)) for run in runs]}
        for name in order
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


# --------------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Sheet:
    """Pictures of one size in one image; shown with `height` x `width` pixels each."""

    name: str  # its class in the page's style; none if it can't be shown
    uri: str
    height: int
    width: int
    columns: int
    count: int
    magnified: bool


LOST = Sheet("", "", SEEN, SEEN, 1, 0, False)


@dataclass
class Pictures:
    """The images that the page holds."""

    rules: list[str] = field(default_factory=list)  # of the style, one a sheet that is shown tile by tile
    sheets: int = 0

    def hold(self, folder: Path, sprite: Json, problems: list[str], side: int = SEEN, tiled: bool = True) -> Sheet:
        """Take in a sprite.

        Args:
            problems: takes the reason if it can't be read.
            side: in pixels, that tiles are magnified to; SEEN at the least.
            tiled: whether single tiles are shown; else the whole sheet is, as an image.
        """
        try:
            sheet, size = _sheet(folder, sprite, side, f"sheet-{self.sheets}")
        except ValueError as fault:
            problems.append(str(fault))
            return LOST
        self.sheets += 1
        if tiled:
            self.rules.append(
                f".{sheet.name}{{width:{sheet.width}px;height:{sheet.height}px;background-size:{size[0]}px {size[1]}px;"
                f'background-image:url("{sheet.uri}")}}'
            )
        return sheet


def _sheet(folder: Path, sprite: Json, side: int, name: str) -> tuple[Sheet, tuple[int, int]]:
    """A sprite read into memory, and the width and height of all of it on the screen."""
    (height, width), columns, count = sprite["tile"], sprite["columns"], sprite["count"]
    if not all(isinstance(one, int) and one > 0 for one in (height, width, columns, count)):
        raise ValueError(f"{sprite['file']}: tiles of {height} x {width}, {columns} columns and {count} tiles")
    rows = math.ceil(count / columns)
    uri, size = _data_uri(folder, sprite["file"])
    if size != (columns * width, rows * height):
        raise ValueError(
            f"{sprite['file']} is of {size[0]} x {size[1]} pixels, not {columns * width} x {rows * height}"
        )
    longest = max(height, width)
    scale = max(1, math.ceil(SEEN / longest), side // longest)
    shown = Sheet(name, uri, scale * height, scale * width, columns, count, scale > 1)
    return shown, (scale * size[0], scale * size[1])


def _data_uri(folder: Path, file: Any) -> tuple[str, tuple[int, int]]:
    """(an image as a data URI, its width and height).

    Raises:
        ValueError: it is no image that a browser shows.
    """
    if not isinstance(file, str) or PurePath(file).is_absolute():
        raise ValueError(f"{file} is not the name of a picture in the run's folder")
    try:
        content = (folder / file).read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
                image.load()  # a file that breaks off shows only now
                size, media = image.size, FORMATS[str(image.format)]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) and fault.strerror else "no whole picture"
        raise ValueError(f"{file} can't be read ({reason})") from fault
    return f"data:{media};base64,{base64.b64encode(content).decode()}", size


def position(sheet: Sheet, tile: int) -> str:
    """The style that moves a sheet so that one tile of it is seen."""
    row, column = divmod(tile, sheet.columns)
    return f"background-position:-{column * sheet.width}px -{row * sheet.height}px"


# --------------------------------------------------------------------------------------------------------- exhibits

Hold = Callable[..., Sheet]


def _exhibits(run: Json, folder: Path, pictures: Pictures, problems: list[str]) -> dict[str, Json]:
    """What the template shows of each exhibit; a damaged one becomes a problem."""
    hold = functools.partial(pictures.hold, folder, problems=problems)
    found = {}
    for part, build in BUILDERS.items():
        content = run["exhibits"].get(part)
        if content is None:
            continue
        try:
            found[part] = build(content, hold)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as fault:
            problems.append(f"{PARTS[part]}: the exhibit is damaged and was left out ({type(fault).__name__}: {fault})")
    return found


def _name(classes: Sequence[Any], label: Any) -> str:
    if label is None:
        return "no label"
    known = isinstance(label, int) and 0 <= label < len(classes)
    return str(classes[label] if known else f"class {label}")


def _reconstructions(content: Json, hold: Hold) -> Json:
    def row(title: str, sprite: Json) -> Json:
        return {"title": title, "sheet": hold(sprite, side=LOOKED_AT, tiled=False)}

    steps = [
        {**row(f"step {number(one['step'])}", one["sprite"]), "epoch": f"epoch {short(one.get('epoch'))}"}
        for one in content["steps"]
    ]
    rows = [row("original", content["original"]), row("masked", content["masked"])]
    return {"caption": text(content.get("caption", "")), "rows": rows, "steps": steps}


def _confusion(content: Json, hold: Hold) -> Json:
    counts = np.array(content["counts"], dtype=np.int64)
    size = len(content["classes"])
    if counts.shape != (size, size) or counts.min(initial=0) < 0:
        raise ValueError(f"counts of {counts.shape} for {size} classes")
    classes = [str(name) for name in content["classes"]]
    totals = counts.sum(axis=1)
    share = counts / np.maximum(totals, 1)[:, None]
    cells = np.flatnonzero(counts)
    return {
        "source": text(content.get("source", "")),
        "classes": classes,
        "images": int(totals.sum()),
        "accuracy": float(np.trace(counts) / max(totals.sum(), 1)),
        "table": list(zip(classes, counts.tolist(), share.tolist())) if size <= NUMBERED_CLASSES else None,
        "by_class": [
            {"name": classes[place], "right": int(counts[place, place]), "of": int(totals[place])}
            for place in np.argsort(np.where(totals > 0, np.diag(share), 2.0), kind="stable")
        ],
        "pairs": _confused(counts, totals, classes),
        "drawn": {"classes": classes, "cells": cells.tolist(), "counts": counts.reshape(-1)[cells].tolist()},
    }


def _confused(counts: np.ndarray, totals: np.ndarray, classes: Sequence[str]) -> list[Json]:
    """The pairs of classes that were taken for each other most often."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED_PAIRS]
    places = [divmod(int(place), len(classes)) for place in order]
    return [
        {"true": classes[row], "predicted": classes[column], "count": int(wrong[row, column]), "of": int(totals[row])}
        for row, column in places
        if wrong[row, column]
    ]


def _mistakes(content: Json, hold: Hold) -> Json:
    names = functools.partial(_name, content["classes"])
    items = [
        {
            "true": names(item["true"]),
            "predicted": names(item["predicted"]),
            "confidence": percent(item.get("confidence")),
            "name": text(item.get("name", "")),
        }
        for item in content["items"]
    ]
    sheet = hold(content["sprite"]) if items else LOST  # without a mistake there is nothing to show
    return {"source": text(content.get("source", "")), "sheet": sheet, "items": items}


def _neighbours(content: Json, hold: Hold) -> Json:
    rows = [_neighbour_row(row, content["classes"]) for row in content["rows"]]
    judged = [one["same"] for row in rows for one in row["neighbours"] if one["same"] is not None]
    return {
        "source": text(content.get("source", "")),
        "sheet": hold(content["sprite"]),
        "rows": rows,
        "most": max((len(row["neighbours"]) for row in rows), default=0),
        "right": sum(judged),
        "judged": len(judged),
    }


def _neighbour_row(row: Json, classes: Sequence[Any]) -> Json:
    """A query and its neighbours; without labels there is no saying who is of the same class."""
    label = row["label"]
    neighbours = [
        {
            "label": _name(classes, one["label"]),
            "cosine": short(one.get("cosine")),
            "same": None if label is None else one["label"] == label,
        }
        for one in row["neighbours"]
    ]
    return {"label": _name(classes, label), "name": text(row.get("name", "")), "neighbours": neighbours}


def _map(content: Json, hold: Hold) -> Json:
    placed = np.array([point[:2] for point in content["points"]], float).reshape(-1, 2)
    if not np.isfinite(placed).all():
        raise ValueError("a point is nowhere")
    placed -= placed.min(axis=0, initial=math.inf) if len(placed) else 0
    placed /= max(float(placed.max(initial=0)), 1e-12)  # one scale for both axes: distances mean something
    sheet = hold(content["sprite"], side=LOOKED_AT)
    labels = [point[2] for point in content["points"]]
    classes = [str(name) for name in content["classes"]]
    if not all(label is None or (isinstance(label, int) and 0 <= label < len(classes)) for label in labels):
        raise ValueError("a label has no class")
    return {
        "source": text(content.get("source", "")),
        "method": text(content.get("method", "")),
        "classes": classes,
        "points": [[round(x, 4), round(y, 4), label] for (x, y), label in zip(placed.tolist(), labels)],
        "sheet": {"name": sheet.name, "columns": sheet.columns, "width": sheet.width, "height": sheet.height},
    }


def _attention(content: Json, hold: Hold) -> Json:
    original, mean, each = (hold(content[name], side=LOOKED_AT) for name in ("original", "mean", "each"))
    return {
        "caption": text(content.get("caption", "")),
        "images": original.count,  # of the file that was read: a stranger's number could be any
        "heads": each.columns,
        "original": original,
        "mean": mean,
        "each": each,
    }


BUILDERS: dict[str, Callable[[Json, Hold], Json]] = {
    "reconstructions": _reconstructions,
    "confusion": _confusion,
    "mistakes": _mistakes,
    "neighbours": _neighbours,
    "map": _map,
    "attention": _attention,
}
