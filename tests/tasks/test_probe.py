"""Linear probing: against scikit-learn, cached and not, resumed, and as a user runs it."""

import json
import warnings
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlemae.model.probe import ProbeHead
from paddlemae.recipe import load_recipe
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.probe import dry_run, probe
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint_folders import find_checkpoint
from paddlemae.train.parallel.ranks import Ranks
from paddlemae.weights.model_folder import read_description, read_tensors


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short pretraining on digits."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    overrides = ["steps=30", "batch_size=32", "embed_dim=32", "depth=2", "num_heads=2"]
    pretrain(load_recipe("pretrain", "digits", overrides), Start(folder, quiet=True))
    return folder


def recipe_of(run: Path, *overrides: str):
    return load_recipe("probe", "digits", [f"init={json.dumps(str(run))}", "epochs=4", "warmup_epochs=1", *overrides])


def probed(run: Path, out: Path, *overrides: str, **settings) -> dict:
    return probe(recipe_of(run, *overrides), Start(out, quiet=True, **settings))


def test_several_processes_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="probing runs in one process; start it without a launcher"):
        probed(run, tmp_path / "probe", ranks=Ranks(world=2))
    assert not (tmp_path / "probe").exists()


def test_the_head_normalises_each_feature_as_paddles_layer_does() -> None:
    head, theirs = ProbeHead(5, 3), nn.BatchNorm1D(5, 0.9, 1e-6, weight_attr=False, bias_attr=False)
    mine = head.head[0]
    for seed in range(4):
        features = np.random.default_rng(seed).normal(seed, 1 + seed, (16, 5)).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs warns at every training step
            expected = theirs(paddle.to_tensor(features)).numpy()
        np.testing.assert_allclose(mine(paddle.to_tensor(features)).numpy(), expected, atol=2e-5)
        np.testing.assert_allclose(mine.running_mean.numpy(), theirs._mean.numpy(), rtol=1e-5, atol=1e-6)
    variances = [np.random.default_rng(k).normal(k, 1 + k, (16, 5)).astype(np.float32).var(0, ddof=1) for k in range(4)]
    running = np.ones(5)
    for variance in variances:  # PyTorch's; Paddle takes in the biased one
        running = 0.9 * running + 0.1 * variance
    np.testing.assert_allclose(mine.running_var.numpy(), running, rtol=1e-5, atol=1e-6)
    head.eval()
    probe_of = np.ones((2, 5), np.float32)
    expected = (probe_of - mine.running_mean.numpy()) / np.sqrt(running + 1e-6)
    np.testing.assert_allclose(mine(paddle.to_tensor(probe_of)).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert [name for name, _ in head.named_parameters()] == ["head.1.weight", "head.1.bias"]


def test_a_probe_leaves_a_result_a_head_and_a_line(run: Path, tmp_path: Path) -> None:
    result = probed(run, tmp_path / "probe", "token=mean", "epochs=20")
    assert 0.3 < result["top1"] < 1 and result["top5"] > result["top1"]
    assert json.loads((tmp_path / "probe/result.json").read_text()) == result
    tensors = read_tensors(find_checkpoint(tmp_path / "probe"))
    assert {name: one.shape for name, one in tensors.items()} == {
        "head.0.running_mean": (32,),
        "head.0.running_var": (32,),
        "head.1.weight": (10, 32),
        "head.1.bias": (10,),
    }
    description = read_description(find_checkpoint(tmp_path / "probe"))
    assert description.kind == "probe" and description.classes == list("0123456789")
    line = json.loads((run / "results.jsonl").read_text().splitlines()[-1])
    assert line["task"] == "probe" and line["top1"] == result["top1"]
    assert line["protocol"]["token"] == "mean" and line["protocol"]["cached"] is True
    assert (tmp_path / "probe/figures/confusion.png").exists()


def test_kept_features_give_the_same_as_recomputed_ones(run: Path, tmp_path: Path) -> None:
    """Without augmentation both see the same features in the same order, but for the last bits."""
    settings = ("labels=300", "batch_size=50", "eval_split=val", "train_split=fit")
    exact = probed(run, tmp_path / "exact", "cached=false", *settings)
    kept = probed(run, tmp_path / "kept", *settings)
    assert abs(exact["top1"] - kept["top1"]) <= 0.005
    assert exact["eval_loss"] == pytest.approx(kept["eval_loss"], rel=1e-3)


@pytest.mark.slow
def test_a_long_probe_comes_near_the_best_linear_classifier(run: Path, tmp_path: Path) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    from paddlemae.data.sources import open_source
    from paddlemae.tasks.models.build import load_encoder
    from paddlemae.tasks.models.features import labelled_features
    from paddlemae.tasks.models.inference import FeatureKind
    from paddlemae.tasks.models.read_model import read_checkpoint

    checkpoint = read_checkpoint(str(run))
    encoder = load_encoder(checkpoint)
    (known, labels, _), (asked, answers, _) = (
        labelled_features(encoder, checkpoint.description, open_source("digits", split), FeatureKind("mean"))
        for split in ("train", "test")
    )
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    judge = linear_model.LogisticRegression(max_iter=300).fit((known - mean) / deviation, labels)
    best = judge.score((asked - mean) / deviation, answers)
    mine = probed(run, tmp_path / "probe", "token=mean", "epochs=90", "warmup_epochs=10")
    assert mine["top1"] > best - 0.05


def test_it_resumes_bitwise(run: Path, tmp_path: Path, monkeypatch) -> None:
    settings = ("labels=200", "batch_size=20", "checkpoint_every=1", "keep_checkpoints=9", "evaluate_every=1")
    probed(run, tmp_path / "whole", *settings)
    probed(run, tmp_path / "again", *settings)
    pointer = tmp_path / "again/checkpoints/latest"
    steps = sorted(path.name for path in (tmp_path / "again/checkpoints").glob("step_*"))
    pointer.write_text(steps[1] + "\n")
    probed(run, tmp_path / "again", *settings, resume=True)
    whole, again = (read_tensors(find_checkpoint(tmp_path / name)) for name in ("whole", "again"))
    assert all((whole[name] == again[name]).all() for name in whole)


def test_frozen_means_frozen(run: Path, tmp_path: Path) -> None:
    before = read_tensors(find_checkpoint(run))
    probed(run, tmp_path / "probe", "cached=false", "labels=50", "batch_size=25")
    after = read_tensors(find_checkpoint(run))
    assert all((before[name] == after[name]).all() for name in before)


def test_a_dry_run_says_what_would_be_done(run: Path) -> None:
    plan = dry_run(recipe_of(run))
    assert plan["features"] == "32, cls token after the last block, norm: layer"
    assert plan["training images"].startswith("4000 from ")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init=none"], "probe needs --init RUN"),
        (["data=none"], "no images named; add --data FOLDER"),
        (["init=scratch"], "random=true"),
        (["init=nowhere"], "nowhere does not exist; expected a run folder"),
        (["layer=3"], "layer must be one of the encoder's 2 blocks, 1..2, got 3"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(run: Path, tmp_path: Path, overrides: list, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as fault:
        probed(run, tmp_path / "probe", *overrides)
    assert "\n" not in str(fault.value) and not (tmp_path / "probe").exists()


def test_a_probe_is_no_encoder(run: Path, tmp_path: Path) -> None:
    probed(run, tmp_path / "probe", "labels=50", "batch_size=25")
    with pytest.raises(ValueError, match="holds the head of a linear probe alone; name the run that it probed .*run"):
        probed(tmp_path / "probe", tmp_path / "second")


def test_overwriting_never_deletes_what_is_probed(run: Path) -> None:
    before = sorted(run.rglob("*"))
    for out in (run, run.parent):
        with pytest.raises(ValueError, match=r"--overwrite would delete .*, which --init starts from|holds no run"):
            probed(run, out, overwrite=True)
    assert sorted(run.rglob("*")) == before
