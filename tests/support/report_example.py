"""Write a report of two runs, a complete and a bare one, and of one with hostile names, for the tests of its page."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NASTY = "</script><img src=x onerror=alert(1)>"
CLASSES = ["plane", "car", "bird", NASTY, "deer"]
PARTS = ("reconstructions", "confusion", "mistakes", "neighbours", "map", "attention")
STEPS = 400

Json = dict[str, Any]


def sprite(folder: Path, name: str, columns: int, count: int, side: int = 32) -> Json:
    """Write a sheet of tiles that differ in colour, and return an exhibit's description of it."""
    rows = math.ceil(count / columns)
    y, x = np.mgrid[: rows * side, : columns * side]
    tile = (y // side) * columns + x // side
    pixels = np.stack([40 * tile % 256, 90 + 5 * (x % side), 60 + 5 * (y % side)], axis=-1).astype(np.uint8)
    (folder / "exhibits").mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / "exhibits" / f"{name}.jpg")
    return {"file": f"exhibits/{name}.jpg", "tile": [side, side], "columns": columns, "count": count}


def exhibits(folder: Path) -> Json:
    """Return every exhibit, and write its pictures to the folder."""
    rng = np.random.default_rng(0)
    size = len(CLASSES)
    labels = [number % size for number in range(60)]
    nearest = [
        [{"label": (row + (place > 2)) % size, "cosine": 0.99 - place / 50} for place in range(5)] for row in labels
    ]
    return {
        "reconstructions": {
            "caption": "48 of 64 patches removed",
            "original": sprite(folder, "original", 6, 6),
            "masked": sprite(folder, "masked", 6, 6),
            "steps": [
                {"step": step, "epoch": step / 390, "sprite": sprite(folder, f"step_{step}", 6, 6)}
                for step in (0, 40, STEPS)
            ],
        },
        "confusion": {
            "source": "kNN, k = 20",
            "classes": CLASSES,
            "counts": (rng.integers(0, 12, (size, size)) + 60 * np.eye(size, dtype=int)).tolist(),
        },
        "mistakes": {
            "source": "kNN, k = 20",
            "classes": CLASSES,
            "sprite": sprite(folder, "mistakes", 8, 12),
            "items": [
                {"true": number % size, "predicted": (number + 1) % size, "confidence": 0.99, "name": f"a/{number}.jpg"}
                for number in range(12)
            ],
        },
        "neighbours": {
            "source": "mean of the patch tokens",
            "classes": CLASSES,
            "sprite": sprite(folder, "neighbours", 6, 24),
            "rows": [{"label": label, "name": f"q{label}.jpg", "neighbours": nearest[label]} for label in range(4)],
        },
        "map": {
            "source": "mean of the patch tokens",
            "method": "t-SNE, perplexity 30",
            "classes": CLASSES,
            "sprite": sprite(folder, "map", 8, 60),
            "points": [[*np.round(9 * rng.normal(size=2) + 40 * np.array([label, label % 2]), 2).tolist(), label]
                       for label in labels],
        },
        "attention": {
            "caption": "attention of the cls token",
            "heads": 3,
            "original": sprite(folder, "attention", 4, 4),
            "mean": sprite(folder, "mean", 4, 4),
            "each": sprite(folder, "each", 3, 12),
        },
    }  # fmt: skip


def curves(every: int, scale: float = 1.0) -> Json:
    """Return the metrics that a pretraining logs."""
    steps = list(range(every, STEPS + 1, every))
    place = {"step": steps, "epoch": [step / 390 for step in steps], "seconds": [0.35 * step for step in steps]}
    values = {
        "loss": [scale * (0.6 + 0.5 * math.exp(-step / 60)) for step in steps],
        "lr": [1e-4 * min(1, step / 50) for step in steps],
        "images_per_second": [360.0 + step % 7 for step in steps],
        "memory_gb": [1.2] * len(steps),
    }
    return {name: {**place, "value": value} for name, value in values.items()}


def cell(top1: list[float], command: str) -> Json:
    mean = sum(top1) / len(top1)
    std = float(np.std(top1, ddof=1)) if len(top1) > 1 else None
    made = {"command": command, "at": "2026-11-25T08:00:00Z", "commit": "abc123"}
    return {"top1": top1, "top5": [one + 0.3 for one in top1], "mean": mean, "std": std, **made}


