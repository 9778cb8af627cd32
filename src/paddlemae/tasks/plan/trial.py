"""Measure what training takes on this device, with real images: a few steps whose weights are thrown away."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddlemae.data.batches import Batch, train_batches
from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.sources import Source
from paddlemae.data.views.augment import View
from paddlemae.data.views.mixup import Mixing, mix_batches
from paddlemae.data.views.scenes import SceneView
from paddlemae.engine.safe_import import nn
from paddlemae.recipe import FinetuneRecipe, PretrainRecipe, SegmentRecipe, Training
from paddlemae.runs.metrics import CLASSIFICATION, SEGMENTATION
from paddlemae.tasks.models.build import arguments_of, arguments_with_head
from paddlemae.tasks.models.inference import LOGITS, forward_function
from paddlemae.tasks.training import (
    finetuning_loss,
    finetuning_setup,
    pretraining_loss,
    pretraining_setup,
    segmentation_loss,
    segmentation_setup,
)
from paddlemae.tasks.training.labelled_splits import LabelledSplits
from paddlemae.tasks.training.resolve import Inputs
from paddlemae.tasks.training.run_training import share_cpu
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.loop import FitSettings, StepResult, fit
from paddlemae.train.optim import adamw
from paddlemae.train.parallel.loss_layer import LossFn

WARM_UP = 2  # steps that are not counted: memory is taken, and accelerators compile
FEWEST_STEPS, MOST_STEPS = 3, 200
TRIAL_LR = 1e-6  # weights must stay finite, no more
DIFFERENT_IMAGES = 16  # of a trial's batch, each of which it has several times
READ_AT_ONCE, MOST_READ = 4, 256  # images


def time_pretraining(recipe: PretrainRecipe, source: Source, seconds: float) -> float:
    """Take pretraining steps for about `seconds`, three at least; return the seconds a view without reading."""
    parts = pretraining_setup.build(recipe, Inputs("mae", arguments_of(recipe.model), source))
    loss_fn = pretraining_loss.loss_function(recipe, parts.description)
    batch = read_batch(source, parts.view, recipe.training)
    return _time_steps(recipe.training, parts.model, loss_fn, batch, seconds)


def time_finetuning(recipe: FinetuneRecipe, source: Source, seconds: float) -> tuple[float, float]:
    """Take fine-tuning steps for about `seconds`, three at least; the recipe names the whole model.

    Returns:
        seconds a view and seconds of evaluating an image, both without reading.
    """
    arguments = arguments_with_head(recipe.model, None, len(source.classes))
    splits = LabelledSplits(source, None, source, CLASSIFICATION.primary)
    parts = finetuning_setup.build(recipe, Inputs("classifier", arguments, source, splits))
    loss_fn = finetuning_loss.loss_function(recipe, parts.description)
    assert isinstance(parts.view, View)
    batch = read_batch(source, parts.view, recipe.training)
    mixing = Mixing(recipe.mixup, recipe.cutmix, recipe.cutmix_probability)
    if mixing:
        batch = next(mix_batches(_once(batch), mixing, recipe.training.seed))
    a_view = _time_steps(recipe.training, parts.model, loss_fn, batch, seconds)
    forward = forward_function(parts.model, parts.description, LOGITS, threads=recipe.training.threads)
    return a_view, _time_calls(lambda: forward(batch.images), seconds / 4) / len(batch.images)


def time_segmentation(recipe: SegmentRecipe, source: Source, seconds: float) -> tuple[float, float]:
    """Take segmentation steps for about `seconds`, three at least; the recipe names the whole model.

    Returns:
        seconds a view and seconds of segmenting a window of its size, both without reading.
    """
    recipe = recipe.model_copy(update={"sampling": None})  # which takes a look at all masks
    arguments = arguments_with_head(recipe.model, None, len(source.classes))
    splits = LabelledSplits(source, None, source, SEGMENTATION.primary)
    parts = segmentation_setup.build(recipe, Inputs("segmenter", arguments, source, splits))
    loss_fn = segmentation_loss.loss_function(recipe, parts.description, None)
    batch = read_batch(source, parts.view, recipe.training)
    a_view = _time_steps(recipe.training, parts.model, loss_fn, batch, seconds)
    forward = forward_function(parts.model, parts.description, LOGITS, threads=recipe.training.threads)
    return a_view, _time_calls(lambda: forward(batch.images), seconds / 4) / len(batch.images)


def _once(batch: Batch) -> Generator[Batch, None, None]:
    yield batch


def read_batch(source: Source, view: View | SceneView, training: Training) -> Batch:
    """Return a batch of a training, made of a few images."""
    count = min(DIFFERENT_IMAGES, training.batch_size)
    with closing(_batches(source, view, count, training.seed, 1)) as batches:
        few = next(batches)
    places = np.arange(training.batch_size) % count
    targets = None if few.targets is None else few.targets[places]
    return Batch(few.images[places], targets, few.indices[places], few.epochs[places])


def time_reading(source: Source, view: View, seed: int, seconds: float) -> float:
    """Make training views for about `seconds`; return the seconds a view, on one core."""
    steps = MOST_READ // READ_AT_ONCE
    with closing(_batches(source, view, READ_AT_ONCE, seed, steps)) as batches:
        return _time_calls(lambda: next(batches), seconds, most=steps - 1) / READ_AT_ONCE


def _time_calls(call: Callable[[], Any], seconds: float, most: int = MOST_STEPS) -> float:
    """Return the mean seconds of a call, of those after the first."""
    call()
    began, calls = time.perf_counter(), 0
    while not calls or (calls < most and time.perf_counter() - began < seconds):
        call()
        calls += 1
    return (time.perf_counter() - began) / calls


def _time_steps(training: Training, model: nn.Layer, loss_fn: LossFn, batch: Batch, seconds: float) -> float:
    """Return the seconds a view of steps with one batch again and again."""
    counter = _Counter(seconds)
    settings = FitSettings(
        WARM_UP + MOST_STEPS, precision=training.precision, after_step=[counter.count], should_stop=counter.is_over
    )
    batches: Iterator[Batch] = itertools.repeat(batch)
    settings = share_cpu(settings, model, training)
    fit(TrainState(model, adamw(model)), batches, loss_fn, lambda step: TRIAL_LR, settings)
    return counter.mean / training.batch_size


@dataclass
class _Counter:
    """Counts steps and their seconds, and ends them after `seconds`."""

    seconds: float
    steps: int = -WARM_UP
    spent: float = 0.0

    def count(self, state: TrainState, result: StepResult) -> None:
        """Count a step, unless it is one of the warm-up."""
        self.steps += 1
        if self.steps > 0:
            self.spent += result.seconds

    def is_over(self) -> bool:
        """Return whether enough steps were counted."""
        return self.steps >= FEWEST_STEPS and self.spent > self.seconds

    @property
    def mean(self) -> float:
        """Return the mean seconds of a step."""
        return self.spent / self.steps


def _batches(source: Source, view: View | SceneView, batch_size: int, seed: int, num_steps: int) -> Any:
    def pass_over(image: UnreadableImage) -> None:
        """Let the training itself report what can't be read."""

    return train_batches(source, view, batch_size=batch_size, seed=seed, num_steps=num_steps, on_skip=pass_over)
