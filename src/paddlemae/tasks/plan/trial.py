"""Measure what a training step takes on this device, with real images: a few steps whose weights are thrown away."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from paddlemae.data.batches import Batch, eval_batches, train_batches
from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.sources import Source
from paddlemae.data.views.augment import View
from paddlemae.data.views.mixup import Mixing, mix_batches
from paddlemae.engine.safe_import import nn
from paddlemae.recipe import FinetuneRecipe, PretrainRecipe, Training
from paddlemae.runs.metrics import CLASSIFICATION
from paddlemae.tasks.models.build import arguments_of, classifier_arguments
from paddlemae.tasks.models.inference import LOGITS, forward_function
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.training import finetuning_loss, finetuning_setup, pretraining_loss, pretraining_setup
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


@dataclass(frozen=True)
class StepTime:
    """What a step takes.

    Attributes:
        seconds: mean of a whole step; waiting: the part in which no batch was there.
        images: of a step.
        start: seconds from building the model to the end of the warm-up.
    """

    seconds: float
    waiting: float
    images: int
    start: float

    @property
    def a_view(self) -> float:
        """Return the seconds a view."""
        return self.seconds / self.images

    @property
    def computing(self) -> float:
        """Return the seconds a view without waiting."""
        return (self.seconds - self.waiting) / self.images


def time_pretraining(recipe: PretrainRecipe, source: Source, seconds: float) -> StepTime:
    """Take pretraining steps for about `seconds`, on the images of `source`; three at least."""
    began = time.perf_counter()
    parts = pretraining_setup.build(recipe, Inputs("mae", arguments_of(recipe.model), source))
    loss_fn = pretraining_loss.loss_function(recipe, parts.description)
    return _time_steps(recipe.training, parts.model, parts.view, source, loss_fn, seconds, began)


def time_finetuning(recipe: FinetuneRecipe, source: Source, seconds: float) -> tuple[StepTime, float]:
    """Take fine-tuning steps for about `seconds`; the recipe names the whole model.

    Returns:
        what a step takes, and the seconds of evaluating an image.
    """
    began = time.perf_counter()
    arguments = classifier_arguments(recipe.model, None, len(source.classes))
    splits = LabelledSplits(source, None, source, CLASSIFICATION.primary)
    parts = finetuning_setup.build(recipe, Inputs("classifier", arguments, source, splits))
    loss_fn = finetuning_loss.loss_function(recipe, parts.description)
    mixing = Mixing(recipe.mixup, recipe.cutmix, recipe.cutmix_probability)
    step = _time_steps(recipe.training, parts.model, parts.view, source, loss_fn, seconds, began, mixing)
    forward = forward_function(parts.model, parts.description, LOGITS, threads=recipe.training.threads)
    view = evaluation_view(parts.description)
    return step, _time_evaluation(forward, source, view, recipe.training.batch_size)


def _time_evaluation(forward: object, source: Source, view: View, batch_size: int) -> float:
    assert callable(forward)
    seconds, images = 0.0, 0
    with closing(
        eval_batches(source, view, batch_size=batch_size, chosen=range(min(3, len(source) // batch_size)))
    ) as b:
        began = time.perf_counter()
        for number, batch in enumerate(b):
            forward(batch.images)
            if number or len(source) < 2 * batch_size:  # the first warms up
                images += len(batch.images)
                seconds += time.perf_counter() - began
            began = time.perf_counter()
    return seconds / images if images else 0.0


def _time_steps(
    training: Training,
    model: nn.Layer,
    view: View,
    source: Source,
    loss_fn: LossFn,
    seconds: float,
    began: float,
    mixing: Mixing | None = None,
) -> StepTime:
    results: list[StepResult] = []
    warm = [0.0]

    def record(state: TrainState, result: StepResult) -> None:
        results.append(result)
        if len(results) == WARM_UP:
            warm[0] = time.perf_counter()

    def is_over() -> bool:
        counted = len(results) - WARM_UP
        return counted >= FEWEST_STEPS and time.perf_counter() - warm[0] > seconds

    settings = FitSettings(WARM_UP + MOST_STEPS, precision=training.precision, after_step=[record], should_stop=is_over)
    with closing(_batches(source, view, training, mixing)) as batches:
        fit(
            TrainState(model, adamw(model)),
            batches,
            loss_fn,
            lambda step: TRIAL_LR,
            share_cpu(settings, model, training),
        )
    counted = results[WARM_UP:]
    return StepTime(
        float(np.mean([result.seconds for result in counted])),
        float(np.mean([result.waiting for result in counted])),
        training.batch_size,
        warm[0] - began,
    )


def _batches(source: Source, view: View, training: Training, mixing: Mixing | None) -> Generator[Batch, None, None]:
    def pass_over(image: UnreadableImage) -> None:
        """Let the training itself report what can't be read."""

    plain = train_batches(
        source,
        view,
        batch_size=training.batch_size,
        seed=training.seed,
        num_steps=WARM_UP + MOST_STEPS,
        workers=training.workers,
        on_skip=pass_over,
    )
    return mix_batches(plain, mixing, training.seed) if mixing else plain
