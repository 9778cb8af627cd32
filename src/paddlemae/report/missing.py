"""List results and exhibits that a run lacks, each with the command that makes it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from paddlemae.model.shape import EncoderShape, names_of
from paddlemae.report.results import kind_of
from paddlemae.runs.exhibit_files import EXHIBIT_TITLES
from paddlemae.runs.metrics import MULTI_LABEL, metrics_named
from paddlemae.runs.runlog import EXHIBITS

# the settings of a pretraining's model that a classifier has too
ENCODER = ("size", *(name for name in names_of(EncoderShape) if name != "drop_path"))

Json = dict[str, Any]


def missing_of(run: Path, recipe: Json, rows: Sequence[Json], exhibits: Json) -> Iterator[Json]:
    """Yield everything that a run could show and does not, with the command that would make it."""
    folder, data = shlex.quote(str(run)), shlex.quote(str(recipe.get("data") or "FOLDER"))
    knn = f"paddlemae knn {folder} --data {data}"
    pretrained = recipe["task"] == "pretrain"
    several = any(metrics_named(row["metric"]) is MULTI_LABEL for row in rows)
    if recipe["task"] not in ("probe", "segment") and not several:
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
    for part, title in EXHIBIT_TITLES.items():
        is_damaged = (run / EXHIBITS / f"{part}.json").exists()
        if exhibits[part] is not None or not (is_usual(recipe["task"], part) or is_damaged):
            continue
        if recipe["task"] == "probe" and part not in ("confusion", "mistakes"):
            yield _part(part, title, f"not part of a probe; see the report of {recipe.get('init')}", None)
        elif several and part in of_knn:
            yield _part(part, title, "not for images of several classes", None)
        elif recipe["task"] == "segment":
            yield _part(part, title, "not run", f"paddlemae evaluate {folder} --data {data}")
        elif part == "reconstructions" and not pretrained:
            yield _part(part, title, "not part of fine-tuning: a classifier has no decoder", None)
        else:
            yield _part(part, title, "not run", of_knn.get(part) if recipe["task"] != "probe" else None)


OF_SCENES = ("classes", "scenes", "worst_scenes")  # exhibits of a segmentation
OTHER_STARTS = {"random": "of the untrained encoder", "scratch": "from scratch"}


def is_usual(task: str, part: str) -> bool:
    """Return whether the runs of a task have an exhibit, if they were evaluated."""
    return part in (*OF_SCENES, "confusion") if task == "segment" else part not in OF_SCENES


def _model_settings(recipe: Json) -> str:
    """Return the overrides that give a training from scratch the pretrained encoder's model."""
    model = recipe.get("model")
    given = {name: model.get(name) for name in ENCODER} if isinstance(model, dict) else {}
    return " ".join(shlex.quote(f"model.{name}={json.dumps(v)}") for name, v in given.items() if v is not None)


def _evaluations(folder: str, data: str, model: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Return every way to measure how good a pretraining is: kind -> (title, start -> command)."""
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


def _part(part: str, title: str, reason: str, command: str | None) -> Json:
    return {"part": part, "title": title, "reason": reason, "command": command}
