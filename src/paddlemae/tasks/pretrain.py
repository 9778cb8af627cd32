"""Pretrain a masked autoencoder on images without labels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.data.batches import MASK_STREAM, PREDICTION_STREAM, Batch, batch_rngs
from paddlemae.data.sources import Source, open_source
from paddlemae.data.views.augment import View
from paddlemae.engine import device
from paddlemae.engine.safe_import import paddle
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.masking import Mask, draw_mask, draw_predicted, grid_mask, num_kept, num_predicted
from paddlemae.model.vit import patch_grid
from paddlemae.recipe import PretrainRecipe
from paddlemae.runs.figures import draw_curves
from paddlemae.runs.runlog import FIGURES, mark_finished, read_metrics
from paddlemae.tasks.models.build import (
    autoencoder_arguments,
    build_autoencoder,
    check_memory,
    describe,
    fitted,
    parameter_count,
)
from paddlemae.tasks.models.preprocess import path_noise, statistics_of, to_input, training_view
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.reconstruct import draw
from paddlemae.tasks.training.auto_statistics import Measure, measured, recalled, statistics_plan, with_those_of
from paddlemae.tasks.training.dry_run import block_numbers, cross_block_numbers, schedule_plan, step_bytes
from paddlemae.tasks.training.exhibits import Snapshots, fixed_images, moments, show_attention
from paddlemae.tasks.training.memory_trial import memory_plan
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.run_start import Start, check_start, enter_run
from paddlemae.tasks.training.run_training import Course, run_training, training_batches
from paddlemae.tasks.training.skipped_images import open_skipped
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.loop import StepResult, check_precision
from paddlemae.train.optim import adamw
from paddlemae.train.parallel.loss_layer import LossFn
from paddlemae.train.parallel.ranks import Ranks
from paddlemae.train.parallel.zero2 import ShardedAdamW
from paddlemae.weights.model_folder import Description, read_description


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
    recipe = recalled(recipe, start)
    start = check_start(start, recipe, recipe.init)
    parts = prepare(recipe, start.checkpoint, partial(measured, start), trust=start.trust)
    recipe = with_those_of(recipe, parts.description)
    model = parts.model
    training = recipe.training
    state = TrainState(model, _optimizer_of(model, recipe, start.ranks))
    enter_run(start, recipe, state, parts.description)
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
    hooks = [partial(_draw, snapshots, moments(course.total_steps))] if snapshots else []
    run_training(start, course, state, parts.description, batches, loss_fn, hooks=hooks)
    if start.ranks.is_first:
        _finish(start, model, parts, snapshots)
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


def _draw(snapshots: Snapshots, steps: frozenset[int], state: TrainState, result: StepResult) -> None:
    if state.step in steps:
        snapshots(state, result)


def _finish(start: Start, model: MaskedAutoencoder, parts: Parts, snapshots: Snapshots | None) -> None:
    figures = start.out / FIGURES
    with optional("the curves"):
        names = ["loss", "lr", "images_per_second"]
        draw_curves(figures / "loss.png", list(read_metrics(start.out)), names, "pretraining")
    if snapshots:
        with optional("the reconstruction"):
            draw(figures / "reconstruction.png", model, parts.description, snapshots.images_u8, snapshots.mask)
        with optional("the attention maps"):
            show_attention(start.out, model, parts.description, snapshots.images_u8)
    mark_finished(start.out)
    start.say(f"done: {start.out}; see {figures / 'reconstruction.png'}")


def loss_function(recipe: PretrainRecipe, description: Description) -> LossFn:
    """(model, batch) -> mean loss; all randomness is each image's own, so a batch may be cut and shared out."""
    seed = recipe.training.seed

    def loss_fn(model, batch: Batch) -> paddle.Tensor:
        mask = batch_mask(recipe, model.grid, seed, batch)
        predicted = batch_predicted(recipe, seed, batch, mask)
        noise = path_noise(seed, batch, len(model.blocks)) if recipe.model.drop_path else None
        return model(to_input(batch.images, description), mask, predicted, noise)

    return loss_fn


@dataclass(frozen=True)
class Parts:
    """What a pretraining is made of."""

    source: Source
    view: View
    model: MaskedAutoencoder
    description: Description


