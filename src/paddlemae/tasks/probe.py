"""Linear probing: train a linear classifier on frozen features.

Shapes: N images, B images a batch, D features.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from paddlemae.data.batches import Batch, due_in_training, labels_of
from paddlemae.data.sources import Source
from paddlemae.data.views.augment import View
from paddlemae.engine import device
from paddlemae.engine.safe_import import F, nn, paddle
from paddlemae.engine.tensors import tensor_of
from paddlemae.model.encoder import evaluating
from paddlemae.model.probe import ProbeHead
from paddlemae.model.shape import pair
from paddlemae.recipe import SCRATCH, ProbeRecipe, Training
from paddlemae.tasks.models.build import load_encoder
from paddlemae.tasks.models.features import Labelled, labelled_features
from paddlemae.tasks.models.inference import FeatureKind, Forward, forward_function
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.models.read_model import Checkpoint, read_checkpoint
from paddlemae.tasks.training.best_weights import best_weights
from paddlemae.tasks.training.classification import Evaluation, evaluation_of
from paddlemae.tasks.training.course import Course
from paddlemae.tasks.training.dry_run import schedule_plan
from paddlemae.tasks.training.finish_run import finish_run
from paddlemae.tasks.training.image_checks import check_images
from paddlemae.tasks.training.labelled_splits import LabelledSplits, open_labelled_splits
from paddlemae.tasks.training.run_start import Start, decide, enter_run
from paddlemae.tasks.training.run_training import run_training
from paddlemae.tasks.training.skipped_images import open_skipped
from paddlemae.tasks.training.training_batches import count_remaining, training_batches
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.lars import Lars
from paddlemae.train.parallel.loss_layer import LossFn
from paddlemae.weights.model_folder import Description

LOGITS_AT_ONCE = 1 << 24  # numbers, 64 MB: of all held-out images they would grow with the square of the classes


def probe(recipe: ProbeRecipe, start: Start) -> dict[str, Any]:
    """Train a linear classifier on a pretrained encoder's features, and leave a run folder with the head.

    The result is also appended to the results of the run that the encoder is from (`runs.runlog.log_result`).

    Returns:
        the result, as in `result.json`: the metrics on the test part in [0, 1] with the head that the validation part
        chose, the `primary` one's best value there (`best_top1` ...) and its step.
    Raises:
        ValueError, FileNotFoundError: a recipe, data, checkpoint or folder that can't be used; nothing is written.
        KeyboardInterrupt, Preempted, NonFiniteLoss, OSError: training ended early; the text says what was kept.
    """
    if start.ranks.world > 1:
        raise ValueError("probing runs in one process; start it without a launcher")
    with start.held():
        return _probe(recipe, start)


def _probe(recipe: ProbeRecipe, start: Start) -> dict[str, Any]:
    run = decide(start, recipe)
    parts = prepare(recipe, run.checkpoint, trust=start.trust)
    training, head = recipe.training, parts.head
    optimizer = Lars(head.parameters(), momentum=recipe.momentum, weight_decay=training.weight_decay)
    state = TrainState(head, optimizer)
    enter_run(run, state, parts.description)
    splits = parts.splits
    train = splits.train
    start.say(
        f"probing {parts.kind} ({head.config['width']} features) of {recipe.init}{', untrained,' * recipe.random} with "
        f"{len(train)} images of {train.name}, {len(train.classes)} classes; {splits.evaluations(recipe)}"
    )
    listed = open_skipped(start, state, splits.parts, parts.view.channels)
    skipped = {id(part): listed.of(part, training.max_bad_images) for part in splits.parts}

    def features_of(source: Source) -> Labelled:
        return labelled_features(
            parts.encoder,
            parts.checkpoint.description,
            source,
            parts.kind,
            batch_size=training.batch_size,
            threads=training.threads,
            on_skip=skipped[id(source)],
        )

    held_out, choosing = features_of(splits.held_out), splits.choosing(recipe)
    if recipe.cached:
        table = features_of(train)
        num_train = len(table.labels)
        batches = partial(cached_batches, table, training, state)
        loss_fn = loss_function(None)
    else:
        num_train = len(train)
        batches = partial(training_batches, train, parts.view, training, state, skipped[id(train)], start)
        loss_fn = loss_function(parts.forward)
    evaluate = partial(evaluate_head, head, num_classes=len(train.classes))
    every = None
    if choosing is not None:
        every = partial(evaluate, held_out if choosing is splits.held_out else features_of(choosing))
    course = Course("probe", training, num_train, every, recipe.evaluate_every, splits.primary)
    run_training(start, course, state, parts.description, batches, loss_fn, shares_cpu=False, in_memory=recipe.cached)
    protocol = {
        **parts.kind.settings(),
        "cached": recipe.cached,
        "base_lr": training.base_lr,
        "batch_size": training.effective_batch_size,
        "labels": recipe.labels,
    }
    view = evaluation_view(parts.checkpoint.description)
    with best_weights(start, state, validated=splits.validation is not None) as step:
        tested = evaluate(held_out)
        return finish_run(start, state, tested, splits, view, recipe, protocol, step=step, num_train=num_train)


@dataclass(frozen=True)
class Parts:
    """Everything that a linear probing needs."""

    checkpoint: Checkpoint
    encoder: Any
    kind: FeatureKind
    forward: Forward
    splits: LabelledSplits
    view: View
    head: ProbeHead
    description: Description


def prepare(recipe: ProbeRecipe, resumed: Path | None = None, *, trust: bool = False) -> Parts:
    """Build a recipe's parts, with every check that needs no training; `resumed` as of `open_labelled_splits`."""
    if recipe.data is None:
        raise ValueError("no images named; add --data FOLDER with one folder per class, or --data digits")
    if recipe.init is None:
        raise ValueError("probe needs --init RUN: a pretraining run or one of its checkpoints")
    if recipe.init == SCRATCH:
        raise ValueError(
            f"a probe needs --init RUN, whose encoder it takes, got {SCRATCH!r}; random=true probes that encoder with "
            "random weights"
        )
    device.prepare(recipe.training.device, recipe.training.threads, recipe.training.precision)
    checkpoint = read_checkpoint(recipe.init, trust=trust)
    encoder = load_encoder(checkpoint, random=recipe.random)
    kind = FeatureKind(recipe.token, recipe.layer, "layer", recipe.training.precision)
    forward = forward_function(encoder, checkpoint.description, kind, threads=recipe.training.threads)
    splits = open_labelled_splits(recipe, recipe.data, resumed)
    train = splits.train
    shape = checkpoint.description.architecture
    check_images(splits.train, shape, recipe.init)
    paddle.seed(recipe.training.seed)
    head = ProbeHead(shape["embed_dim"], len(train.classes))
    view = View(
        image_size=pair(shape["image_size"]),
        channels=shape["channels"],
        crop_scale=recipe.crop_scale,
        flip=recipe.flip,
        eval_crop_ratio=checkpoint.description.eval_crop_ratio,
        fit=checkpoint.description.fit,
        bits=checkpoint.description.bits,
    )
    description = Description(
        kind="probe",
        architecture=head.config,
        mean=checkpoint.description.mean,
        std=checkpoint.description.std,
        eval_crop_ratio=checkpoint.description.eval_crop_ratio,
        fit=checkpoint.description.fit,
        classes=list(train.classes),
        provenance={"task": "probe", "data": train.name, "images": len(train), "init": recipe.init, **kind.settings()}
        | splits.provenance,
        bits=checkpoint.description.bits,
    )
    return Parts(checkpoint, encoder, kind, forward, splits, view, head, description)


