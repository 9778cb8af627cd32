"""Fine-tune a classifier end to end, from a pretrained run or from scratch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from paddlemae import device
from paddlemae.data.augment import View
from paddlemae.data.batches import Batch, OnSkip, eval_batches
from paddlemae.data.images import check_channels
from paddlemae.data.sources import Source, balanced_subset, open_source, split_off
from paddlemae.model.vit import VisionTransformer
from paddlemae.recipe import FinetuneRecipe
from paddlemae.report.figures import draw_confusion, draw_curves
from paddlemae.report.runlog import FIGURES, read_metrics
from paddlemae.tasks.footprint import memory_plan
from paddlemae.tasks.inference import LOGITS, forward_function
from paddlemae.tasks.models import (
    build_classifier,
    classifier_arguments,
    describe,
    evaluation_view,
    parameter_count,
    path_noise,
    read_checkpoint,
    statistics_of,
    to_input,
    training_view,
)
from paddlemae.tasks.plan import block_numbers, schedule_plan, step_bytes
from paddlemae.tasks.session import Course, SkippedImages, run_training, training_batches
from paddlemae.tasks.start import Start, check_same_recipe, enter_run, own_checkpoint, stored_recipe
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.loop import check_precision
from paddlemae.train.optim import adamw
from paddlemae.train.shards import LossFn
from paddlemae.weights.store import Description, read_description

SCRATCH = "scratch"
DEFAULT_CHANNELS = 3
RESULT_FILE = "result.json"


def finetune(recipe: FinetuneRecipe, start: Start) -> dict[str, Any]:
    """Fine-tune as the recipe says and leave a run folder with the best and the last checkpoint.

    Returns:
        the result, as in `result.json`: top-1 and top-5 of the last step in [0, 1], the best top-1 and its step.
    Raises:
        ValueError, FileNotFoundError: a recipe, data, checkpoint or folder that can't be used; nothing is written.
        KeyboardInterrupt, NonFiniteLoss, OSError: training ended early; the text says what was kept.
    """
    start.check()
    if start.overwrite and recipe.init and Path(recipe.init).resolve().is_relative_to(start.out.resolve()):
        raise ValueError(f"--overwrite would delete {recipe.init}, which --init starts from; choose another --out")
    if start.resume:
        check_same_recipe(stored_recipe(start.out, "finetune"), recipe)
    parts = prepare(recipe, own_checkpoint(start))
    training, model = recipe.training, parts.model
    optimizer = adamw(
        model,
        weight_decay=training.weight_decay,
        betas=recipe.betas,
        layer_decay=recipe.layer_decay,
    )
    state = TrainState(model, optimizer)
    enter_run(start, recipe, state, parts.description)
    start.say(
        f"fine-tuning {parameter_count(model) / 1e6:.2f} million parameters from {recipe.init} "
        f"on {parts.train.name}, {len(parts.train)} images, {len(parts.train.classes)} classes; "
        f"evaluating on {parts.held_out.name}, {len(parts.held_out)} images"
    )
    skipped = SkippedImages(state)
    batches = training_batches(parts.train, parts.view, training, state, skipped, start)
    loss_fn = loss_function(recipe, parts.description)
    last: Evaluation | None = None

    def evaluation() -> Evaluation:
        return evaluate_classifier(model, parts, training.batch_size, training.workers, skipped, training.threads)

    def evaluate(state: TrainState) -> dict[str, float]:
        nonlocal last
        last = evaluation()
        return last.metrics

    course = Course("finetune", training, len(parts.train), evaluate, recipe.evaluate_every, best_by="top1")
    run_training(start, course, state, parts.description, batches, loss_fn)
    last = last or evaluation()
    return _finish(start, state, parts, last)


def loss_function(recipe: FinetuneRecipe, description: Description) -> LossFn:
    """(model, batch) -> mean loss; all randomness is each image's own, so a batch may be cut and shared out."""
    seed = recipe.training.seed

    def loss_fn(model, batch: Batch) -> paddle.Tensor:
        noise = path_noise(seed, batch, len(model.blocks)) if recipe.model.drop_path else None
        logits = model(to_input(batch.images, description), noise)
        targets = soft_targets(labels_of(batch), logits.shape[1], recipe.label_smoothing)
        return F.cross_entropy(logits, targets, soft_label=True)

    return loss_fn


@dataclass(frozen=True)
class Parts:
    """What a fine-tuning is made of."""

    train: Source
    held_out: Source
    view: View
    model: VisionTransformer
    description: Description


def prepare(recipe: FinetuneRecipe, own: Path | None = None) -> Parts:
    """Build a recipe's parts, with every check that needs no training.

    Args:
        own: this run's own checkpoint when it is resumed; what it started from is not needed then, and may be gone.
    """
    if recipe.data is None:
        raise ValueError("no images named; add --data FOLDER with one folder a class, or --data digits")
    if recipe.init is None:
        raise ValueError("name what to start from: --init RUN (a pretraining run) or --init scratch")
    device.prepare(recipe.training.device, recipe.training.threads)
    check_precision(recipe.training.precision)
    checkpoint = None if recipe.init == SCRATCH or own else read_checkpoint(recipe.init)
    train, held_out = open_parts(recipe, recipe.data)
    if own:
        model, statistics = _saved_shape(own)
    else:
        arguments = classifier_arguments(recipe.model, checkpoint, len(train.classes))
        check_channels(arguments.get("channels", DEFAULT_CHANNELS))
        model = build_classifier(arguments, checkpoint, recipe.training.seed)
        statistics = statistics_of(recipe, model.config["channels"], checkpoint)
    model.recompute = recipe.training.recompute
    description = describe(
        model,
        statistics,
        eval_crop_ratio=recipe.augment.eval_crop_ratio,
        classes=train.classes,
        provenance={"task": "finetune", "data": train.name, "images": len(train), "init": recipe.init},
    )
    view = training_view(recipe.augment, model.config["image_size"], model.config["channels"])
    return Parts(train, held_out, view, model, description)


