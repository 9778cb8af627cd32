"""Unequal classes: weights in the loss, or more views of the rarer ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml

from paddlemae.recipe import load_recipe
from paddlemae.runs.runlog import read_metrics
from paddlemae.tasks.finetune import finetune
from paddlemae.tasks.training.class_balance import balanced_order, class_weights, epoch_of, unequal_views
from paddlemae.tasks.training.finetuning_loss import soft_targets, weighted_cross_entropy
from paddlemae.tasks.training.finetuning_setup import prepare
from paddlemae.tasks.training.labelled_splits import open_labelled_splits
from paddlemae.tasks.training.run_start import Start, stored_recipe
from tests.support.pictures import COLOURS, write_png

QUICK = ["threads=1", "log_every=1", "batch_size=8", "epochs=2", "warmup_epochs=0.1"]
COUNTS = {"red": 12, "green": 3, "blue": 1}


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("unequal")
    for place, (name, count) in enumerate(COUNTS.items()):
        for part, images in (("train", count), ("test", 2)):
            for number in range(images):
                write_png(
                    root / part / name / f"{number}.png", COLOURS[name], 100 * place + number + 50 * (part == "test")
                )
    return root


@pytest.fixture
def recipe(encoder, unequal: Path):
    def build(*overrides: str):
        return load_recipe("finetune", None, [f"data={unequal}", "init=scratch", *encoder, *QUICK, *overrides])

    return build


def test_balanced_order_has_all_images_and_as_many_of_each_class() -> None:
    labels = np.array([0, 2, 0, 0, 2, 0, 1, 0, 0, 0])  # 7, 1, 2
    order = balanced_order(labels, seed=3)
    assert set(order) == set(range(10)) and np.bincount(labels[order]).tolist() == [7, 7, 7]
    times = np.bincount(order)
    assert sorted(times[labels == 2]) == [3, 4] and set(times[labels == 0]) == {1}
    assert (order == balanced_order(labels, seed=3)).all()
    drawn = [tuple(balanced_order(np.repeat([0, 1], [5, 3]), seed=seed)) for seed in range(9)]
    assert len(set(drawn)) > 1


def test_a_class_without_images_is_not_in_the_order() -> None:
    assert balanced_order(np.array([0, 2, 2]), seed=0).tolist() == [0, 0, 1, 2]


def test_unequal_classes_are_found() -> None:
    assert unequal_views(np.array([0] * 6 + [1] * 2 + [3] * 3)) == 18
    assert unequal_views(np.array([0] * 5 + [1] * 2)) is None


def test_unequal_classes_are_sampled_alike_without_being_asked(recipe, tmp_path: Path) -> None:
    result = finetune(recipe(), Start(tmp_path / "run", quiet=True))
    assert result["steps"] == 9 and stored_recipe(tmp_path / "run", "finetune").sampling == "balanced"
    finetune(recipe("sampling=null"), Start(tmp_path / "plain", quiet=True))
    assert stored_recipe(tmp_path / "plain", "finetune").sampling is None


def test_a_run_of_a_version_without_sampling_is_resumed_without(recipe, tmp_path: Path) -> None:
    from paddlemae.system.signals import Preempted

    out = tmp_path / "run"
    with pytest.raises(Preempted):
        finetune(recipe("sampling=null", "max_hours=1e-9"), Start(out, quiet=True))
    content = yaml.safe_load((out / "recipe.yaml").read_text())
    del content["sampling"], content["class_weights"], content["training"]["max_hours"]
    (out / "recipe.yaml").write_text(yaml.safe_dump(content))
    assert finetune(stored_recipe(out, "finetune"), Start(out, quiet=True, resume=True))["steps"] == 4
    assert stored_recipe(out, "finetune").sampling is None


def test_weights_are_inversely_proportional_with_a_mean_of_one(recipe) -> None:
    chosen = recipe("class_weights=balanced")
    train = open_labelled_splits(chosen, chosen.data).train
    weights = class_weights(chosen, train)
    counts = np.bincount(train.labels)
    assert train.classes == ("blue", "green", "red") and counts.tolist() == [1, 3, 12]
    np.testing.assert_allclose(weights * counts, 16 / 3, rtol=1e-6)
    assert weights[train.labels].mean() == pytest.approx(1)
    given = class_weights(recipe("class_weights=[8,2,1]"), train)
    np.testing.assert_allclose(given, np.array([8, 2, 1]) * 16 / 26, rtol=1e-6)
    both = class_weights(recipe("class_weights=[8,2,1]", "sampling=balanced"), train)
    np.testing.assert_allclose(both, np.array([8, 2, 1]) * 3 / 11, rtol=1e-6)
    assert class_weights(recipe(), train) is None and epoch_of(recipe(), train) is None


def test_a_wrong_number_of_weights_is_one_line(recipe, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="a weight for each of the 3 classes, in the order blue, green, red; got 2"
    ) as fault:
        finetune(recipe("class_weights=[1,2]"), Start(tmp_path / "run", quiet=True))
    assert "\n" not in str(fault.value) and not (tmp_path / "run").exists()


def test_the_weighted_loss_is_pytorchs_and_has_its_gradient() -> None:
    """mean(-sum(w * t * log softmax(x))); its gradient is (sum(w * t) * softmax(x) - w * t) / images."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 3)).astype(np.float32)
    weights = np.array([0.5, 1, 3], np.float32)
    targets = soft_targets(np.array([0, 2, 1, 2, 2]), 3, 0.1)
    x = paddle.to_tensor(logits, stop_gradient=False)
    loss = weighted_cross_entropy(x, targets, weights)
    loss.backward()
    weighted = targets.numpy() * weights
    likelihood = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert loss.item() == pytest.approx(-(weighted * np.log(likelihood)).sum(axis=1).mean(), rel=1e-5)
    gradient = (weighted.sum(axis=1, keepdims=True) * likelihood - weighted) / 5
    np.testing.assert_allclose(x.grad.numpy(), gradient, atol=1e-6)
    plain = paddle.nn.functional.cross_entropy(paddle.to_tensor(logits), targets, soft_label=True)
    assert weighted_cross_entropy(x, targets, np.ones(3, np.float32)).item() == pytest.approx(plain.item(), rel=1e-5)


