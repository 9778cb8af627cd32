"""Studies: every run once, a table and a curve; and each run is what `finetune` alone makes of its settings."""

import json
from pathlib import Path

import pytest

from paddlemae.recipe import load_recipe, parse_overrides
from paddlemae.system.signals import CTRL_C
from paddlemae.tasks.finetune import finetune
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.study import Study, spread, study, table
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.stopping import Stop

SMALL = ("embed_dim=16", "depth=2", "num_heads=2")
SHORT = ("steps=2", "batch_size=10", "eval_split=val", *SMALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory, few_digits) -> str:
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    recipe = load_recipe("pretrain", "digits", ["steps=1", "batch_size=8", *SMALL])
    pretrain(recipe, Start(folder, quiet=True))
    return str(folder)


def plan_of(run: str, key: str, values: tuple, **changes) -> Study:
    overrides = parse_overrides(changes.pop("overrides", SHORT))
    chosen = {text: parse_overrides([f"{key}={text}"])[key] for text in values}
    return Study(
        **{**dict(recipe="digits", overrides=overrides, key=key, values=chosen, seeds=(0, 1), init=run), **changes}
    )


@pytest.mark.usefixtures("rendered_figures")
def test_every_start_value_and_seed_is_run_once(run: str, tmp_path: Path, monkeypatch, capsys) -> None:
    plan = plan_of(run, "labels", ("20", "50"), scratch=True)
    result = study(plan, tmp_path / "study", finetune)
    assert capsys.readouterr().out.count("accuracy") == 8
    assert {name: {value: len(seeds) for value, seeds in by.items()} for name, by in result["top1"].items()} == {
        "pretrained": {"20": 2, "50": 2},
        "scratch": {"20": 2, "50": 2},
    }
    assert json.loads((tmp_path / "study/study.json").read_text()) == result
    assert (tmp_path / "study/study.png").stat().st_size > 5000
    alone = finetune(
        load_recipe("finetune", "digits", [*SHORT, f"init={json.dumps(run)}", "labels=50", "seed=1"]),
        Start(tmp_path / "alone", quiet=True),
    )
    assert result["top1"]["pretrained"]["50"][1] == alone["top1"]

    runs: list = []

    def counted(recipe, start, beside) -> dict:
        runs.append(start.out.name)
        return {"top1": 0.5}

    again = study(plan_of(run, "labels", ("20", "50", "100"), scratch=True), tmp_path / "study", counted, quiet=True)
    assert sorted(runs) == sorted(f"labels-100-{name}-{seed}" for name in ("pretrained", "scratch") for seed in (0, 1))
    assert again["top1"]["pretrained"]["20"] == result["top1"]["pretrained"]["20"]
    runs.clear()
    study(plan_of(run, "labels", ("20",), overrides=(*SHORT, "base_lr=1e-3")), tmp_path / "study", counted, quiet=True)
    assert len(runs) == 2, "other settings are other runs"


def test_labels_can_be_a_share_or_a_number_a_class(run: str, tmp_path: Path) -> None:
    study(plan_of(run, "labels", ("10%", "2/class"), seeds=(0,)), tmp_path / "study", finetune, quiet=True)
    counts = {
        folder.name: json.loads((folder / "result.json").read_text())["train_images"]
        for folder in (tmp_path / "study").iterdir()
        if folder.is_dir()
    }
    assert counts == {"labels-10%-pretrained-0": 60, "labels-2-per-class-pretrained-0": 20}


def test_a_run_that_was_stopped_resumes(run: str, tmp_path: Path, monkeypatch) -> None:
    whole = study(plan_of(run, "labels", ("20",)), tmp_path / "whole", finetune, quiet=True)
    asked = iter([False, True])  # in the middle of the first run

    def is_set(stop: Stop) -> bool:
        stop.reason = CTRL_C if next(asked, False) else None
        return stop.reason is not None

    monkeypatch.setattr(Stop, "is_set", is_set)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 1 of 2"):
        study(plan_of(run, "labels", ("20",)), tmp_path / "parts", finetune, quiet=True)
    seen: list[Start] = []

    def watched(recipe, start, beside) -> dict:
        seen.append(start)
        return finetune(recipe, start, beside)

    assert study(plan_of(run, "labels", ("20",)), tmp_path / "parts", watched, quiet=True)["top1"] == whole["top1"]
    assert len(seen) == 2 and not any(start.overwrite for start in seen)


def test_blocks_can_be_varied(run: str, tmp_path: Path) -> None:
    result = study(plan_of(run, "trainable_blocks", ("0", "0.5", "2"), seeds=(0,)), tmp_path, finetune, quiet=True)
    assert list(result["top1"]["pretrained"]) == ["0", "0.5", "2"]


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("labels", (), "a study needs at least one value and one seed"),
        ("lables", ("10",), "did you mean 'labels'"),
        ("labels", ("10", "many"), "labels"),
    ],
)
def test_mistakes_are_found_before_the_first_run(run: str, tmp_path: Path, key: str, values, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(plan_of(run, key, values), tmp_path / "study", finetune, quiet=True)
    assert not (tmp_path / "study").exists()


def test_the_table_shows_mean_and_deviation() -> None:
    assert spread([0.5, 0.7]) == "60.0% ± 14.1%" and spread([0.5]) == "50.0%"
    values = {"pretrained": {"10": [0.5]}, "scratch": {"10": [0.25]}}
    result = {"key": "labels", "primary": "macro_f1", "macro_f1": values}
    lines = ["| labels, macro F1 | pretrained | scratch |", "|---|---:|---:|", "| 10 | 50.0% | 25.0% |"]
    assert table(result).splitlines() == lines
    compared = {**result, "primary": "top1", "top1": values, "majority": {"class": "a", "top1": 0.3}}
    assert table(compared).splitlines()[-1] == "| always the commonest class | 30.0% | 30.0% |"
