"""The demo end to end, with a training too short to learn anything."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from paddlemae.cli import demo
from paddlemae.recipe import load_recipe
from paddlemae.system.documents import read_yaml
from paddlemae.tasks import study as studies
from paddlemae.train.checkpoint_folders import find_checkpoint

SHORT = {
    "pretrain": dict(steps=4, batch_size=8, embed_dim=16, depth=1, num_heads=2, threads=1),
    "finetune": dict(steps=2, batch_size=10, embed_dim=16, depth=1, num_heads=2, threads=1),
}


class Made(NamedTuple):
    """A demo that was run: its folder, what it returned and what it printed."""

    out: Path
    result: dict
    printed: str


@pytest.fixture(scope="module")
def short_demo(few_digits):
    def load(task, name, overrides=None):
        return load_recipe(task, name, {**(overrides or {}), **SHORT[task]})

    with pytest.MonkeyPatch.context() as patch:
        for module in (demo, studies):
            patch.setattr(module, "load_recipe", load)
        patch.setattr(demo, "FINETUNE_STEPS", {20: 2, 40: 2})
        patch.setattr(demo, "SEEDS", (0, 1))
        yield


@pytest.fixture(scope="module")
def made(short_demo, tmp_path_factory) -> Made:
    """Not to be changed."""
    out, printed = tmp_path_factory.mktemp("made") / "demo", io.StringIO()
    with contextlib.redirect_stdout(printed):
        result = demo.demo(out)
    return Made(out, result, printed.getvalue())


def test_the_demo_leaves_runs_a_picture_and_its_figures(made):
    out, result, printed = made
    assert (out / "reconstruction.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "finetune-40" / "labels-40-pretrained-1" / "checkpoints" / "latest").exists()
    saved = json.loads((out / "demo.json").read_text())
    assert saved["knn"] == result["knn"] and set(result["knn"]) == {"random", "pretrained"}
    for labels in (20, 40):
        for name in ("scratch", "pretrained"):
            assert len(result["finetune"][labels][name]) == 2
        assert f"fine-tuned, {labels} labels" in printed
    page = out / "pretrain" / "report.html"
    assert f"the report, a page to open in a browser: {page}" in printed
    rows = json.loads(page.with_suffix(".json").read_text())["runs"][0]["results"]
    assert [row["title"] for row in rows if row["task"] == "finetune"] == [
        "fine-tuned, 20 labels",
        "fine-tuned, 40 labels",
    ]
    assert all({"pretrained", "scratch"} == set(row["starts"]) for row in rows if row["task"] == "finetune")
    assert f"{result['knn']['random']:.1%}" in printed


def test_scratch_and_pretrained_differ_in_nothing_but_the_start(made):
    runs = [made.out / "finetune-20" / f"labels-20-{name}-0" for name in ("scratch", "pretrained")]
    recipes = [read_yaml(run / "recipe.yaml") for run in runs]
    assert recipes[0] != recipes[1]
    for recipe in recipes:  # a pretrained run's shape and statistics are those of its weights
        for key in ("init", "model", "mean", "std"):
            del recipe[key]
    assert recipes[0] == recipes[1]
    models = [json.loads((find_checkpoint(str(run)) / "model.json").read_text()) for run in runs]
    for key in ("architecture", "mean", "std", "eval_crop_ratio"):
        assert models[0][key] == models[1][key], key


@pytest.mark.slow
def test_a_second_demo_replaces_the_first_only_when_asked(made, tmp_path):
    out = tmp_path / "demo"
    shutil.copytree(made.out, out)
    with pytest.raises(ValueError, match="already holds a run"):
        demo.demo(out)
    (out / "demo.json").unlink()
    demo.demo(out, overwrite=True)
    assert (out / "demo.json").exists()
