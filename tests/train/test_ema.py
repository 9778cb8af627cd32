"""The weights' average: as the formula says, in checkpoints, over resumes, and where it is looked at."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlemae.recipe import load_recipe
from paddlemae.tasks.finetune import finetune
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint_folders import find_checkpoint
from paddlemae.train.ema import Ema
from paddlemae.weights.model_folder import read_tensor_file, read_tensors

SHORT = ["init=scratch", "labels=40", "batch_size=10", "steps=6", "embed_dim=16", "depth=2", "num_heads=2"]


def tuned(out: Path, *overrides: str, **settings) -> dict:
    recipe = load_recipe("finetune", "digits", [*SHORT, "eval_split=val", "evaluate_every=99", *overrides])
    return finetune(recipe, Start(out, quiet=True, **settings))


def test_it_follows_the_weights() -> None:
    model = nn.Linear(3, 2)
    model.bias.stop_gradient = True
    ema, expected = Ema(model, 0.9), model.weight.numpy().astype(np.float64)
    for seed in range(5):
        weights = np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32)
        model.weight.set_value(weights)
        ema.update(model)
        expected = 0.9 * expected + 0.1 * weights
    np.testing.assert_allclose(ema.weights["weight"].numpy(), expected, rtol=1e-5, atol=1e-7)
    assert list(ema.weights) == ["weight"], "what is frozen needs no average"
    with ema.applied(model):
        np.testing.assert_array_equal(model.weight.numpy(), ema.weights["weight"].numpy())
    np.testing.assert_array_equal(model.weight.numpy(), weights)


def test_the_own_weights_come_back_after_an_error() -> None:
    model = nn.Linear(3, 2)
    ema, before = Ema(model, 0.5), model.weight.numpy()
    model.weight.set_value(before + 1)
    with pytest.raises(RuntimeError), ema.applied(model):
        raise RuntimeError
    np.testing.assert_array_equal(model.weight.numpy(), before + 1)


def test_what_is_saved_and_evaluated_is_the_average(tmp_path: Path) -> None:
    tuned(tmp_path / "plain")
    tuned(tmp_path / "ema", "ema_decay=0.8")
    plain, ema = (find_checkpoint(tmp_path / name) for name in ("plain", "ema"))
    own, averaged, without = read_tensor_file(ema / "own.safetensors"), read_tensors(ema), read_tensors(plain)
    assert all((own[name] == without[name]).all() for name in own), "the average doesn't touch training"
    assert np.abs(averaged["head.weight"] - own["head.weight"]).max() > 1e-4
    assert not (plain / "own.safetensors").exists()
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("plain", "ema")]
    assert results[0]["eval_loss"] != results[1]["eval_loss"]


def test_it_resumes_bitwise(tmp_path: Path) -> None:
    settings = ("ema_decay=0.8", "checkpoint_every=0.5", "keep_checkpoints=9")  # two of the four steps of an epoch
    tuned(tmp_path / "whole", *settings)
    tuned(tmp_path / "again", *settings)
    folder = tmp_path / "again/checkpoints"
    steps = sorted(path.name for path in folder.glob("step_*"))
    assert len(steps) == 3
    (folder / "latest").write_text(steps[0] + "\n")
    tuned(tmp_path / "again", *settings, resume=True)
    for file in ("own.safetensors", "model.safetensors"):
        whole, again = (read_tensor_file(find_checkpoint(tmp_path / name) / file) for name in ("whole", "again"))
        assert all((whole[name] == again[name]).all() for name in whole), file


def test_a_decay_of_nothing_is_the_weights_themselves() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model, 0.0)
    model.weight.set_value(paddle.ones([2, 2]))
    ema.update(model)
    assert (ema.weights["weight"].numpy() == 1).all()
