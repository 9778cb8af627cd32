"""A head that is fitted to frozen features before a fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from paddlemae.recipe import load_recipe
from paddlemae.tasks.finetune import finetune
from paddlemae.tasks.models.features import Labelled
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.training.head_fit import linear_classifier
from paddlemae.tasks.training.run_start import Start


def clouds(classes: int, each: int = 40, width: int = 6, seed: int = 0) -> Labelled:
    """Return features around one centre a class, on very different scales."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(0, 2, (classes, width))
    labels = np.repeat(np.arange(classes), each)
    scales = 10.0 ** np.arange(-2, width - 2)
    features = (centres[labels] + generator.normal(0, 1, (len(labels), width))) * scales + 5 * scales
    return Labelled(features.astype(np.float32), labels, np.arange(len(labels)))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("is_held", [False, True])
def test_head_is_the_logistic_regression_of_standardised_features(classes: int, is_held: bool) -> None:
    train, held = clouds(classes), clouds(classes, seed=1)
    head = linear_classifier(train, held if is_held else None, None)
    scaled = (train.features_ND - head.mean_F) / head.std_F
    logits = scaled @ head.weight_FK + head.bias_K
    assert logits.shape == (len(train.labels), classes)
    fits = [LogisticRegression(C=C, max_iter=200).fit(scaled, train.labels) for C in (0.001, 0.01, 0.1, 1.0)]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    found = odds / odds.sum(1, keepdims=True)
    assert min(np.abs(fit.predict_proba(scaled) - found).max() for fit in fits) < 1e-4
    assert (logits.argmax(1) == train.labels).mean() > 0.9


def test_rare_classes_count_as_much_where_they_are_to() -> None:
    both = clouds(2, each=200, width=2)
    rare = np.r_[0:200, 200:208]
    train = Labelled(both.features_ND[rare], both.labels[rare], rare)
    found = [
        (lambda head: ((train.features_ND - head.mean_F) / head.std_F @ head.weight_FK + head.bias_K).argmax(1).mean())(
            linear_classifier(train, both, weights)
        )
        for weights in (None, "balanced")
    ]
    assert found[0] < found[1]


def test_training_begins_with_the_fitted_head_and_keeps_it_if_nothing_is_better(
    tmp_path: Path, pretrained: Path, colours: Path, encoder: list[str]
) -> None:
    chosen = [*encoder, f"data={colours}", f"init={pretrained}", "batch_size=8", "threads=1", "validation=0.25"]
    recipe = load_recipe(
        "finetune", None, [*chosen, "steps=4", "base_lr=1e-9", "evaluate_every=1", "fit_head=true", "pool=mean+std"]
    )
    result = finetune(recipe, Start(tmp_path / "run", quiet=True))
    assert result["top1"] == 1.0 and result["steps"] == 4
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first = next(record for record in records if "top1" in record)
    assert first["step"] == 0 and first["top1"] == 1.0
    best = read_checkpoint(tmp_path / "run")
    assert best.description.architecture["pool"] == "mean+std" and best.tensors["fc_norm.weight"].std() > 0.1


def test_a_head_for_random_weights_is_not_fitted(tmp_path: Path, colours: Path, encoder: list[str]) -> None:
    chosen = [*encoder, f"data={colours}", "init=scratch", "fit_head=true", "steps=1", "batch_size=8", "threads=1"]
    with pytest.warns(UserWarning, match="fit_head has no effect"):
        finetune(load_recipe("finetune", None, chosen), Start(tmp_path / "run", quiet=True))
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(record["step"] > 0 for record in records)
