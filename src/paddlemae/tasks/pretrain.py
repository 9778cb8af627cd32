"""Pretrain a masked autoencoder on images without labels."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.data.batches import Batch
from paddlemae.engine.safe_import import paddle
from paddlemae.model.blocks import activations_of
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.masking import MASKS, num_predicted
from paddlemae.recipe import PretrainRecipe
from paddlemae.runs.figures import draw_curves
from paddlemae.runs.runlog import FIGURES, mark_finished, read_metrics
from paddlemae.system.signals import Preempted
from paddlemae.tasks.models.build import arguments_of, fit_shape, parameter_count
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.models.reconstruction import draw
from paddlemae.tasks.training.course import Course
from paddlemae.tasks.training.dry_run import schedule_plan, step_bytes
from paddlemae.tasks.training.exhibits import Snapshots, fixed_images, show_attention
from paddlemae.tasks.training.memory_trial import memory_plan
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.pretraining_loss import batch_mask, loss_function
from paddlemae.tasks.training.pretraining_setup import Parts, build, open_inputs, prepare
from paddlemae.tasks.training.resolve import resolve, statistics_plan
from paddlemae.tasks.training.run_start import Start, enter_run
from paddlemae.tasks.training.run_training import run_training
from paddlemae.tasks.training.skipped_images import open_skipped
from paddlemae.tasks.training.training_batches import training_batches
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.optim import adamw
from paddlemae.train.parallel.ranks import Ranks
from paddlemae.train.parallel.zero2 import ShardedAdamW


def pretrain(recipe: PretrainRecipe, start: Start) -> Path:
    """Pretrain as the recipe says and leave a run folder with its last checkpoints and figures.

    Returns:
        the run folder.
    Raises:
        ValueError, FileNotFoundError: a recipe, data or folder that can't be used; nothing is written then.
        KeyboardInterrupt, Preempted, NonFiniteLoss, OSError: training ended early; the text says what was kept.
    """
    with start.held():
        return _pretrain(recipe, start)


def _pretrain(recipe: PretrainRecipe, start: Start) -> Path:
    run, inputs = resolve(recipe, start, open_inputs)
    recipe = run.recipe
    parts = build(recipe, inputs)
    model = parts.model
    training = recipe.training
    state = TrainState(model, _optimizer_of(model, recipe, start.ranks))
    enter_run(run, state, parts.description)
    beginning = f" from {recipe.init}" if recipe.init else ""
    start.say(
        f"pretraining {parameter_count(model) / 1e6:.2f} million parameters{beginning} on {parts.source.name}, "
        f"{len(parts.source)} images"
    )
    skipped = open_skipped(start, state, [parts.source], parts.view.channels).of(parts.source, training.max_bad_images)
    course = Course("pretrain", training, len(parts.source))
    snapshots = snapshots_of(start.out, model, parts, recipe, course) if start.ranks.is_first else None
    if snapshots and not state.step:
        snapshots(state)
    batches = partial(training_batches, parts.source, parts.view, training, state, skipped, start)
    loss_fn = loss_function(recipe, parts.description)
    hooks = [snapshots] if snapshots else []
    try:
        run_training(start, course, state, parts.description, batches, loss_fn, hooks=hooks)
    except Preempted as end:
        if end.time_is_up and start.ranks.is_first:
            _draw(start, model, parts, snapshots)
        raise
    if start.ranks.is_first:
        _draw(start, model, parts, snapshots)
        mark_finished(start.out)
        start.say(f"done: {start.out}; see {start.out / FIGURES / 'reconstruction.png'}")
    return start.out


def _optimizer_of(model: MaskedAutoencoder, recipe: PretrainRecipe, ranks: Ranks) -> Any:
    training = recipe.training
    is_sharded = training.sharding == "optimizer"
    optimizer = adamw(
        model,
        weight_decay=training.weight_decay,
        betas=recipe.betas,
        decay_tokens=recipe.decay_tokens,
        grouped=not is_sharded,
    )
    return ShardedAdamW(model, optimizer, ranks) if is_sharded else optimizer


def _draw(start: Start, model: MaskedAutoencoder, parts: Parts, snapshots: Snapshots | None) -> None:
    """Draw the curves, reconstructions and attention of a training that ended, or whose time is up."""
    figures = start.out / FIGURES
    with optional("the curves"):
        names = ["loss", "lr", "images_per_second"]
        draw_curves(figures / "loss.png", list(read_metrics(start.out)), names, "pretraining")
    if snapshots:
        with optional("the reconstruction"):
            draw(figures / "reconstruction.png", model, parts.description, snapshots.images_u8, snapshots.mask)
        with optional("the attention maps"):
            show_attention(start.out, model, parts.description, snapshots.images_u8)


def snapshots_of(
    out: Path, model: MaskedAutoencoder, parts: Parts, recipe: PretrainRecipe, course: Course
) -> Snapshots | None:
    """Return a hook that draws the same images, under the masks of their first epoch; None if no image can be read."""
    fixed = fixed_images(parts.source, parts.description)
    if fixed is None:
        return None
    images_u8, indices = fixed
    batch = Batch(images_u8, None, indices, np.zeros_like(indices))
    mask = batch_mask(recipe.mask, recipe.mask_ratio, model.grid, recipe.training.seed, batch)
    return Snapshots(out, model, parts.description, images_u8, mask, course.total_steps, course.epoch(1))


def dry_run(recipe: PretrainRecipe, *, trust: bool = False) -> dict[str, str]:
    """Return what a pretraining would do, without doing it: name -> value, as text."""
    if recipe.init:
        # refuses what does not fit
        fit_shape(read_checkpoint(recipe.init, trust=trust), arguments_of(recipe.model))
    with paddle.LazyGuard():  # counts parameters without filling them
        parts = prepare(recipe.model_copy(update={"init": None}))
    training = recipe.training
    return {
        "images": f"{len(parts.source)} from {parts.source.name}",
        "parameters": f"{parameter_count(parts.model):,}",
        "patches": f"{parts.model.grid[0]} x {parts.model.grid[1]}",
        **statistics_plan(recipe.mean, len(parts.source)),
        **schedule_plan(training, len(parts.source)),
        **memory_plan(recipe, memory_estimate(parts.model, recipe)),
    }


def memory_estimate(model: MaskedAutoencoder, recipe: PretrainRecipe) -> int:
    """Return the bytes that a training step holds, see `dry_run.step_bytes`."""
    shape, patches = model.config, math.prod(model.grid)
    kept = MASKS[recipe.mask].num_kept(model.grid, recipe.mask_ratio)
    visible = kept + int(model.encoder.has_cls)
    encoder = activations_of(visible, shape["embed_dim"], shape["num_heads"])
    decoder = model.decoder.activations(visible, num_predicted(patches, patches - kept, recipe.prediction_ratio))
    activations = shape["depth"] * encoder + shape["decoder_depth"] * decoder + 6 * patches * model.pixels
    return step_bytes(parameter_count(model), recipe.training.batch_size * activations)
