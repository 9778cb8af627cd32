"""Train a model on images with targets: choose its best checkpoint, test it, and finish its run."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.batches import Batch, TrainingView
from paddlemae.data.sources import Source
from paddlemae.engine.safe_import import nn
from paddlemae.recipe import FinetuneRecipe, SegmentRecipe
from paddlemae.tasks.models.build import parameter_count
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.training.best_weights import best_weights
from paddlemae.tasks.training.course import Course, Evaluation
from paddlemae.tasks.training.finish_run import finish_run
from paddlemae.tasks.training.labelled_splits import LabelledSplits
from paddlemae.tasks.training.run_start import Run, enter_run
from paddlemae.tasks.training.run_training import run_training
from paddlemae.tasks.training.skipped_images import SkippedImages, open_skipped
from paddlemae.tasks.training.training_batches import training_batches
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.ema import Ema
from paddlemae.train.optim import adamw
from paddlemae.train.parallel.loss_layer import LossFn
from paddlemae.weights.model_folder import Description

Batches = Generator[Batch, None, None]


@dataclass(frozen=True)
class Parts:
    """Everything that a training on images with targets is built from.

    Attributes:
        splits: its images.
        order: indices of the images of an epoch, some of them repeated; None: each once.
        class_weights: of each class in the loss; None: all alike.
    """

    splits: LabelledSplits
    view: TrainingView
    model: Any
    description: Description
    order: NDArray[np.int64] | None = None
    class_weights: NDArray[np.float32] | None = None

    @property
    def views(self) -> int:
        """Return the number of views in an epoch."""
        return len(self.splits.train) if self.order is None else len(self.order)


@dataclass(frozen=True)
class Method:
    """The parts of a training that differ between tasks.

    Attributes:
        loss_fn: (model, micro-batch) -> mean loss.
        evaluate: (images, description, counter of bad images) -> evaluation with the model's present weights.
        protocol: what the result depends on besides the steps.
        mix: changes the stream of micro-batches.
        batches: yields the micro-batches of the steps that a state has not taken yet, of what is in memory; None reads
            images.
        suit: brings an evaluation on the validation part to it, such as thresholds.
        description_of: step -> the description that its weights are tested with.
        show: draws further exhibits of the tested model, given its evaluation; nothing depends on them.
        shares_cpu: whether CPU threads may share a micro-batch, see `run_training`.
        begin: changes the model before the first step of a new run, and is evaluated; None leaves it as it is.
        note: a line for a person before the training.
    """

    loss_fn: LossFn
    evaluate: Callable[[Source, Description, SkippedImages], Evaluation]
    protocol: dict[str, Any]
    mix: Callable[[Batches], Batches] = lambda batches: batches
    batches: Callable[[TrainState, SkippedImages], Batches] | None = None
    suit: Callable[[Evaluation], Evaluation] = lambda evaluation: evaluation
    description_of: Callable[[int], Description] | None = None
    show: Callable[[Evaluation], None] | None = None
    shares_cpu: bool = True
    begin: Callable[[], None] | None = None
    note: str | None = None


def train_and_test(
    run: Run[FinetuneRecipe] | Run[SegmentRecipe], parts: Parts, method: Method, compared_run: str | None = None
) -> dict[str, Any]:
    """Train to the end, or continue; test the weights that count, write the result and return it.

    Args:
        compared_run: see `finish_run`.
    """
    recipe: Any = run.recipe
    start, training, model, splits = run.start, recipe.training, parts.model, parts.splits
    optimizer = adamw(model, weight_decay=training.weight_decay, betas=recipe.betas, layer_decay=recipe.layer_decay)
    state = TrainState(model, optimizer, ema=None if recipe.ema_decay is None else Ema(model, recipe.ema_decay))
    enter_run(run, state, parts.description)
    for line in (_introduction(recipe, model, splits), method.note):
        if line:
            start.say(line)
    if method.begin:
        method.begin()
    listed = open_skipped(start, state, splits.parts, parts.view.channels)
    skipped = {id(part): listed.of(part, training.max_bad_images) for part in splits.parts}

    def batches() -> Batches:
        counter = skipped[id(splits.train)]
        if method.batches:
            return method.batches(state, counter)
        return method.mix(training_batches(splits.train, parts.view, training, state, counter, start, parts.order))

    def evaluate_averaged(part: Source) -> Evaluation:
        with state.averaged():
            evaluation = method.evaluate(part, parts.description, skipped[id(part)])
        return method.suit(evaluation) if part is splits.validation else evaluation

    choosing = splits.choosing(recipe)
    every = None if choosing is None else partial(evaluate_averaged, choosing)
    course = Course(recipe.task, training, parts.views, every, recipe.evaluate_every, splits.primary)
    last = run_training(
        start,
        course,
        state,
        parts.description,
        batches,
        method.loss_fn,
        shares_cpu=method.shares_cpu,
        in_memory=method.batches is not None,
        evaluates_first=method.begin is not None,
    )
    with best_weights(start, state, validated=splits.validation is not None) as step:
        # where the test part chose, in a run of an earlier version, its last evaluation counts as it did there
        if last and choosing is splits.held_out:
            tested = last
        else:
            description = method.description_of(step) if method.description_of else parts.description
            tested = method.evaluate(splits.held_out, description, skipped[id(splits.held_out)])

        def finish() -> dict[str, Any]:
            return finish_run(
                start,
                state,
                tested,
                splits,
                evaluation_view(parts.description),
                recipe,
                method.protocol,
                step=step,
                num_train=len(splits.train),
                compared_run=compared_run,
                more=partial(method.show, tested) if method.show else None,
            )

        return start.ranks.from_first(finish)


def _introduction(recipe: FinetuneRecipe | SegmentRecipe, model: nn.Layer, splits: LabelledSplits) -> str:
    verb = {"finetune": "fine-tuning", "segment": "training"}[recipe.task]
    return (
        f"{verb} {parameter_count(model) / 1e6:.2f} million parameters from {recipe.init} on {splits.train.name}, "
        f"{len(splits.train)} images, {len(splits.train.classes)} classes; {splits.evaluations(recipe)}"
    )
