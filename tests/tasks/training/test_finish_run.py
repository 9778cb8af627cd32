"""The end of a training: what it says of a classifier that has learned nothing, and which weights are tested."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from paddlemae.recipe import load_recipe
from paddlemae.runs.class_metrics import Answers
from paddlemae.runs.class_results import class_result
from paddlemae.runs.runlog import read_metrics
from paddlemae.tasks.evaluate import evaluate
from paddlemae.tasks.finetune import finetune
from paddlemae.tasks.training.finish_run import advice_on, gap_of
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint_folders import find_checkpoint

LABELS = np.array([0] * 6 + [1] * 2 + [2] * 2)


def result_of(predicted: list[int], primary: str) -> dict:
    answers = Answers(3, LABELS, np.array(predicted))
    return {**class_result(answers, ["free", "crack", "fray"], primary), "eval_images": 10}


@pytest.mark.parametrize(
    ("predicted", "primary", "fault"),
    [
        ([0] * 10, "top1", "all 10 test images were taken for one class, 'free'"),
        ([1] * 10, "balanced_accuracy", "all 10 test images were taken for one class, 'crack'"),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "top1", "accuracy 60.0% is not above the 60.0% of naming the commonest class"),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "balanced_accuracy", "balanced accuracy 33.3% is not above the 33.3%"),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "macro_f1", "balanced accuracy 33.3% is not above the 33.3%"),
        ([0, 0, 0, 1, 1, 1, 1, 1, 2, 2], "balanced_accuracy", None),
        ([0, 0, 0, 0, 0, 0, 0, 1, 0, 0], "top1", None),
    ],
)
def test_who_learned_nothing_hears_what_to_try(predicted: list[int], primary: str, fault: str | None) -> None:
    advice = advice_on(result_of(predicted, primary), "finetune")
    if fault is None:
        assert advice is None
        return
    assert advice is not None and fault in advice and "\n" not in advice
    assert "class_weights=balanced" in advice and "token=mean" in str(advice_on(result_of([0] * 10, "top1"), "probe"))


def test_a_test_part_that_is_much_harder_than_the_validation_part_is_said() -> None:
    result = {"primary": "top1", "top1": 0.34, "best_top1": 0.94, "intervals": {"top1": [0.27, 0.41]}}
    result |= {"validation_images": 79}
    line = gap_of(result)
    assert line is not None and "94.0%" in line and "34.0%" in line and "group" in line
    assert gap_of({**result, "best_top1": 0.5}) is None
    assert gap_of({**result, "validation_images": 10}) is None
    assert gap_of({name: value for name, value in result.items() if name != "best_top1"}) is None


@pytest.fixture
def recipe(encoder, colours):
    def build(*overrides: str):
        quick = ["threads=1", "log_every=1", "batch_size=8", "warmup_epochs=0", "epochs=4", "evaluate_every=0.4"]
        return load_recipe("finetune", None, [f"data={colours}", "init=scratch", *encoder, *quick, *overrides])

    return build


@pytest.mark.parametrize("more", [(), ("ema_decay=0.5",)])
def test_a_run_is_tested_with_its_best_weights(recipe, colours: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    """The lr is so high that the last weights are not the best ones."""
    run = tmp_path / "run"
    result = finetune(recipe("base_lr=3", "min_lr=3", *more), Start(run, quiet=True))
    curve = {line["step"]: (line["top1"], -line["eval_loss"]) for line in read_metrics(run) if "top1" in line}
    best = max(curve, key=lambda step: (curve[step], -step))
    assert (result["best_step"], result["best_top1"]) == (best, curve[best][0]) and best < max(curve)
    found = evaluate(str(run), str(colours), threads=1)
    assert found["checkpoint"] == f"step_{best:08}" == find_checkpoint(run).name
    same = ("top1", "balanced_accuracy", "macro_f1", "auroc", "primary", "intervals", "majority", "per_class")
    assert {name: found[name] for name in same if name != "intervals"} == {
        name: result[name] for name in same if name != "intervals"
    }
    assert found["eval_loss"] == pytest.approx(result["eval_loss"], rel=1e-6)
    last = evaluate(str(run / "checkpoints" / "latest"), str(colours), threads=1)
    assert last["checkpoint"] != found["checkpoint"] and last["eval_loss"] != found["eval_loss"]


def test_a_run_that_ends_before_its_test_is_tested_when_it_is_resumed(recipe, tmp_path: Path, monkeypatch) -> None:
    from paddlemae.tasks.training import finish_run

    chosen = recipe("base_lr=3", "min_lr=3")
    whole = finetune(chosen, Start(tmp_path / "whole", quiet=True))

    def killed(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(finish_run, "replace_text", killed)
    with pytest.raises(MemoryError):
        finetune(chosen, Start(tmp_path / "parts", quiet=True))
    monkeypatch.undo()
    assert finetune(chosen, Start(tmp_path / "parts", quiet=True)) == whole
    assert json.loads((tmp_path / "parts" / "result.json").read_text()) == whole


def test_without_a_validation_part_the_last_step_counts_and_nothing_is_chosen(recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = finetune(recipe("validation=0"), Start(run, quiet=True))
    assert "best_top1" not in result and result["best_step"] == result["steps"] == 12
    assert not [line for line in read_metrics(run) if "top1" in line], "the test part is evaluated once, at the end"
    assert not (run / "checkpoints" / "best").exists()


def test_a_damaged_best_checkpoint_is_said_and_the_last_one_tested(recipe, tmp_path: Path, monkeypatch) -> None:
    from paddlemae.tasks.training import best_weights

    def damaged(*arguments: object, **settings: object) -> None:
        raise ValueError("step_00000003 is damaged")

    monkeypatch.setattr(best_weights, "check_intact", damaged)
    with pytest.warns(UserWarning, match="is damaged; the weights of the last step are tested instead"):
        finetune(recipe(), Start(tmp_path / "run", quiet=True))


def test_the_best_checkpoint_is_taken_only_if_validation_images_chose_it(recipe, colours, tmp_path: Path) -> None:
    """`validation=test` is how runs of earlier versions are read."""
    run = tmp_path / "run"
    finetune(recipe("base_lr=3", "min_lr=3", "validation=test"), Start(run, quiet=True))
    best = (run / "checkpoints" / "best").read_text().strip()
    assert best != find_checkpoint(run).name == "step_00000012"
    assert find_checkpoint(run / "checkpoints" / "best").name == best
    shutil.rmtree(run / "checkpoints" / best)
    assert find_checkpoint(run).name == "step_00000012"
