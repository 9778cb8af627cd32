"""Commands that compute features, logits or masks do so in bfloat16, say so in their results, or refuse it at once."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import paddlemae
from paddlemae.engine import onednn_primitives, precision
from paddlemae.recipe import load_recipe
from paddlemae.runs.runlog import read_results
from paddlemae.tasks.embed import embed_source
from paddlemae.tasks.evaluate import evaluate
from paddlemae.tasks.models.build import load_classifier
from paddlemae.tasks.models.feature_file import read_file
from paddlemae.tasks.models.inference import LOGITS, FeatureKind, Logits, forward_function
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.probe import probe
from paddlemae.tasks.search import search
from paddlemae.tasks.training.run_start import Start
from tests.support.bfloat16 import needs_avx512
from tests.support.coloured_scenes import CLASSES as SCENE_CLASSES
from tests.support.coloured_scenes import write_scenes
from tests.support.segmenters import write_segmenter

HALF = FeatureKind(precision="bfloat16")
bfloat16 = pytest.mark.usefixtures("bfloat16_allowed")


def near(mine: Any, theirs: Any, share: float = 0.02) -> bool:
    """Whether numbers are not the same, but within a share of the largest of them."""
    one, other = np.asarray(mine), np.asarray(theirs)
    return 0 < np.abs(one - other).max() < share * np.abs(other).max()


@needs_avx512
@bfloat16
def test_features_of_a_file_are_near_and_say_how_they_were_made(pretrained, colours, tmp_path) -> None:
    files = {}
    for kind in (FeatureKind(), HALF):
        out = tmp_path / f"{kind.precision}.npz"
        embed_source(str(pretrained), str(colours / "train"), out, kind=kind, threads=1, quiet=True)
        files[kind] = read_file(out)
    assert near(files[HALF].vectors, files[FeatureKind()].vectors)
    assert files[HALF].about["precision"] == "bfloat16" and "precision" not in files[FeatureKind()].about
    image = next((colours / "train").rglob("*.png"))
    (found,) = search(tmp_path / "bfloat16.npz", [str(image)], run=str(pretrained), k=1, threads=1)
    assert found.neighbours[0].similarity > 0.999


@needs_avx512
@bfloat16
def test_neighbours_name_the_precision(paddlemae, pretrained, colours, tmp_path) -> None:
    run = shutil.copytree(pretrained, tmp_path / "run")
    done = paddlemae("knn", run, "--data", colours, "--k", 3, "--precision", "bfloat16")
    assert done.status == 0 and done.out.count("norm: layer, bfloat16") == 2
    assert read_results(run)[0][-1]["protocol"]["precision"] == "bfloat16"
    done = paddlemae("knn", run, "--data", write_scenes(tmp_path / "land"), "--masks", "--precision", "bfloat16")
    assert done.status == 0 and read_results(run)[0][-1]["protocol"]["precision"] == "bfloat16"


@needs_avx512
@bfloat16
def test_a_probes_features_are_of_its_precision(pretrained, colours, tmp_path) -> None:
    run, results = shutil.copytree(pretrained, tmp_path / "run"), []
    for kind in ("float32", "bfloat16"):
        overrides = [f"init={json.dumps(str(run))}", f"data={colours}", f"precision={kind}", "cached=true"]
        recipe = load_recipe("probe", None, [*overrides, "steps=8", "batch_size=6", "warmup_epochs=0.5", "threads=1"])
        results.append(probe(recipe, Start(tmp_path / kind, quiet=True)))
    assert near(results[1]["eval_loss"], results[0]["eval_loss"])
    protocols = [line["protocol"] for line in read_results(run)[0][-2:]]  # others of this run came before
    assert [protocol.get("precision") for protocol in protocols] == [None, "bfloat16"]


def probabilities(table: Path) -> np.ndarray:
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(value) for name, value in row.items() if "probability" in name and value] for row in rows])


@needs_avx512
@bfloat16
def test_a_classifiers_predictions_and_evaluation(paddlemae, tuned, colours, tmp_path) -> None:
    run = shutil.copytree(tuned, tmp_path / "run")
    for kind in ("float32", "bfloat16"):
        done = paddlemae("predict", run, colours, "--out", tmp_path / f"{kind}.csv", "--precision", kind)
        assert done.status == 0, done.err
        done = paddlemae("evaluate", run, "--data", colours, "--precision", kind)
        assert done.status == 0, done.err
    assert near(probabilities(tmp_path / "bfloat16.csv"), probabilities(tmp_path / "float32.csv"))
    wide, narrow = read_results(run)[0][-2:]
    assert near(narrow["eval_loss"], wide["eval_loss"])
    assert narrow["protocol"]["precision"] == "bfloat16" and "precision" not in wide["protocol"]


@needs_avx512
@bfloat16
def test_a_segmenters_predictions_and_evaluation(paddlemae, tmp_path) -> None:
    scenes = write_scenes(tmp_path / "land", train=2, test=2)
    run = write_segmenter(tmp_path / "segmenter")
    description = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps({**description, "classes": list(SCENE_CLASSES)}))
    losses = []
    for kind in ("float32", "bfloat16"):
        out = tmp_path / kind
        done = paddlemae("predict", run, scenes / "images", "--out", out, "--precision", kind)
        assert done.status == 0, done.err
        losses.append(evaluate(str(run), str(scenes), threads=1, precision=kind)["eval_loss"])
    assert near(losses[1], losses[0])
    done = paddlemae("predict", run, scenes / "images", "--out", tmp_path / "float32", "--precision", "bfloat16")
    assert done.status == 2, "a folder holds masks of one precision"


@needs_avx512
@bfloat16
def test_a_loaded_model_takes_it(tuned, colours) -> None:
    image = str(next(colours.rglob("*.png")))
    wide, narrow = paddlemae.load(tuned, threads=1), paddlemae.load(tuned, threads=1, precision="bfloat16")
    assert near(narrow.encode(image), wide.encode(image))
    assert near(narrow.predict(image).probabilities, wide.predict(image).probabilities)


@needs_avx512
@bfloat16
def test_weights_are_rounded_once_for_all_batches(tuned, monkeypatch) -> None:
    convert, made = precision.convert, []

    def count(x: Any, dtype: Any) -> Any:
        made.append(x.data_ptr())
        return convert(x, dtype)

    monkeypatch.setattr(precision, "convert", count)
    checkpoint = read_checkpoint(tuned)
    model, description = load_classifier(checkpoint), checkpoint.description
    forward = forward_function(model, description, Logits("bfloat16"), threads=2)
    batch = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), np.uint8)
    first = forward(batch)
    assert (forward(batch) == first).all() and len(made) == len(set(made)) == 6
    assert near(first, forward_function(model, description, LOGITS, threads=2)(batch), 0.05)


REFUSED: dict[str, Callable[[Path, Path], list[object]]] = {
    "embed": lambda out, data: ["--data", data, "--out", out / "f.npz"],
    "knn": lambda out, data: ["--data", data],
    "predict": lambda out, data: [data, "--out", out / "p.csv"],
    "evaluate": lambda out, data: ["--data", data],
}


@pytest.mark.parametrize("command", REFUSED)
@pytest.mark.parametrize(("wanted", "line"), [("bfloat16", "needs a CPU with AVX512_BF16"), ("bf16", "must be one of")])
def test_what_cannot_be_computed_is_one_line(
    paddlemae, tuned, colours, tmp_path, monkeypatch, command: str, wanted: str, line: str
) -> None:
    monkeypatch.delenv(precision.EMULATE, raising=False)
    monkeypatch.setattr(
        onednn_primitives.Library, "has", lambda self, instructions: instructions == onednn_primitives.AVX2
    )
    done = paddlemae(command, tuned, *REFUSED[command](tmp_path, colours), "--precision", wanted)
    assert done.status == 2 and line in done.err and len(done.err.strip().splitlines()) == 1, done.err
    assert not list(tmp_path.iterdir())


def test_accelerators_take_paddles_autocast(tuned, monkeypatch) -> None:
    """Here on the CPU's own kernels, where it does nothing."""
    checkpoint = read_checkpoint(tuned)
    model, description = load_classifier(checkpoint), checkpoint.description
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), np.uint8)
    expected = forward_function(model, description, LOGITS, threads=1)(batch)
    autocast, asked = precision.paddle.amp.auto_cast, []
    monkeypatch.setattr(precision.paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(precision.paddle.amp, "auto_cast", lambda **how: asked.append(how) or autocast(False))
    found = forward_function(model, description, Logits("bfloat16"), threads=1)(batch)
    assert asked == [{"dtype": "bfloat16", "level": "O1"}]
    np.testing.assert_allclose(found, expected, atol=1e-5)