def loss_function(forward: Forward | None) -> LossFn:
    """Return (head, batch) -> mean loss; without `forward`, the batch's images are features already."""

    def loss_fn(head: nn.Layer, batch: Batch) -> paddle.Tensor:
        features_BD = batch.images if forward is None else forward(batch.images)
        return F.cross_entropy(head(tensor_of(features_BD)), tensor_of(labels_of(batch)))

    return loss_fn


def cached_batches(table: Labelled, training: Training, state: TrainState) -> Generator[Batch, None, None]:
    """Yield the micro-batches that `training_batches` would give, of features instead of images."""
    num_images = len(table.labels)
    for rows, epochs in due_in_training(num_images, **count_remaining(training, num_images, state)):
        yield Batch(table.features_ND[rows], table.labels[rows], rows, epochs)


def evaluate_head(head: ProbeHead, held_out: Labelled, num_classes: int) -> Evaluation:
    """Evaluate the head's predictions from the held-out images' features."""
    with evaluating(head), paddle.no_grad():
        rows = max(1, LOGITS_AT_ONCE // num_classes)
        blocks = (slice(start, start + rows) for start in range(0, max(1, len(held_out.labels)), rows))
        predictions = (
            (held_out.indices[block], held_out.labels[block], head(tensor_of(held_out.features_ND[block])).numpy())
            for block in blocks
        )
        return evaluation_of(predictions, num_classes)


def dry_run(recipe: ProbeRecipe, *, trust: bool = False) -> dict[str, str]:
    """Return what a linear probing would do, without doing it: name -> value, as text."""
    parts = prepare(recipe, trust=trust)
    return {
        **parts.splits.plan(),
        "features": f"{parts.head.config['width']}, {parts.kind}",
        **schedule_plan(recipe.training, len(parts.splits.train)),
    }
