"""Choose a pretraining and a fine-tuning by steps that are tried on this device."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.data.cache import cache_images
from paddlemae.data.sources import Source
from paddlemae.data.sources.subsets import spread_over, subset
from paddlemae.data.views.augment import View
from paddlemae.engine.cpus import usable_cpus
from paddlemae.engine.device import is_cpu
from paddlemae.engine.safe_import import paddle
from paddlemae.model.shape import EncoderShape, names_of
from paddlemae.recipe import SCRATCH, PretrainRecipe, load_recipe
from paddlemae.tasks.models.preprocess import training_view
from paddlemae.tasks.plan import rules
from paddlemae.tasks.plan.data_survey import DataSurvey
from paddlemae.tasks.plan.finetuning_settings import (
    LabelledImages,
    Shares,
    Tuning,
    affordable_shares,
    choose_tuning,
    chosen_by_labels,
    finetuning_settings,
)
from paddlemae.tasks.plan.plan import Choice, Settings
from paddlemae.tasks.plan.pretraining_settings import (
    machine,
    model_settings,
    pretraining_settings,
    reading_settings,
    statistics_settings,
)
from paddlemae.tasks.plan.segmentation_settings import chosen_by_masks, masked_images
from paddlemae.tasks.plan.time_split import TimeSplit, TimeTooShort
from paddlemae.tasks.plan.trial import time_finetuning, time_pretraining, time_reading, time_segmentation
from paddlemae.tasks.training.mask_splits import open_scenes

GUESSED_RATE = 5e10  # operations a second of a small CPU, before anything is measured
TRIAL_SECONDS = 4.0
MOST_TRIALS = 3
TRIAL_IMAGES = 2048  # that steps are tried on
READING_SECONDS = 1.5
FEW_FINETUNING_STEPS, FEW_SEGMENTATION_STEPS = 500, 1500  # for which they may take more than their share of the time
PACKED_IMAGES = 48  # that packing is tried on
ROOM_SHARE = 0.25  # of the free space, for a packed copy
ENCODER_KEYS = tuple(f"model.{name}" for name in names_of(EncoderShape))
NO_READING = rules.Input(0, False, "")


@dataclass(frozen=True)
class Measured:
    """A pretraining without its length, and its speed.

    Attributes:
        batch_size: images of a step.
        computing: seconds a view without reading.
        seconds: of making the packed copy and of all steps, for which this was chosen.
    """

    shape: rules.Shape
    batch_size: int
    reading: rules.Input
    computing: float
    seconds: float

    @property
    def a_view(self) -> float:
        """Return the seconds a view, with reading."""
        return self.computing + self.reading.seconds

    def course(self, survey: DataSurvey, seconds: float) -> rules.Course:
        """Return how long is trained in a time."""
        return rules.choose_course(survey, seconds - self.reading.start, self.a_view, batch_size=self.batch_size)

    def seconds_of(self, course: rules.Course) -> float:
        """Return the seconds of making the packed copy and of all steps."""
        return self.reading.start + course.updates * course.batch_size * self.a_view


@dataclass(frozen=True)
class Tuned:
    """A fine-tuning or a segmentation as it was chosen.

    Attributes:
        seconds: of its steps and evaluations.
        evaluating: of these, for evaluations.
    """

    task: str
    settings: Settings
    seconds: float
    evaluating: float


@dataclass(frozen=True)
class Wish:
    """The request of the user: the images, and settings of both recipes; see `make_plan`."""

    data: str
    device: str
    seed: int
    cache: str | None


def measure_pretraining(wish: Wish, survey: DataSurvey, source: Source, split: TimeSplit) -> Measured:
    """Choose a pretraining for the time by the rules, with the speed that is measured.

    Raises:
        TimeTooShort: no training would have enough steps.
    """
    some = subset(source, spread_over(len(source), TRIAL_IMAGES))
    seconds = split.pretrain_steps

    def recipe(shape: rules.Shape, course: rules.Course) -> PretrainRecipe:
        return recipe_of("pretrain", _settings(wish, survey, shape, course, NO_READING, 1.0))

    shape, course, computing = _settle(
        survey, seconds, lambda *chosen: time_pretraining(recipe(*chosen), some, TRIAL_SECONDS)
    )
    view = view_of(recipe(shape, course))
    reading = _choose_reading(wish, survey, shape, some, view, computing, seconds / computing)
    measured = Measured(shape, course.batch_size, reading, computing, seconds)
    _check_time(split, measured)
    return measured


def settings_of(wish: Wish, survey: DataSurvey, measured: Measured, course: rules.Course) -> Settings:
    """Return the settings of a pretraining of some length."""
    return _settings(wish, survey, measured.shape, course, measured.reading, measured.a_view)


def _settings(
    wish: Wish, survey: DataSurvey, shape: rules.Shape, course: rules.Course, reading: rules.Input, a_view: float
) -> Settings:
    return pretraining_settings(
        wish.data,
        survey,
        shape,
        course,
        reading,
        cache=wish.cache if reading.cached else None,
        seconds_a_view=a_view,
        machine=machine(wish.device, wish.seed, _precision()),
    )


def _settle(
    survey: DataSurvey, seconds: float, trial: Callable[[rules.Shape, rules.Course], float]
) -> tuple[rules.Shape, rules.Course, float]:
    """Choose and measure in turns, until the choice is one that was measured, or `MOST_TRIALS` were made.

    Args:
        trial: returns the seconds a view, without reading.
    Returns:
        the choice and its seconds a view, measured or computed from the speed of the last trial.
    """
    rate, tried = GUESSED_RATE, dict[tuple[rules.Shape, int], float]()
    while True:
        shape = rules.choose_shape(survey, seconds, rate)
        course = rules.choose_course(survey, seconds, rules.operations(shape) / rate, accelerator=not is_cpu())
        key = (shape, course.batch_size)
        if key in tried or len(tried) == MOST_TRIALS:
            return shape, course, tried.get(key, rules.operations(shape) / rate)
        tried[key] = trial(shape, course)
        rate = rules.operations(shape) / tried[key]


def _choose_reading(
    wish: Wish, survey: DataSurvey, shape: rules.Shape, some: Source, view: View, computing: float, views: float
) -> rules.Input:
    """Measure reading, from a packed copy as well where that may pay, and choose."""
    a_view = time_reading(some, view, wish.seed, READING_SECONDS)
    reading = rules.Reading(a_view)
    if wish.cache and a_view > rules.SLOW_READING * computing:
        few = subset(some, spread_over(len(some), PACKED_IMAGES))
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            packed = cache_images(few, folder, view, short_side=shape.scene)
            packing = (time.perf_counter() - began) / len(few)
            cached = time_reading(packed, view, wish.seed, READING_SECONDS / 3)
        reading = rules.Reading(a_view, cached, packing, ROOM_SHARE * free_bytes(wish.cache))
    copy = rules.packed_bytes(survey, shape)
    return rules.choose_reading(reading, computing, views, survey.images, copy, usable_cpus(), on_cpu=is_cpu())


def free_bytes(folder: str) -> int:
    """Return the bytes that are free where a folder is, or will be."""
    place = Path(folder).expanduser().absolute()
    return shutil.disk_usage(next(each for each in (place, *place.parents) if each.exists())).free


def view_of(recipe: PretrainRecipe) -> View:
    """Return the training views of a recipe."""
    return training_view(recipe.augment, recipe.model.image_size, recipe.model.channels)


def _check_time(split: TimeSplit, measured: Measured) -> None:
    """Refuse a time in which nothing can be learnt."""
    needed = measured.reading.start + rules.LEAST_UPDATES * rules.SMALLEST_BATCH * measured.a_view
    if split.pretrain_steps < needed:
        least = split.least_minutes(needed)
        raise TimeTooShort(
            f"the time is too short for any training: {rules.LEAST_UPDATES} steps of the smallest model on these "
            f"images need {least:g} minutes; give that at least, and better half an hour",
            least,
        )


def _precision() -> str:
    if is_cpu():
        return "float32"
    return "bfloat16" if paddle.amp.is_bfloat16_supported() else "float16"


def measure_finetuning(
    wish: Wish, survey: DataSurvey, source: Source, split: TimeSplit, shape: rules.Shape, reading: rules.Input
) -> Tuned:
    """Choose a fine-tuning of a pretrained model for the time, with the speed that is measured."""
    images = LabelledImages.of(survey)
    around = reading_settings(reading, wish.cache if reading.cached else None, shape)
    chosen, by_labels = chosen_by_labels(wish.data, survey, shape, images)
    named = machine(wish.device, wish.seed, _precision())
    recipe = recipe_of("finetune", {**by_labels, **named, **_whole_model(survey, shape)})
    some = _labelled(source)
    computing, forward = time_finetuning(recipe, some, TRIAL_SECONDS)
    a_view, an_image = computing + reading.seconds, forward + survey.read_seconds
    needed = FEW_FINETUNING_STEPS * chosen.training.batch_size * a_view
    seconds = max(split.finetune_steps, min(needed, split.most_finetune_steps)) - reading.start
    shares = affordable_shares(survey, seconds, an_image)
    if shares != Shares():
        images = LabelledImages.of(survey, shares)
        chosen, by_labels = chosen_by_labels(wish.data, survey, shape, images, shares)
    tuning = choose_tuning(images, chosen.training.epochs, seconds, a_view, an_image)
    settings = finetuning_settings(by_labels, images, tuning, around, named)
    return _tuned("finetune", settings, tuning, images, a_view, an_image, reading.start)


def measure_segmentation(wish: Wish, survey: DataSurvey, split: TimeSplit, shape: rules.Shape) -> Tuned:
    """Choose a segmentation from a pretrained model for the time, with the speed that is measured."""
    named = machine(wish.device, wish.seed, _precision())
    chosen, by_masks = chosen_by_masks(wish.data, survey, shape)
    recipe = recipe_of("segment", {**by_masks, **named, **_whole_model(survey, shape)})
    source = open_scenes(wish.data, "train")
    some = subset(source, spread_over(len(source), TRIAL_IMAGES))
    a_view, a_window = time_segmentation(recipe, some, TRIAL_SECONDS)
    a_view += survey.read_seconds / usable_cpus()
    an_image = a_window * rules.windows_of(survey, shape, recipe.overlap) + survey.read_seconds
    images = masked_images(survey)
    needed = FEW_SEGMENTATION_STEPS * chosen.training.batch_size * a_view
    seconds = max(split.finetune_steps, min(needed, split.most_finetune_steps))
    tuning = choose_tuning(images, chosen.training.epochs, seconds, a_view, an_image, fewest=1)
    settings = finetuning_settings(by_masks, images, tuning, {}, named)
    return _tuned("segment", settings, tuning, images, a_view, an_image)


def _tuned(
    task: str,
    settings: Settings,
    tuning: Tuning,
    images: LabelledImages,
    a_view: float,
    an_image: float,
    start: float = 0.0,
) -> Tuned:
    seconds = tuning.seconds(images, a_view, an_image)
    return Tuned(task, settings, start + seconds, seconds - tuning.seconds(images, a_view, 0.0))


def _whole_model(survey: DataSurvey, shape: rules.Shape) -> Settings:
    """Return what fine-tuning takes from the pretrained model."""
    whole = {**statistics_settings(survey), **model_settings(survey, shape)}
    taken = {key: choice for key, choice in whole.items() if key in ("mean", "std", *ENCODER_KEYS)}
    return taken | {"model.size": Choice("mini", "overruled"), "init": Choice(SCRATCH, "new weights")}


def _labelled(source: Source) -> Source:
    """Return some images that have a label."""
    assert source.targets is not None
    indices = np.flatnonzero(source.targets.known)
    return subset(source, indices[spread_over(len(indices), TRIAL_IMAGES)])


def recipe_of(task: str, settings: Settings) -> Any:
    """Return the recipe that settings make."""
    return load_recipe(task, None, {key: choice.value for key, choice in settings.items()})
