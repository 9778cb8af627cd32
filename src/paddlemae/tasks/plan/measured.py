"""Choose a pretraining and a fine-tuning by steps that are tried on this device."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddlemae.data.cache import cache_images
from paddlemae.data.sources import Source
from paddlemae.data.sources.subsets import spread_over, subset
from paddlemae.data.views.augment import View
from paddlemae.engine.cpus import usable_cpus
from paddlemae.engine.device import is_cpu
from paddlemae.recipe import SCRATCH, PretrainRecipe, load_recipe
from paddlemae.tasks.models.preprocess import training_view
from paddlemae.tasks.plan import rules
from paddlemae.tasks.plan.data_survey import DataSurvey
from paddlemae.tasks.plan.finetuning_settings import Tuning, choose_tuning, finetuning_settings, length_of, sizes_of
from paddlemae.tasks.plan.plan import Choice, Settings
from paddlemae.tasks.plan.pretraining_settings import machine, pretraining_settings
from paddlemae.tasks.plan.time_split import TimeSplit, least_minutes
from paddlemae.tasks.plan.trial import time_finetuning, time_pretraining, time_reading

GUESSED_RATE = 5e10  # operations a second of a small CPU, before anything is measured
TRIAL_SECONDS = 4.0
MOST_TRIALS = 3
TRIAL_IMAGES = 2048  # that steps are tried on
READING_SECONDS = 1.5
PACKED_IMAGES = 48  # that packing is tried on
ROOM_SHARE = 0.25  # of the free space, for a packed copy
NO_READING = rules.Input(0, False, "")


@dataclass(frozen=True)
class Pretraining:
    """A pretraining as it was chosen.

    Attributes:
        computing: seconds a view without reading.
        settings: of its recipe.
    """

    shape: rules.Shape
    course: rules.Course
    reading: rules.Input
    computing: float
    settings: Settings

    @property
    def seconds(self) -> float:
        """Return the seconds of making the packed copy and of all steps."""
        steps = self.course.updates * self.course.batch_size
        return self.reading.start + steps * (self.computing + self.reading.seconds)


@dataclass(frozen=True)
class Finetuning:
    """A fine-tuning as it was chosen, and the seconds of its steps and evaluations."""

    tuning: Tuning
    settings: Settings
    seconds: float


@dataclass(frozen=True)
class Wish:
    """What the user named: the images, and settings of both recipes; see `make_plan`."""

    data: str
    device: str
    seed: int
    cache: str | None


def measure_pretraining(wish: Wish, survey: DataSurvey, source: Source, split: TimeSplit) -> Pretraining:
    """Choose a pretraining for the time by the rules, with the speed that is measured.

    Raises:
        ValueError: the time is too short for any training.
    """
    some = subset(source, spread_over(len(source), TRIAL_IMAGES))
    seconds = split.pretrain_steps

    def settings_of(shape: rules.Shape, course: rules.Course, reading: rules.Input, a_view: float) -> Settings:
        cache = wish.cache if reading.cached else None
        return pretraining_settings(
            wish.data,
            survey,
            shape,
            course,
            reading,
            cache=cache,
            seconds_a_view=a_view,
            machine=machine(wish.device, wish.seed, _precision()),
        )

    def recipe(shape: rules.Shape, course: rules.Course) -> PretrainRecipe:
        return recipe_of("pretrain", settings_of(shape, course, NO_READING, 1.0))

    shape, course, computing = _settle(
        survey, seconds, lambda *chosen: time_pretraining(recipe(*chosen), some, TRIAL_SECONDS)
    )
    view = view_of(recipe(shape, course))
    reading = _choose_reading(wish, survey, shape, some, view, computing, seconds / computing)
    a_view = computing + reading.seconds
    _check_time(seconds - reading.start, a_view, has_labels=split.finetune > 0)
    course = rules.choose_course(survey, seconds - reading.start, a_view, batch_size=course.batch_size)
    return Pretraining(shape, course, reading, computing, settings_of(shape, course, reading, a_view))


def _settle(
    survey: DataSurvey, seconds: float, trial: Callable[[rules.Shape, rules.Course], float]
) -> tuple[rules.Shape, rules.Course, float]:
    """Choose and measure in turns, until the choice is one that was measured; `trial` returns the seconds a view."""
    rate, tried = GUESSED_RATE, dict[tuple[rules.Shape, int], float]()
    while True:
        shape = rules.choose_shape(survey, seconds, rate)
        course = rules.choose_course(survey, seconds, rules.operations(shape) / rate, accelerator=not is_cpu())
        key = (shape, course.batch_size)
        if key not in tried:
            tried[key] = trial(shape, course)
            rate = rules.operations(shape) / tried[key]
            if len(tried) < MOST_TRIALS:
                continue
        return shape, course, tried[key]


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
            packed = cache_images(few, folder, view)
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


def _check_time(seconds: float, a_view: float, *, has_labels: bool) -> None:
    """Refuse a time in which nothing can be learnt."""
    needed = rules.LEAST_UPDATES * rules.SMALLEST_BATCH * a_view
    if seconds < needed:
        least = least_minutes(needed, has_labels=has_labels)
        raise ValueError(
            f"the time is too short for any training: {rules.LEAST_UPDATES} steps of the smallest model on these "
            f"images need {least:g} minutes; give that at least, and better half an hour"
        )


def _precision() -> str:
    return "float32" if is_cpu() else "bfloat16"


def measure_finetuning(
    wish: Wish, survey: DataSurvey, source: Source, split: TimeSplit, pretraining: Pretraining
) -> Finetuning:
    """Choose a fine-tuning of the pretrained model for the time, with the speed that is measured."""
    train, test = sizes_of(survey)
    shape, reading = pretraining.shape, pretraining.reading

    def settings_of(tuning: Tuning) -> Settings:
        cache = wish.cache if reading.cached else None
        return finetuning_settings(
            wish.data,
            survey,
            shape,
            tuning,
            reading,
            cache=cache,
            machine=machine(wish.device, wish.seed, _precision()),
        )

    length = length_of(train)
    tried = settings_of(Tuning(train, test, length.epochs, length.batch_size, 1))
    recipe = recipe_of("finetune", {**tried, **_whole_model(pretraining)})
    some = subset(source, spread_over(len(source), TRIAL_IMAGES))
    computing, forward = time_finetuning(recipe, some, TRIAL_SECONDS)
    a_view, an_image = computing + reading.seconds, forward + survey.read_seconds
    tuning = choose_tuning(survey, split.finetune_steps - reading.start, a_view, an_image)
    return Finetuning(tuning, settings_of(tuning), reading.start + tuning.seconds(a_view, an_image))


def _whole_model(pretraining: Pretraining) -> Settings:
    """Return what fine-tuning takes from the pretrained model."""
    keys = ("image_size", "patch_size", "channels", "embed_dim", "depth", "num_heads")
    settings = {f"model.{key}": pretraining.settings[f"model.{key}"] for key in keys}
    settings |= {key: pretraining.settings[key] for key in ("mean", "std") if key in pretraining.settings}
    return settings | {"model.size": Choice("mini", "overruled"), "init": Choice(SCRATCH, "new weights")}


def recipe_of(task: str, settings: Settings) -> Any:
    """Return the recipe that settings make."""
    return load_recipe(task, None, {key: choice.value for key, choice in settings.items()})
