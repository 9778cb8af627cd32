"""Run folders without trainings, for the tests of reports."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from paddlemae.runs.runlog import log_metrics


def make_run(folder: Path, task: str = "pretrain", **recipe) -> Path:
    """Write a run folder as a training leaves it, without the training."""
    checkpoint = folder / "checkpoints/step_00000004"
    checkpoint.mkdir(parents=True)
    (folder / "checkpoints/latest").write_text("step_00000004\n")
    provenance = {"data": "digits (train)", "images": 4000, "parameters": 1234}
    model = {"kind": "mae", "architecture": {"depth": 1}, "classes": [], "provenance": provenance}
    (checkpoint / "model.json").write_text(json.dumps(model))
    (folder / "environment.json").write_text(json.dumps({"cpus": 2, "packages": {"numpy": "2.1"}}))
    content = {"task": task, "data": "digits", "training": {"batch_size": 8}, **recipe}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    for step in (2, 4):
        log_metrics(folder, step, step / 10, 1.5 * step, loss=1 / step, lr=1e-3)
    return folder


def result(task: str = "knn", top1: float = 0.5, start: str = "pretrained", **changes) -> dict:
    protocol = changes.pop("protocol", {"token": "mean", "layer": None, "norm": "layer", "k": 20, "votes": "weighted"})
    known = {"task": task, "start": start, "top1": top1, "protocol": protocol, "checkpoint": "step_00000004"}
    images = {"train": "digits (train)", "train_images": 4000, "eval": "digits (test)", "eval_images": 1000}
    return {**known, **images, **changes}
