"""Training state shared out among ranks by Paddle's group sharding: the same training, a checkpoint that is whole."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from paddlemae.recipe import load_recipe
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint_folders import find_checkpoint
from tests.support.paths import ROOT

SCRIPT = ROOT / "tests" / "support" / "zero2_ranks.py"
SECONDS = 400


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """Where the script left what it found."""
    out = tmp_path_factory.mktemp("sharding")
    launch = [sys.executable, "-W", "ignore", "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    words = [*launch, "--log_dir", str(out / "logs"), str(SCRIPT), str(out)]
    done = subprocess.run(words, env={**os.environ, "GLOG_minloglevel": "2"}, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, (out / "logs" / "workerlog.0").read_text()[-3000:]
    return out


@pytest.fixture(scope="module")
def facts(out: Path) -> list[dict]:
    return json.loads((out / "facts.json").read_text())


def course(found: dict) -> str:
    first, then, settings = found["course"]
    return f"{first}, then {then}, {settings}"


@pytest.mark.slow
def test_the_training_is_that_of_one_process_also_when_resumed(facts) -> None:
    assert len(facts) == 5
    for found in facts:
        assert len(found["lines"]) == 9, course(found)
        for line, alone in zip(found["lines"], found["lines_alone"], strict=True):
            # loss and norm of the whole gradient
            assert line == pytest.approx(alone, rel=1e-5, nan_ok=True), course(found)
        # key biases, whose gradient is rounding alone, are in it
        assert found["difference"] < 1e-4, course(found)


@pytest.mark.slow
def test_steps_that_are_not_finite_were_among_them(facts) -> None:
    for found in facts:
        losses, norms = np.transpose(found["lines"])
        assert np.flatnonzero(np.isnan(losses)).tolist() == [5]
        assert np.flatnonzero(~np.isfinite(norms)).tolist() == [5, 7]


@pytest.mark.slow
def test_one_rank_can_look_at_the_model_in_between(facts) -> None:
    for found in facts:
        assert len(found["seen"]) == 2, course(found)
        assert max(found["seen"]) < 1e-6 + 1 / 255, course(found)  # a colour may be rounded to the next one


@pytest.mark.slow
def test_each_rank_keeps_its_part_only(facts) -> None:
    for found in facts:
        alone, ranks, then = found["held_alone"], found["held"], found["course"][1]
        weights, slots = ([one[name] / alone[name] for one in ranks] for name in ("weights", "slots"))
        if then == "optimizer":
            assert weights == [1, 1] and sum(slots) == 1 and min(slots) > 0.3


@pytest.mark.slow
def test_the_task_leaves_what_one_process_leaves(out: Path) -> None:
    runs = [out / name for name in ("both", "one")]
    both, one = (load_file(find_checkpoint(run) / "model.safetensors") for run in runs)
    assert set(both) == set(one)
    square = sum(float(np.square(both[name] - one[name]).sum()) for name in one)
    assert math.sqrt(square) < 1e-4 * math.sqrt(sum(float(np.square(tensor).sum()) for tensor in one.values()))

    def left(run: Path) -> Iterator[str]:
        return (str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())

    assert sorted(left(runs[0])) == sorted(left(runs[1]))
    assert "exhibits/reconstructions-step_00000000.jpg" in left(runs[0])


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("pretrain", ["sharding=optimizer", "accumulation_steps=2"], "sharding=optimizer requires accum.*_steps=1"),
        ("pretrain", ["sharding=optimizer", "precision=float16"], "sharding=optimizer .* float32 or bfloat16"),
        ("pretrain", ["sharding=parameters"], "sharding=parameters was removed; use sharding=optimizer"),
        ("finetune", ["sharding=optimizer"], "sharding is available in pretraining only"),
        ("probe", ["sharding=optimizer"], "sharding is available in pretraining only"),
    ],
)
def test_what_can_not_be_shared_out_is_refused(task: str, settings: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(task, None, settings)


def test_one_process_and_cpus_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe("pretrain", "digits", ["sharding=optimizer", "steps=1"])
    message = r"sharding=optimizer needs several accelerators \(--procs\); leave it out here"
    with pytest.raises(ValueError, match=message):
        pretrain(recipe, Start(tmp_path / "run", quiet=True))
    assert not (tmp_path / "run").exists()
