"""Build what the report's page shows of each exhibit of a run."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.report.formatting import finite, number, percent, short, text
from paddlemae.report.sprites import LOOKED_AT, LOST, Pictures, Sheet
from paddlemae.runs import exhibit_files
from paddlemae.runs.confusion import Confusion, read_confusion
from paddlemae.system.display_names import display_name

NUMBERED_CLASSES = 20  # up to here a confusion matrix is a table of numbers, above it is a picture
CONFUSED_PAIRS = 12
LISTED_CLASSES = 1000  # whose accuracy is listed
LISTED_COLOURS = 60  # classes in the legend of masks
NAME_COLUMNS = 48  # of a class in a table of the page
PARTS = {part: title[0].upper() + title[1:] for part, title in exhibit_files.EXHIBIT_TITLES.items()}

Json = dict[str, Any]
Hold = Callable[..., Sheet]


def shown_exhibits(run: Json, folder: Path, pictures: Pictures, problems: list[str]) -> dict[str, Json]:
    """Return the values that the template shows of each exhibit; a damaged one becomes a problem."""
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
    return display_name(classes[label] if known else f"class {label}", NAME_COLUMNS)


def _names(content: Json) -> list[str]:
    return [display_name(name, NAME_COLUMNS) for name in content["classes"]]


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
    found = read_confusion(content)
    classes, totals, right = _names(content), found.images_of_class(), found.right_of_class()
    predicted = found.predicted_as_class()
    order = np.argsort(np.where(totals > 0, right / np.maximum(totals, 1), 2.0), kind="stable")
    numbered = len(classes) <= NUMBERED_CLASSES
    counts = found.matrix() if numbered else None
    return {
        "source": text(content.get("source", "")),
        "unit": "pixels" if content.get("unit") == "pixels" else "images",
        "classes": classes,
        "images": found.images,
        "accuracy": found.right / max(found.images, 1),
        "table": list(zip(classes, counts.tolist(), (counts / np.maximum(totals, 1)[:, None]).tolist()))
        if counts is not None
        else None,
        "by_class": [
            {
                "name": classes[place],
                "right": int(right[place]),
                "of": int(totals[place]),
                "predicted": int(predicted[place]),
                "recall_interval": _interval(content, "recall", place),
                "precision_interval": _interval(content, "precision", place),
            }
            for place in order[:LISTED_CLASSES].tolist()
        ],
        "intervals": isinstance(content.get("intervals"), dict),
        "unlisted": max(0, len(classes) - LISTED_CLASSES),
        "pairs": _confused(found, totals, classes),
        "drawn": {
            "classes": classes,
            "cells": (found.true * len(classes) + found.predicted).tolist(),
            "counts": found.count.tolist(),
        },
    }


def _interval(content: Json, key: str, place: int) -> list[float] | None:
    """Return the interval of a class's recall or precision; None if the exhibit has none, as in older runs."""
    intervals = content.get("intervals")
    ends = intervals[key][place] if isinstance(intervals, dict) else None
    if ends is not None and (len(ends) != 2 or any(finite(end) is None for end in ends)):
        raise ValueError("an interval that is none")
    return ends


def _confused(found: Confusion, totals: np.ndarray, classes: Sequence[str]) -> list[Json]:
    """Return the pairs of classes that were confused most often."""
    wrong = np.flatnonzero(found.true != found.predicted)
    most = wrong[np.argsort(-found.count[wrong], kind="stable")[:CONFUSED_PAIRS]]
    columns = zip(*(column[most].tolist() for column in (found.true, found.predicted, found.count)))
    return [
        {"true": classes[row], "predicted": classes[column], "count": count, "of": int(totals[row])}
        for row, column, count in columns
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
    """Return a query and its neighbours; without labels no neighbour is marked as of the same class."""
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
    classes = _names(content)
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


def _classes(content: Json, hold: Hold) -> Json:
    """Return each class of a segmentation with its metrics, the lowest IoU first, those without one last."""
    rows = sorted(content["rows"], key=lambda row: (row["iou"] is None, row["iou"]))[:LISTED_CLASSES]
    total = max(1, sum(row["pixels"] for row in content["rows"]))
    keys = ("iou", "dice", "boundary_f1", "recall", "precision")
    return {
        "source": text(content.get("source", "")),
        "rows": [
            {
                "name": display_name(row["name"], NAME_COLUMNS),
                "share": row["pixels"] / total,
                "interval": row["interval"],
                **{key: finite(row[key]) for key in keys},
            }
            for row in rows
        ],
        "unlisted": max(0, len(content["rows"]) - LISTED_CLASSES),
    }


def _scenes(content: Json, hold: Hold) -> Json:
    """Return images of a segmentation, each with its four pictures in a row of the sheet, and the colours."""
    colours = [[int(value) for value in one["colour"]] for one in content["classes"][:LISTED_COLOURS]]
    names = [display_name(one["name"], NAME_COLUMNS) for one in content["classes"][:LISTED_COLOURS]]
    return {
        "source": text(content.get("source", "")),
        "sheet": hold(content["sprite"], side=LOOKED_AT),
        "items": [{"name": text(item.get("name", "")), "miou": percent(item.get("miou"))} for item in content["items"]],
        "classes": [
            {"name": name, "colour": f"rgb({red}, {green}, {blue})"} for name, (red, green, blue) in zip(names, colours)
        ],
        "unlisted": max(0, len(content["classes"]) - LISTED_COLOURS),
    }


BUILDERS: dict[str, Callable[[Json, Hold], Json]] = {
    "reconstructions": _reconstructions,
    "confusion": _confusion,
    "mistakes": _mistakes,
    "classes": _classes,
    "scenes": _scenes,
    "worst_scenes": _scenes,
    "neighbours": _neighbours,
    "map": _map,
    "attention": _attention,
}
