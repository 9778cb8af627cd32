"""Optimizer state shared out among ranks by Paddle's group sharding: the same training, a checkpoint that is whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddlemae.recipe import load_recipe
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.start import Start

SCRIPT = Path(__file__).parent / "sharding_at_work.py"
SECONDS = 180


@pytest.fixture(scope="module")
def facts(tmp_path_factory) -> list[dict]:
    out = tmp_path_factory.mktemp("sharding")
    launch = [sys.executable, "-W", "ignore", "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    words = [*launch, "--log_dir", str(out / "logs"), str(SCRIPT), str(out)]
    done = subprocess.run(words, env={**os.environ, "GLOG_minloglevel": "2"}, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, (out / "logs" / "workerlog.0").read_text()[-3000:]
    return json.loads((out / "facts.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1], ids=["as they are", "clipped and recomputed"])
def test_the_training_is_that_of_one_process_also_when_resumed(facts, number: int) -> None:
    found = facts[number]
    assert len(found["lines"]) == 7
    for line, alone in zip(found["lines"], found["lines_alone"], strict=True):
        assert line == pytest.approx(alone, rel=1e-5)  # loss and norm of the whole gradient
    assert found["difference"] < 1e-4  # key biases, whose gradient is rounding alone, are in it


@pytest.mark.slow
def test_each_rank_keeps_its_part_of_the_slots_only(facts) -> None:
    for found in facts:
        assert sum(found["slots"]) == found["slots_alone"] and min(found["slots"]) > 0.3 * found["slots_alone"]


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("pretrain", ["accumulation_steps=2"], "sharding=optimizer goes with accumulation_steps=1"),
        ("pretrain", ["precision=float16"], "sharding=optimizer goes with .* float32 or bfloat16"),
        ("finetune", [], "sharding shares out the state of a pretraining"),
        ("probe", [], "sharding shares out the state of a pretraining"),
    ],
)
def test_what_can_not_be_shared_out_is_refused(task: str, settings: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(task, None, ["sharding=optimizer", *settings])


def test_one_process_and_cpus_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe("pretrain", "digits", ["sharding=optimizer", "steps=1"])
    with pytest.raises(
        ValueError, match=r"sharding=optimizer needs several accelerators \(--procs\); leave it out here"
    ):
        pretrain(recipe, Start(tmp_path / "run", quiet=True))
    assert not (tmp_path / "run").exists()