def setup(**recipe: Any) -> Json:
    return {
        "recipe": {"task": "pretrain", "mask_ratio": 0.75, "training.batch_size": 128, **recipe},
        "environment": {"command": ["paddlemae", "pretrain", "cifar 10"], "commit": "abc123", "cpus": 2,
                        "python": "3.11", "processor": "AMD EPYC", "started": "2026-11-25T07:00:00Z",
                        "packages": {"numpy": "2.1"}},
        "data": {"name": "cifar10 (train)", "images": 50000, "classes": 10},
        "model": {"kind": "mae", "parameters": 1040000, "architecture": {"depth": 12}},
    }  # fmt: skip


def whole_run(folder: Path) -> Json:
    """Write a run with all that the page can show."""
    knn = {"pretrained": cell([0.42], "paddlemae knn runs/a"), "random": cell([0.3], "paddlemae knn runs/a --random")}
    tuned = {
        "pretrained": cell([0.6, 0.62, 0.64], "paddlemae study --init runs/a"),
        "scratch": cell([0.5, 0.5, 0.5], "paddlemae study --init scratch"),
    }
    return {
        "name": "whole",
        "folder": "runs/whole",
        "task": "pretrain",
        "problems": ["metrics.jsonl: line 17 is damaged and was left out"],
        "setup": setup(),
        "totals": {"steps": STEPS, "epochs": 1.02, "seconds": 141.2},
        "curves": curves(5),
        "results": [
            {
                "task": "knn",
                "title": "kNN, k = 20, weighted votes",
                "detail": "mean of the patch tokens",
                "metric": "top1",
                "starts": knn,
            },
            {
                "task": "finetune",
                "title": "fine-tuned, 1000 labels",
                "detail": "10,000 images",
                "metric": "top1",
                "starts": tuned,
            },
        ],
        "exhibits": exhibits(folder),
        "missing": [missing("results.probe.pretrained", "linear probe", "paddlemae probe --init runs/whole")],
    }


def missing(part: str, title: str, command: str | None) -> Json:
    return {"part": part, "title": title, "reason": "not run", "command": command}


def bare_run() -> Json:
    """Write a run that has only just logged something."""
    return {
        "name": "bare",
        "folder": "runs/bare",
        "task": "pretrain",
        "problems": [],
        "setup": {"recipe": {"mask_ratio": 0.5}, "environment": {}, "data": {"name": "cifar10 (train)"}, "model": {}},
        "totals": {"steps": None, "epochs": None, "seconds": None},
        "curves": {"loss": curves(8, 1.2)["loss"]},
        "results": [],
        "exhibits": dict.fromkeys(PARTS),
        "missing": [
            missing("results.knn.pretrained", "kNN", "paddlemae knn runs/bare --data cifar10"),
            missing("map", "2-D map of the features", "paddlemae knn runs/bare --data cifar10"),
            missing("attention", "attention maps of the last block", None),
        ],
    }


def report_of(runs: list[Json]) -> Json:
    compared = {
        "recipes": [
            {"key": "mask_ratio", "values": [0.75, 0.5]},
            {"key": "training.batch_size", "values": [128, None]},
        ],
        "environments": [],
        "results": [
            {
                "title": "kNN, k = 20",
                "detail": "",
                "start": "pretrained",
                "metric": "top1",
                "top1": [0.42, None],
                "difference": None,
            },
            {
                "title": "kNN, k = 5",
                "detail": "",
                "start": "random",
                "metric": "top1",
                "top1": [0.31, 0.3],
                "difference": -0.01,
            },
        ],
    }
    return {
        "format": 2,
        "made": "2026-11-25T08:00:00Z",
        "version": "0.1.0",
        "command": ["paddlemae", "report", "runs/whole"],
        "runs": runs,
        "comparison": compared if len(runs) > 1 else None,
        "markdown": "| accuracy | pretrained |\n|---|---:|\n| kNN | 42.0% |\n",
    }


def example(folder: Path) -> tuple[Json, list[Path]]:
    """Return (the report of a complete and a bare run, their folders)."""
    folders = [folder / "whole", folder / "bare"]
    return report_of([whole_run(folders[0]), bare_run()]), folders


class Seen(HTMLParser):
    """Tags with their attributes and the text between, as a browser without scripts would show them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.open = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open = tag

    def handle_endtag(self, tag) -> None:
        self.open = ""

    def handle_data(self, data) -> None:
        if self.open == "script":
            self.scripts.append(data)
        elif self.open != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def data(self) -> dict:
        return json.loads(self.scripts[0])
