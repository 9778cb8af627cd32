"""Many classes: what is counted, kept and shown of them grows with the images, not with the classes' square."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from paddlemae.report.collect import collect
from paddlemae.report.exhibit_views import LISTED_CLASSES
from paddlemae.report.page import render
from paddlemae.runs.confusion import CONFUSION_COLUMNS, Confusion, read_confusion
from paddlemae.runs.exhibit_files import write_exhibit
from paddlemae.runs.figures import MOST_CELLS, draw_confusion
from paddlemae.tasks.knn import winners
from paddlemae.tasks.training.classification import evaluation_of
from tests.support.report_example import bare_run, report_of

IMAGENET_21K = 21_000


def peak_of(work: Callable[[], object]) -> float:
    """Megabytes that NumPy and Python take at most while they work."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def random_confusion(seed: int) -> tuple[Confusion, np.ndarray]:
    rng = np.random.default_rng(seed)
    classes, images = int(rng.integers(2, 30)), int(rng.integers(0, 200))
    labels, predicted = rng.integers(0, classes, (2, images))
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return Confusion.of(labels, predicted, classes), matrix


def test_the_pairs_say_what_a_matrix_would() -> None:
    for seed in range(20):
        found, matrix = random_confusion(seed)
        assert (found.matrix() == matrix).all() and found.images == matrix.sum() and found.right == np.trace(matrix)
        assert (found.images_of_class() == matrix.sum(axis=1)).all() and (
            found.right_of_class() == np.diag(matrix)
        ).all()
        for side in (1, 2, len(matrix) // 2, 1000):
            places = np.arange(len(matrix)) * min(side, len(matrix)) // len(matrix)
            together = np.zeros((min(side, len(matrix)),) * 2, np.int64)
            np.add.at(together, (places[:, None], places[None]), matrix)
            assert (found.matrix(max(side, 1)) == together).all()
        classes = [""] * len(matrix)
        for content in (found.as_json(), {"counts": matrix.tolist()}):  # the second as older runs have it
            again = read_confusion(json.loads(json.dumps({"classes": classes, **content})))
            assert all((getattr(again, name) == getattr(found, name)).all() for name in CONFUSION_COLUMNS)


def test_counts_that_make_no_sense_are_refused() -> None:
    for content in [
        {"counts": [[1, 2]]},
        {"counts": [[1, 2], [3]]},
        {"counts": [[1, -2], [3, 4]]},
        {"counts": [[1, 0.5], [3, 4]]},
        {"counts": [[10**30, 0], [0, 0]]},
        {"counts": 5},
        {"true": [0], "predicted": [2], "count": [1]},
        {"true": [0], "predicted": [-1], "count": [1]},
        {"true": [0], "predicted": [1, 1], "count": [1]},
        {"true": [0], "predicted": ["1"], "count": [1]},
        {"true": [0], "predicted": [1], "count": [True]},
        {"true": [0], "predicted": [1]},
    ]:
        with pytest.raises((ValueError, TypeError, KeyError, OverflowError)):
            read_confusion({"classes": ["a", "b"], **content})


def test_a_million_images_are_counted_in_little_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, IMAGENET_21K, (2, 1_000_000))

    def count() -> None:
        found = Confusion.of(labels, predicted, IMAGENET_21K)
        assert found.images == 1_000_000 and len(found.count) < 1_000_000
        found.images_of_class()
        matrix = found.matrix(MOST_CELLS)
        assert matrix.shape == (MOST_CELLS,) * 2 and matrix.sum() == 1_000_000

    assert peak_of(count) < 150, "their square is 3,528 MB"


def test_an_evaluation_keeps_no_logits() -> None:
    def predictions() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for start in range(0, 1024, 16):
            indices = np.arange(start, start + 16)
            logits = np.zeros((16, IMAGENET_21K), np.float32)
            logits[:, 7] = 1
            yield indices, indices % 9, logits

    found = []
    assert peak_of(lambda: found.append(evaluation_of(predictions(), IMAGENET_21K))) < 40, "all of them are 86 MB"
    assert found[0].confusion.right == 1024 // 9 and found[0].metrics["top5"] == 569 / 1024


def test_votes_are_counted_of_neighbours_alone() -> None:
    rng = np.random.default_rng(0)
    labels, weights = rng.integers(0, IMAGENET_21K, (2000, 20)), rng.random((2000, 20))
    labels[0], labels[1, :3] = 5, 9
    found = []
    assert peak_of(lambda: found.append(winners(labels, weights, IMAGENET_21K))) < 40, "all classes: 336 MB"
    classes, shares = found[0]
    assert classes[0] == 5 and shares[0] == pytest.approx(1)
    for query in range(20):
        votes = np.bincount(labels[query], weights[query])
        assert classes[query] == votes.argmax() and shares[query] == pytest.approx(votes.max() / votes.sum())


@pytest.mark.usefixtures("rendered_figures")
def test_a_page_of_many_classes_stays_small(tmp_path: Path) -> None:
    size = 3000
    labels = np.arange(size)
    confusion = Confusion.of(labels, (labels + labels % 2) % size, size)
    content = {"source": "kNN", "classes": [f"class {i}" for i in labels], **confusion.as_json()}
    run = {**bare_run(), "exhibits": {**bare_run()["exhibits"], "confusion": content}}
    page = render(report_of([run]), [tmp_path])
    assert len(page) < 1_000_000, "a matrix has nine million cells"
    assert page.count('<td class="bar">') == LISTED_CLASSES and "and 2,000 more classes" in page
    draw_confusion(tmp_path / "a.png", confusion, content["classes"], "")
    assert (tmp_path / "a.png").stat().st_size < 3_000_000


def test_the_matrix_of_an_older_run_is_reported_by_its_pairs(tmp_path: Path, pretrained: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(pretrained, run)
    write_exhibit(run, "confusion", {"source": "old", "classes": ["a", "b"], "counts": [[3, 1], [0, 2]]})
    report = collect([run])
    shown = report["runs"][0]["exhibits"]["confusion"]
    assert "counts" not in shown and shown["count"] == [3, 1, 2] and shown["source"] == "old"
    assert "a</bdi>" in (page := render(report, [run])) and "75.0%" in page
    write_exhibit(run, "confusion", {"source": "", "classes": ["a", "b"], "counts": [[3, 1]]})
    assert "the exhibit is damaged" in render(collect([run]), [run])


@pytest.mark.slow
def test_a_classifier_of_21000_classes_needs_little_memory(encoder: list[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * IMAGENET_21K, 8, 8, 3), np.uint8)
    labels = np.arange(2 * IMAGENET_21K) % IMAGENET_21K
    np.savez(
        tmp_path / "set.npz", train_images=images, train_labels=labels, test_images=images[::8], test_labels=labels[::8]
    )
    run, data = tmp_path / "run", tmp_path / "set.npz"
    commands = [
        ["finetune", "--init", "scratch", "--data", data, "--out", run, "--quiet", *encoder, "steps=2", "workers=0"],
        ["evaluate", run, "--data", data],
        ["knn", run, "--data", data, "--k", "5"],
        ["report", run],
    ]
    for command in commands:
        # VmHWM and not ru_maxrss: a child inherits the peak of the process that started it in the latter.
        code = "import sys; from paddlemae.cli.app import main\ntry: main()\nfinally: "
        code += "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.__stdout__)"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[-1]) < 1_300_000, "KB; one matrix is 3,528,000"
    sizes = {path: path.stat().st_size for path in run.rglob("*") if path.is_file() and "checkpoints" not in path.parts}
    assert max(sizes.values()) < 3_000_000, sizes
