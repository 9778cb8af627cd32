"""A fine-tuning without a recipe: shape and statistics from its weights, the rest by the number of labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from paddlemae.recipe import load_recipe, open_names
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.training.run_start import Start, stored_recipe
from paddlemae.train.checkpoint_folders import find_checkpoint
from paddlemae.weights.model_folder import read_description

QUICK = ["steps=2", "threads=1"]


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory, tiny: list[str], photos: Path) -> Path:
    """Pretrain on one channel, images of 12 x 18 in patches of 6, with statistics of its own."""
    shape = ["channels=1", "image_size=[12,18]", "patch_size=6", "mean=[0.3]", "std=[0.2]"]
    out = tmp_path_factory.mktemp("runs") / "grey"
    return pretrain(load_recipe("pretrain", None, [*tiny, *shape, f"data={photos}"]), Start(out, quiet=True))


@pytest.mark.parametrize("recipe", [[], ["cifar10"], ["digits"]])
def test_shape_channels_and_statistics_are_those_of_init(paddlemae, grey: Path, colours, tmp_path, recipe) -> None:
    out = tmp_path / "run"
    done = paddlemae("finetune", *recipe, "--init", grey, "--data", colours, "--out", out, *QUICK, "batch_size=8")
    assert done.status == 0 and "warning" not in done.err.lower(), done.err
    found, given = (read_description(find_checkpoint(run)) for run in (out, grey))
    assert (found.mean, found.std) == (given.mean, given.std) == ([0.3], [0.2])
    for name in ("image_size", "patch_size", "channels", "embed_dim", "depth"):
        assert found.architecture[name] == given.architecture[name]


def test_a_probe_takes_a_run_of_any_shape(paddlemae, grey: Path, colours, tmp_path) -> None:
    out = tmp_path / "run"
    done = paddlemae("probe", "cifar10", "--init", grey, "--data", colours, "--out", out, "steps=2", "--quiet")
    assert done.status == 0, done.err
    assert read_description(find_checkpoint(out)).mean == [0.3]


def test_a_shape_that_is_typed_counts(paddlemae, grey: Path, colours, tmp_path) -> None:
    out = tmp_path / "run"
    done = paddlemae(
        "finetune", "cifar10", "--init", grey, "--data", colours, "--out", out, *QUICK, "batch_size=8", "image_size=12"
    )
    assert done.status == 0, done.err
    assert read_description(find_checkpoint(out)).architecture["image_size"] == [12, 12]


def test_choices_are_stored_and_kept_on_resume(paddlemae: Callable, grey: Path, colours, tmp_path) -> None:
    out = tmp_path / "run"
    command = ["finetune", "--init", grey, "--data", colours, "--out", out, *QUICK]
    done = paddlemae(*command, "max_hours=1e-9")
    assert done.status == 75 and "chosen for" in done.out and "training.base_lr=" in done.out
    first = stored_recipe(out, "finetune")
    assert open_names(first) == () and first.training.batch_size == 32
    done = paddlemae(*command, "max_hours=1e-9")  # the same command continues
    assert done.status == 75 and "resuming it" in done.out and "chosen for" not in done.out
    assert stored_recipe(out, "finetune") == first
    assert paddlemae(*command, "base_lr=0.01").status == 2
    done = paddlemae("finetune", "--resume", "--out", out, "max_hours=null")
    assert done.status == 0 and "\\n" not in done.out and "\naccuracy" in done.out, done


def test_a_dry_run_gives_the_choices_with_their_reasons(paddlemae, grey: Path, colours, untried) -> None:
    done = paddlemae("finetune", "--init", grey, "--data", colours, "--dry-run", "layer_decay=0.5")
    assert done.status == 0, done.err
    assert "21 labelled images)" in done.out and "(1,500 steps of 32" in done.out
    assert done.out.count("base_lr:") == 1 and "layer_decay: 0.5" in done.out
    assert "images of 12 x 18 x 1, patches of 6 x 6" in done.out


def test_a_run_of_another_recipe_is_not_continued(paddlemae, grey: Path, colours, tmp_path) -> None:
    out = tmp_path / "run"
    command = ["finetune", "--init", grey, "--data", colours, "--out", out, *QUICK]
    assert paddlemae(*command, "max_hours=1e-9").status == 75
    done = paddlemae(*command, "labels=6")
    assert done.status == 2 and done.err.count("\n") == 1
    assert paddlemae(*command, "labels=6", "--overwrite").status == 0
