"""A multi-label classifier: trained, evaluated, applied and exported, with the thresholds of its classes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import paddlemae as library
from paddlemae.system.signals import Preempted

CLASSES = ("blue", "green", "red")
OPTION = f"::labels={','.join(CLASSES)}"
ENCODER = {"size": "mini", "image_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
SCHEDULE = {"steps": 60, "batch_size": 16, "base_lr": 0.1, "warmup_epochs": 1, "evaluate_every": 2, "threads": 1}
PLAIN = {"crop_scale": None, "flip": False, "label_smoothing": 0, "drop_path": 0, "layer_decay": 1}


def write_squares(root: Path, count: int, seed: int) -> np.ndarray:
    """Write pictures whose quarters are of the colours that they have; returns which, bool [N, 3]."""
    rng = np.random.default_rng(seed)
    has = rng.random((count, 3)) < (0.3, 0.4, 0.5)
    root.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(has):
        pixels = rng.integers(90, 110, (8, 8, 3))
        for channel, (colour, (y, x)) in enumerate(zip(row[::-1], ((0, 0), (0, 4), (4, 0)))):
            if colour:
                pixels[y : y + 4, x : x + 4, channel] = 250
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{number}.png")
    return has


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("squares")
    has = write_squares(root, 120, 0)
    parts = np.repeat(["train", "val", "test"], [80, 20, 20])
    with open(root / "all.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "split", *CLASSES])
        rows.writerows([f"{n}.png", part, *row.astype(int)] for n, (part, row) in enumerate(zip(parts, has)))
    return f"{root / 'all.csv'}{OPTION}"


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "multi"
    library.finetune(init="scratch", data=data, out=out, quiet=True, **ENCODER, **SCHEDULE, **PLAIN)
    return out


def test_it_learns_and_is_tested_on_the_test_part(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    assert result["primary"] == "mean_average_precision" and "top1" not in result
    assert (result["train_images"], result["validation_images"], result["eval_images"]) == (80, 20, 20)
    assert result["mean_average_precision"] > 0.9 > 0.6 > result["majority"]["mean_average_precision"]
    assert list(result["per_class"]) == list(CLASSES)
    thresholds = library.load(run).description.thresholds
    assert [one["threshold"] for one in result["per_class"].values()] == thresholds != [0.5] * 3
    assert (run / "figures" / "average_precision.png").exists()


def test_evaluate_gives_the_same_numbers(paddlemae, run: Path, data: str) -> None:
    done = paddlemae("evaluate", run, "--data", data)
    assert done.status == 0, done
    result = json.loads((run / "result.json").read_text())
    logged = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert logged[-1]["task"] == "evaluate"
    assert logged[-1]["macro_f1"] == pytest.approx(result["macro_f1"]) and "threshold" in done.out


def test_predict_names_the_classes_that_reach_their_thresholds(paddlemae, run: Path, data: str, tmp_path: Path) -> None:
    has = write_squares(tmp_path / "new", 30, 5)
    assert paddlemae("predict", run, tmp_path / "new", "--out", tmp_path / "p.csv", "--quiet").status == 0
    with open(tmp_path / "p.csv", newline="") as file:
        said = {Path(row["path"]).stem: row["labels"] for row in csv.DictReader(file)}
    predictions = library.load(run).predict([tmp_path / "new" / f"{n}.png" for n in range(30)])
    assert [said[str(n)] for n in range(30)] == ["|".join(names) for names in predictions.label_sets]
    found = np.array([[name in said[str(n)].split("|") for name in CLASSES] for n in range(30)])
    assert (found == has).mean() > 0.85


def test_predict_measures_labelled_images_as_evaluate_does(paddlemae, run: Path, data: str, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    done = paddlemae("predict", run, data, "--split", "test-only", "--out", out, "--quiet")
    assert done.status == 0, done
    result = json.loads((run / "result.json").read_text())
    assert "20 labelled images" in done.out and f"{result['mean_average_precision']:.2%}" in done.out
    assert f"{result['macro_f1']:.2%}" in done.out
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} <= {"", *CLASSES, "blue|green", "blue|red", "green|red", "blue|green|red"}
    assert sum(row["label"] == row["labels"] for row in rows) == round(20 * result["exact_match"])


def test_predict_sorts_images_into_the_folder_of_each_class(paddlemae, run: Path, data: str, tmp_path: Path) -> None:
    words = ["--split", "test-only", "--out", tmp_path / "p.csv", "--sort-into", tmp_path / "sorted", "--quiet"]
    assert paddlemae("predict", run, data, *words).status == 0
    with open(tmp_path / "p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert any("|" in row["labels"] for row in rows)
    for row in rows:
        places = {path.parent.name for path in (tmp_path / "sorted").rglob(Path(row["path"]).name)}
        assert places == set(row["labels"].split("|") if row["labels"] else ["none"])


def test_the_report_names_no_command_that_would_be_refused(paddlemae, run: Path, tmp_path: Path) -> None:
    assert paddlemae("report", run, "--out", tmp_path / "report").status == 0
    text = (tmp_path / "report" / "report.json").read_text()
    assert "mean_average_precision" in text and "paddlemae knn" not in text
    assert "paddlemae knn" not in (tmp_path / "report" / "report.html").read_text()


def test_a_stopped_run_resumes_bit_for_bit(data: str, tmp_path: Path) -> None:
    settings = {**ENCODER, **SCHEDULE, **PLAIN, "steps": 20, "mixup": 0.5, "checkpoint_every": 1}
    whole = library.finetune(init="scratch", data=data, out=tmp_path / "whole", quiet=True, **settings)
    with pytest.raises(Preempted):
        library.finetune(init="scratch", data=data, out=tmp_path / "parts", quiet=True, **settings, max_hours=1e-9)
    again = {"resume": True, "quiet": True}
    assert library.finetune(init="scratch", data=data, out=tmp_path / "parts", **settings, **again) == whole


def test_images_that_all_have_the_same_classes_are_refused(paddlemae, tmp_path: Path) -> None:
    write_squares(tmp_path, 8, 0)
    lines = [f"{number}.png,{part},1,1" for number, part in enumerate(["train"] * 4 + ["test"] * 4)]
    (tmp_path / "all.csv").write_text("\n".join(["image,split,a,b", *lines]))
    data = f"{tmp_path / 'all.csv'}::labels=a,b"
    done = paddlemae("finetune", "--init", "scratch", "size=mini", "--data", data, "--out", tmp_path / "x")
    assert done.status == 2 and "same classes" in done.err and done.err.count("\n") == 1, done


def test_what_needs_one_class_refuses_in_one_line(paddlemae, run: Path, data: str, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        done = paddlemae(*arguments)
        assert done.status == 2 and done.err.count("\n") == 1, done
        return done.err

    tune = ("finetune", "--init", "scratch", "size=mini", "--data", data, "--out", tmp_path / "x")
    assert "one class per image" in refused(*tune, "class_weights=balanced")
    assert "one class per image" in refused(*tune, "sampling=balanced")
    assert "one class per image" in refused(*tune, "labels=20")
    assert "primary_metric must be one of mean_average_precision" in refused(*tune, "primary_metric=top1")
    assert "one class per image" in refused("knn", run, "--data", data)
    assert "gives an image several classes" in refused("evaluate", run, "--data", "digits")