def _saved_shape(own: Path) -> tuple[VisionTransformer, tuple[list[float], list[float]]]:
    """(a new model of the saved one's shape, its mean and std)."""
    saved = read_description(own)
    return VisionTransformer(**saved.architecture), (saved.mean, saved.std)


def open_parts(recipe: FinetuneRecipe, data: str) -> tuple[Source, Source]:
    """(training images, held-out images), both labelled, with the same classes.

    Raises:
        ValueError: unlabelled images, or classes that differ.
    """
    train = open_source(data, recipe.train_split, labelled=True)
    if recipe.val_fraction:
        train, held_out = split_off(train, recipe.val_fraction, recipe.training.seed)
    else:
        held_out = open_source(data, recipe.eval_split, labelled=True)
    if train.classes != held_out.classes:
        only = sorted(set(train.classes) ^ set(held_out.classes))
        raise ValueError(
            f"training and held-out images must have the same classes; these are in one only: {', '.join(only)}"
        )
    if recipe.labels:
        train = balanced_subset(train, recipe.labels, recipe.training.seed)
    return train, held_out


def labels_of(batch: Batch) -> np.ndarray:
    """The labels of a batch of labelled images."""
    assert batch.labels is not None
    return batch.labels


def soft_targets(labels: np.ndarray, num_classes: int, smoothing: float) -> paddle.Tensor:
    """Label-smoothed targets, float32 [B, classes] (Szegedy et al., "Rethinking Inception", sec. 7)."""
    soft = np.full((len(labels), num_classes), smoothing / num_classes, np.float32)
    soft[np.arange(len(labels)), labels] += 1 - smoothing
    return paddle.to_tensor(soft)


@dataclass(frozen=True)
class Evaluation:
    """Predictions on held-out images: confusion counts [true, predicted], top-5 hits and mean loss."""

    confusion: np.ndarray
    top5: float
    loss: float

    @property
    def metrics(self) -> dict[str, float]:
        top1 = float(np.trace(self.confusion) / max(1, self.confusion.sum()))
        return {"top1": top1, "top5": self.top5, "eval_loss": self.loss}


def evaluate_classifier(
    model: VisionTransformer,
    parts: Parts,
    batch_size: int,
    workers: int = 0,
    on_skip: OnSkip | None = None,
    threads: int | str = "auto",
) -> Evaluation:
    """Evaluate on the held-out images, each counted once; unreadable ones are left out.

    Args:
        workers: processes that decode the images to come; 0 decodes here.
        threads: as in `device.prepare`.
    """
    classes = len(parts.held_out.classes)
    confusion, hits, loss = np.zeros((classes, classes), np.int64), 0, 0.0
    forward = forward_function(model, parts.description, LOGITS, threads=threads)
    view = evaluation_view(parts.description)
    for batch in eval_batches(parts.held_out, view, batch_size=batch_size, workers=workers, on_skip=on_skip):
        labels, logits = labels_of(batch), forward(batch.images)
        loss += float(F.cross_entropy(paddle.to_tensor(logits), paddle.to_tensor(labels), reduction="sum").numpy())
        ranked = np.argsort(-logits, axis=1, kind="stable")
        np.add.at(confusion, (labels, ranked[:, 0]), 1)
        hits += int((ranked[:, :5] == labels[:, None]).any(axis=1).sum())
    return Evaluation(confusion, hits / confusion.sum(), loss / confusion.sum())


def _finish(start: Start, state: TrainState, parts: Parts, last: Evaluation) -> dict[str, Any]:
    result = {
        **last.metrics,
        "best_top1": state.best["top1"],
        "best_step": int(state.best["step"]),
        "steps": state.step,
        "train_images": len(parts.train),
        "eval_images": int(last.confusion.sum()),
    }
    (start.out / RESULT_FILE).write_text(json.dumps(result, indent=2) + "\n")
    figures = start.out / FIGURES
    title = f"top-1 {result['top1']:.1%} of {result['eval_images']} held-out images after {state.step} steps"
    draw_confusion(figures / "confusion.png", last.confusion, parts.train.classes, title)
    draw_curves(figures / "curves.png", list(read_metrics(start.out)), ["loss", "top1", "lr"], "fine-tuning")
    start.say(
        f"top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%} after the last step; best top-1 "
        f"{result['best_top1']:.2%} at step {result['best_step']} (chosen on these same images); "
        f"see {figures / 'confusion.png'}"
    )
    return result


def dry_run(recipe: FinetuneRecipe) -> dict[str, str]:
    """What a fine-tuning would do, without doing it: name -> value, for people."""
    parts = prepare(recipe)
    shape, parameters = parts.model.config, parameter_count(parts.model)
    tokens = parts.model.grid[0] * parts.model.grid[1] + int(parts.model.has_cls)
    activations = shape["depth"] * block_numbers(tokens, shape["embed_dim"], shape["num_heads"])
    return {
        "training images": f"{len(parts.train)} from {parts.train.name}, {len(parts.train.classes)} classes",
        "held-out images": f"{len(parts.held_out)} from {parts.held_out.name}",
        "parameters": f"{parameters:,}",
        **schedule_plan(recipe.training, len(parts.train)),
        **memory_plan(recipe, step_bytes(parameters, recipe.training.batch_size * activations)),
    }
