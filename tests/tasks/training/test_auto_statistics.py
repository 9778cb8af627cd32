"""`mean=auto std=auto`: found once, before a training, and kept with the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from paddlemae.data.inspect.statistics import channel_statistics
from paddlemae.recipe import load_recipe
from paddlemae.tasks.training import resolve
from paddlemae.tasks.training.pretraining_setup import open_inputs
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint_folders import find_checkpoint
from paddlemae.train.parallel.ranks import Ranks
from paddlemae.weights.model_folder import read_description
from tests.support.connected_ranks import close, meet, on_each
from tests.support.launched_jobs import run

AUTO = ["mean=auto", "std=auto"]


@pytest.fixture
def looked(monkeypatch) -> list[str]:
    """The sources that were looked at."""
    seen: list[str] = []

    def look(source, *arguments, **settings):
        seen.append(source.name)
        return channel_statistics(source, *arguments, **settings)

    monkeypatch.setattr(resolve, "channel_statistics", look)
    return seen


def numbers_of(out: Path) -> tuple[list[float], list[float]]:
    content = yaml.safe_load((out / "recipe.yaml").read_text())
    return content["mean"], content["std"]


def test_the_run_has_the_numbers_that_data_stats_prints(paddlemae, colours, tiny, tmp_path, looked) -> None:
    pasted = paddlemae("data", "stats", colours, "--quiet").out.split()
    expected = load_recipe("pretrain", None, pasted)
    out = tmp_path / "run"
    done = paddlemae("pretrain", *tiny, *AUTO, "--data", colours, "--out", out)
    assert done.status == 0 and f"{' '.join(pasted)} of 24 images, and in the run's recipe" in done.out, done
    assert "statistics 24/24" in done.err and len(looked) == 1
    assert numbers_of(out) == (list(expected.mean), list(expected.std))
    description = read_description(find_checkpoint(out))
    assert (description.mean, description.std) == numbers_of(out)


def test_a_stopped_run_resumes_with_its_numbers(paddlemae, colours, tiny, tmp_path, looked) -> None:
    """The same command, or a bare --resume; and with --overwrite they are measured again."""
    out = tmp_path / "run"
    command = ["pretrain", *tiny, *AUTO, "checkpoint_every=0.3", "--data", colours, "--out", out, "--quiet"]
    assert paddlemae(*command, "max_hours=1e-9").status == 75
    before = numbers_of(out)
    assert paddlemae(*command, "max_hours=1e-9").status == 75  # can be resumed, as its text says
    assert paddlemae("pretrain", "--resume", "--out", out, "--quiet", "max_hours=null").status == 0
    assert numbers_of(out) == before and len(looked) == 1
    assert paddlemae(*command).status == 2 and len(looked) == 1, "a finished run is refused before any look"
    assert paddlemae(*command, "--overwrite").status == 0 and len(looked) == 2


def test_a_run_without_them_is_not_gone_on_with(paddlemae, colours, tiny, tmp_path, looked) -> None:
    out = tmp_path / "run"
    plain = ["pretrain", *tiny, "--data", colours, "--out", out, "--quiet"]
    assert paddlemae(*plain, "max_hours=1e-9").status == 75
    done = paddlemae(*plain, *AUTO, "--resume")
    assert done.status == 2 and "a resume can't change mean None -> auto" in done.err and looked == []


def test_a_dry_run_looks_at_nothing(paddlemae, colours, tiny, looked, untried) -> None:
    done = paddlemae("pretrain", *tiny, *AUTO, "--data", colours, "--dry-run")
    assert done.status == 0 and "mean: auto" in done.out and looked == []
    assert "mean and std:     of 24 images, from a pass before training" in done.out


def test_fine_tuning_from_scratch_takes_those_of_its_training_images(
    paddlemae, colours, encoder, tmp_path, looked
) -> None:
    few = ["steps=1", "batch_size=4", "threads=1", "randaugment=2", "labels=6", "bits=8"]
    out = tmp_path / "run"
    done = paddlemae("finetune", *encoder, *few, *AUTO, "--init", "scratch", "--data", colours, "--out", out, "--quiet")
    assert done.status == 0 and looked == [f"6 of {colours}/train"], done
    description = read_description(find_checkpoint(out))
    assert (description.mean, description.std) == numbers_of(out)
    done = paddlemae("finetune", *encoder, *AUTO, "--init", out, "--data", colours, "--out", tmp_path / "other")
    assert done.status == 2 and "mean=auto requires init=scratch" in done.err and done.err.count("\n") == 1


def test_images_of_16_bits_need_no_warning(paddlemae, tiny, tmp_path, recwarn) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (8, 8, 8, 5), np.uint16)
    np.save(tmp_path / "bands.npy", values)
    out = tmp_path / "run"
    done = paddlemae("pretrain", *tiny, *AUTO, "channels=5", "--data", tmp_path / "bands.npy", "--out", out, "--quiet")
    assert done.status == 0 and "16 bits" not in done.err
    np.testing.assert_allclose(numbers_of(out)[0], values.mean(axis=(0, 1, 2)) / 65535, rtol=1e-5)


def test_mistakes_are_one_line_and_leave_nothing(paddlemae, colours, tiny, tmp_path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(8):
        Image.new("RGB", (8, 8), (number, 0, 9)).save(photos / f"{number}.png")
    for arguments, message in [
        (["mean=auto"], "mean=auto and std=auto must be set together"),
        (["std=auto", "mean=[0.5,0.5,0.5]"], "mean=auto and std=auto must be set together"),
        (AUTO, "channel 2, 3 is constant, and a recipe can't have a std of 0"),
    ]:
        done = paddlemae("pretrain", *tiny, *arguments, "--data", photos, "--out", tmp_path / "run", "--quiet")
        assert done.status == 2 and done.err.count("\n") == 1 and message in done.err, done
    assert not (tmp_path / "run").exists()


def test_one_process_looks_and_all_have_the_numbers(colours, tiny, tmp_path, looked) -> None:
    recipe = load_recipe("pretrain", None, [*AUTO, *tiny, f"data={colours}"])
    ranks = meet(2)

    def resolved(one: Ranks) -> tuple:
        run, _ = resolve.resolve(recipe, Start(tmp_path / "run", quiet=True, ranks=one), open_inputs)
        return run.recipe.mean

    found = on_each(ranks, resolved)
    close(ranks)
    assert found[0] == found[1] and len(found[0]) == 3 and len(looked) == 1


@pytest.mark.slow
def test_a_launch_of_two_trains_with_the_same_numbers(paddlemae, colours, tiny, tmp_path) -> None:
    out = tmp_path / "run"
    job = run(tmp_path, "pretrain", *tiny, *AUTO, "--data", colours, "--out", out, "--procs", 2)
    assert job.said.count("of 24 images, and in the run's recipe") == 1
    expected = load_recipe("pretrain", None, paddlemae("data", "stats", colours, "--quiet").out.split())
    assert numbers_of(out) == (list(expected.mean), list(expected.std))
