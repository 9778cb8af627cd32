"""Trainings with precision=bfloat16 on a CPU: near float32's, the same in parts, in threads and after a resume."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemae.data.batches import Batch
from paddlemae.engine import precision
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.masking import random_mask
from paddlemae.recipe import load_recipe
from paddlemae.runs.runlog import read_metrics
from paddlemae.tasks.finetune import finetune
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.segment import segment
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.ema import Ema
from paddlemae.train.loop import FitSettings, fit
from paddlemae.train.optim import adamw
from tests.support.bfloat16 import needs_avx512
from tests.support.coloured_scenes import write_scenes
from tests.support.loss_curves import ALWAYS, CURVES
from tests.support.resumed_runs import REPEATABLE, assert_same_run, stopped_and_resumed

pytestmark = [needs_avx512, pytest.mark.usefixtures("bfloat16_allowed")]
SHAPE = dict(image_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, decoder_embed_dim=8)
WEIGHTS_IN_PRODUCTS = 19  # of this model: four a block, the two embeddings and the prediction


def batch(images: int, seed: int = 0) -> Batch:
    pixels = np.random.default_rng(seed).integers(0, 256, (images, 3, 16, 16), np.uint8)
    return Batch(pixels, None, np.arange(images), np.zeros(images, np.int64))


def loss_fn(model, batch: Batch) -> paddle.Tensor:
    noise = np.stack([np.random.default_rng((1, index)).random(16) for index in batch.indices])
    return model(paddle.to_tensor(batch.images).astype("float32") / 255, random_mask(noise, 4))


def trained(
    threads: int | None, kind: str = "bfloat16", steps: int = 4, recompute: bool = False, **settings
) -> list[np.ndarray]:
    """Losses, weights and averages after some steps; the first one's gradient decides most of them."""
    paddle.seed(0)
    model, losses = MaskedAutoencoder(**SHAPE, decoder_depth=2, decoder_num_heads=2), []
    model.recompute = recompute
    state = TrainState(model, adamw(model), ema=Ema(model, 0.9))
    fit(
        state,
        (batch(6, seed) for seed in range(100)),
        loss_fn,
        lambda step: 1e-3,
        FitSettings(
            steps,
            threads=threads,
            precision=kind,
            after_step=[lambda state, result: losses.append(result.loss)],
            **settings,
        ),
    )
    assert all(parameter.dtype == paddle.float32 for parameter in model.parameters())
    return [np.array(losses), *(parameter.numpy() for parameter in model.parameters())]


def assert_equal(mine: list[np.ndarray], theirs: list[np.ndarray], least: float = 0.0) -> None:
    for one, other in zip(mine, theirs, strict=True):
        assert np.abs(one - other).max() <= least


@pytest.mark.parametrize("settings", [{}, {"accumulation_steps": 2}, {"clip_grad": 0.1}])
def test_losses_are_near_those_of_float32(settings: dict) -> None:
    mine, theirs = trained(2, **settings)[0], trained(2, "float32", **settings)[0]
    assert (mine != theirs).all()
    np.testing.assert_allclose(mine, theirs, rtol=5e-3)


def test_one_thread_is_the_whole_batch_and_repeats() -> None:
    first = trained(1)
    assert_equal(trained(1), first)
    assert_equal(trained(None), first, 1e-6)
    assert_equal(trained(2), trained(2))


@pytest.mark.parametrize("threads", [None, 2])
def test_recomputed_blocks_give_the_same(threads: int | None) -> None:
    assert_equal(trained(threads, recompute=True, save_memory=threads == 2), trained(threads), 1e-6)


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_a_weight_is_rounded_once_a_step(threads: int | None, monkeypatch) -> None:
    """For all micro-batches, passes and threads together."""
    convert, made = precision.convert, []

    def count(x: paddle.Tensor, dtype: object) -> paddle.Tensor:
        made.append(x.data_ptr())
        return convert(x, dtype)

    monkeypatch.setattr(precision, "convert", count)
    trained(threads, steps=3, accumulation_steps=2)
    assert len(made) == 3 * WEIGHTS_IN_PRODUCTS and len(set(made)) == WEIGHTS_IN_PRODUCTS


def test_a_step_that_is_dropped_leaves_nothing_behind() -> None:
    def broken(model, batch: Batch) -> paddle.Tensor:
        return loss_fn(model, batch) * (float("nan") if batch.images[0, 0, 0, 0] == BROKEN else 1.0)

    BROKEN = batch(6, 1).images[0, 0, 0, 0]
    paddle.seed(0)
    model, losses = MaskedAutoencoder(**SHAPE, decoder_depth=2, decoder_num_heads=2), []
    hooks = [lambda state, result: losses.append(result.loss)]
    settings = FitSettings(3, threads=1, precision="bfloat16", after_step=hooks)
    fit(TrainState(model, adamw(model)), (batch(6, seed) for seed in range(3)), broken, lambda step: 1e-3, settings)
    assert np.isnan(losses[1]) and np.isfinite([losses[0], losses[2]]).all()


LONGER = {  # than the recorded curves, so that the loss is a mean over many images
    "pretrain": ["steps=100", "batch_size=32", "warmup_epochs=0.1"],
    "finetune": ["labels=100", "steps=50", "batch_size=50", "warmup_epochs=5"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVES)
def test_digits_learn_as_in_float32(name: str, tmp_path: Path) -> None:
    task, settings = CURVES[name]
    ends = []
    for kind in ("float32", "bfloat16"):
        recipe = load_recipe(task, "digits", [*settings, *ALWAYS, *LONGER[task], f"precision={kind}"])
        (pretrain if task == "pretrain" else finetune)(recipe, Start(tmp_path / kind, quiet=True))
        losses = [line["loss"] for line in read_metrics(tmp_path / kind) if "loss" in line]
        ends.append(np.mean(losses[-10:]))
    assert ends[0] != ends[1]
    np.testing.assert_allclose(ends[1], ends[0], rtol=0.02)


def test_a_resumed_pretraining_is_the_same_to_the_bit(tmp_path, tiny, photos) -> None:
    fitted = ["batch_size=3", "accumulation_steps=2", "steps=8", "drop_path=0.3", "depth=2", "precision=bfloat16"]
    recipe = load_recipe("pretrain", None, [*tiny, *fitted, *REPEATABLE, f"data={photos}"])
    pretrain(recipe, Start(tmp_path / "whole", quiet=True))
    with pytest.MonkeyPatch.context() as patch:
        stopped_and_resumed(pretrain, recipe, tmp_path / "parts", [3, 2], patch)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("head", ["linear", "conv", "upernet"])
def test_segmentation_with_relative_positions(head: str, tmp_path, encoder) -> None:
    """Convolutions of heads stay float32."""
    scenes = write_scenes(tmp_path / "land", train=6, test=2)
    settings = ["threads=1", "log_every=1", "batch_size=4", "steps=3", "warmup_epochs=0.5", "epochs=3", "image_size=16"]
    settings += [f"data={scenes}", "init=scratch", f"head={head}", "relative_positions=true", "depth=4"]
    losses = []
    for kind in ("float32", "bfloat16"):
        recipe = load_recipe("segment", None, [*encoder, *settings, f"precision={kind}"])
        segment(recipe, Start(tmp_path / kind, quiet=True))
        losses.append([line["loss"] for line in read_metrics(tmp_path / kind) if "loss" in line])
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