def test_the_loss_of_a_training_is_weighted(recipe, tmp_path: Path) -> None:
    """With the weights of one class near zero, its images teach nothing."""
    chosen = ["base_lr=0.3", "class_weights=[1,1,1e-6]", "epochs=30", "label_smoothing=0"]
    finetune(recipe(*chosen), Start(tmp_path / "run", quiet=True))
    parts = prepare(recipe(*chosen))
    assert parts.class_weights is not None and parts.class_weights[2] < 1e-4
    losses = [line["loss"] for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert len(losses) == 60 and np.isfinite(losses).all()


def test_balanced_sampling_makes_longer_epochs_that_resume(recipe, tmp_path: Path) -> None:
    """36 views an epoch in place of 16; a stopped run continues with the same views."""
    from paddlemae.system.signals import Preempted

    chosen = ["sampling=balanced", "mixup=0.5"]
    whole = finetune(recipe(*chosen), Start(tmp_path / "whole", quiet=True))
    assert whole["steps"] == 9 and whole["train_images"] == 16
    with pytest.raises(Preempted):
        finetune(recipe(*chosen, "max_hours=1e-9"), Start(tmp_path / "parts", quiet=True))
    finetune(recipe(*chosen), Start(tmp_path / "parts", quiet=True, resume=True))
    losses = [[line["loss"] for line in read_metrics(tmp_path / run) if "loss" in line] for run in ("whole", "parts")]
    assert losses[0] == losses[1] and len(losses[0]) == 9


def test_repeated_images_are_cached_once(recipe, tmp_path: Path) -> None:
    cached = recipe("sampling=balanced", f"cache={tmp_path / 'cache'}")
    result = finetune(cached, Start(tmp_path / "run", quiet=True))
    assert result["steps"] == 9
    plain = finetune(recipe("sampling=balanced"), Start(tmp_path / "plain", quiet=True))
    assert plain["steps"] == 9 and len(list((tmp_path / "cache").iterdir())) >= 1