def prepare(
    recipe: PretrainRecipe, own: Path | None = None, measure: Measure | None = None, *, trust: bool = False
) -> Parts:
    """Build a recipe's parts, with every check that needs no training.

    Args:
        own: this run's own checkpoint when it is resumed; what it started from is not needed then, and may be gone.
        measure: finds the mean and std that the recipe leaves to be found; without it they are any.
        trust: see `read_checkpoint`.
    """
    if recipe.data is None:
        raise ValueError("no images named; add --data FOLDER, or --data digits for the embedded ones")
    if recipe.mask == "grid" and recipe.mask_ratio != 0.75:
        warnings.warn("mask=grid removes 3 of every 4 patches; mask_ratio has no effect", stacklevel=2)
    device.prepare(recipe.training.device, recipe.training.threads)
    check_precision(recipe.training.precision)
    arguments = autoencoder_arguments(recipe.model)
    grid = patch_grid(arguments["image_size"], arguments["patch_size"])
    if kept_patches(recipe, grid) == grid[0] * grid[1]:
        raise ValueError(
            f"mask_ratio {recipe.mask_ratio} removes none of {grid[0] * grid[1]} patches, so nothing is left to learn"
        )
    predicted_patches(recipe, grid)  # refuses more than are removed
    if measure:
        check_memory("mae", arguments)
    source = open_source(recipe.data, recipe.split or "train")
    checkpoint = fitted(read_checkpoint(recipe.init, trust=trust), arguments) if recipe.init and not own else None
    saved = read_description(own) if own else None
    view = training_view(recipe.augment, recipe.model.image_size, recipe.model.channels)
    model = build_autoencoder(recipe.model, recipe.training.seed, checkpoint)
    model.recompute = recipe.training.recompute
    look = partial(measure, recipe.training.workers, source, view) if measure else None
    statistics = (saved.mean, saved.std) if saved else statistics_of(recipe, view.channels, checkpoint, look)
    description = describe(
        model,
        statistics,
        eval_crop_ratio=recipe.augment.eval_crop_ratio,
        bits=view.depth,
        provenance={
            "task": "pretrain",
            "data": source.name,
            "images": len(source),
            "mask_ratio": recipe.mask_ratio,
            "prediction_ratio": recipe.prediction_ratio,
            **({"init": recipe.init} if recipe.init else {}),
        },
    )
    return Parts(source, view, model, description)


def kept_patches(recipe: PretrainRecipe, grid: tuple[int, int]) -> int:
    """Patches that the encoder sees of each image."""
    if recipe.mask == "grid":
        return grid_mask(1, grid).keep.shape[1]
    return num_kept(grid[0] * grid[1], recipe.mask_ratio)


def predicted_patches(recipe: PretrainRecipe, grid: tuple[int, int]) -> int:
    """Removed patches of each image that the decoder predicts."""
    patches = grid[0] * grid[1]
    return num_predicted(patches, patches - kept_patches(recipe, grid), recipe.prediction_ratio)


def batch_mask(recipe: PretrainRecipe, grid: tuple[int, int], seed: int, batch: Batch) -> Mask:
    """The masks of a batch, from each image's own randomness: (seed, epoch, index)."""
    return draw_mask(recipe.mask, batch_rngs(seed, MASK_STREAM, batch), grid, kept_patches(recipe, grid))


def batch_predicted(recipe: PretrainRecipe, seed: int, batch: Batch, mask: Mask) -> np.ndarray | None:
    """The removed patches to predict, from each image's own randomness too; None for all of them."""
    if recipe.prediction_ratio is None:
        return None
    num_removed = mask.removed.shape[1]
    wanted = num_predicted(mask.keep.shape[1] + num_removed, num_removed, recipe.prediction_ratio)
    return draw_predicted(batch_rngs(seed, PREDICTION_STREAM, batch), mask.removed, wanted)


def snapshots_of(
    out: Path, model: MaskedAutoencoder, parts: Parts, recipe: PretrainRecipe, course: Course
) -> Snapshots | None:
    """What draws the same images, under the masks of their first epoch, as training goes on; None without images."""
    fixed = fixed_images(parts.source, parts.description)
    if fixed is None:  # training will tell
        return None
    images_u8, indices = fixed
    mask = batch_mask(recipe, model.grid, recipe.training.seed, Batch(images_u8, None, indices, np.zeros_like(indices)))
    return Snapshots(out, model, parts.description, images_u8, mask, course.total_steps, course.epoch(1))


def dry_run(recipe: PretrainRecipe, *, trust: bool = False) -> dict[str, str]:
    """What a pretraining would do, without doing it: name -> value, for people."""
    if recipe.init:
        # refuses what does not fit
        fitted(read_checkpoint(recipe.init, trust=trust), autoencoder_arguments(recipe.model))
    with paddle.LazyGuard():  # counts parameters without filling them
        parts = prepare(recipe.model_copy(update={"init": None}))
    training = recipe.training
    return {
        "images": f"{len(parts.source)} from {parts.source.name}",
        "parameters": f"{parameter_count(parts.model):,}",
        "patches": f"{parts.model.grid[0]} x {parts.model.grid[1]}",
        **statistics_plan(recipe, len(parts.source)),
        **schedule_plan(training, len(parts.source)),
        **memory_plan(recipe, memory_estimate(parts.model, recipe)),
    }


def memory_estimate(model: MaskedAutoencoder, recipe: PretrainRecipe) -> int:
    """Bytes that a training step holds, see `tasks.training.dry_run`."""
    shape = model.config
    patches, front = model.grid[0] * model.grid[1], int(model.has_cls)
    visible = kept_patches(recipe, model.grid) + front
    encoder = block_numbers(visible, shape["embed_dim"], shape["num_heads"])
    width, heads = shape["decoder_embed_dim"], shape["decoder_num_heads"]
    if model.decoder == "mae":
        decoder = block_numbers(patches + front, width, heads)
    else:
        queries = predicted_patches(recipe, model.grid)
        decoder = cross_block_numbers(queries, width, heads, visible, shape["embed_dim"])
    activations = shape["depth"] * encoder + shape["decoder_depth"] * decoder + 6 * patches * model.pixels
    return step_bytes(parameter_count(model), recipe.training.batch_size * activations)
