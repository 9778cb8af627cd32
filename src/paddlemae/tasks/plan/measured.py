"""Choose a pretraining and a fine-tuning by steps that are tried on this device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddlemae.data.sources import Source
from paddlemae.data.sources.subsets import spread_over, subset
from paddlemae.engine.cpus import usable_cpus
from paddlemae.engine.device import is_cpu
from paddlemae.recipe import SCRATCH, load_recipe
from paddlemae.tasks.plan import rules
from paddlemae.tasks.plan.data_survey import DataSurvey
from paddlemae.tasks.plan.finetuning_settings import Tuning, choose_tuning, finetuning_settings, length_of, sizes_of
from paddlemae.tasks.plan.plan import Choice, Settings
from paddlemae.tasks.plan.pretraining_settings import pretraining_settings
from paddlemae.tasks.plan.time_split import TimeSplit, TimeTooShort, least_minutes
from paddlemae.tasks.plan.trial import StepTime, time_finetuning, time_pretraining

GUESSED_RATE = 5e10  # operations a second of a small CPU, before anything is measured
TRIAL_SECONDS = 4.0
MOST_TRIALS = 3
TRIAL_IMAGES = 2048  # that steps are tried on
NO_READING_AHEAD = rules.Input(0, None, "reading is a small part of a step")


@dataclass(frozen=True)
class Pretraining:
    """A pretraining as it was chosen.

    Attributes:
        step: what its steps took in the trial.
        settings: of its recipe.
    """

    shape: rules.Shape
    course: rules.Course
    reading: rules.Input
    step: StepTime
    settings: Settings

    @property
    def seconds(self) -> float:
        """Return the seconds of all steps."""
        return self.course.updates * self.step.seconds


@dataclass(frozen=True)
class Finetuning:
    """A fine-tuning as it was chosen, and the seconds of its steps and evaluations."""

    tuning: Tuning
    settings: Settings
    seconds: float


def measure_pretraining(
    data: str, survey: DataSurvey, source: Source, split: TimeSplit, *, device: str, seed: int
) -> Pretraining:
    """Choose a pretraining for the time by the rules, with the speed that is measured.

    Raises:
        ValueError: the time is too short for any training.
    """
    some = subset(source, spread_over(len(source), TRIAL_IMAGES))
    seconds = split.pretrain_steps

    def settings_of(shape: rules.Shape, course: rules.Course, reading: rules.Input, a_view: float) -> Settings:
        return pretraining_settings(
            data,
            survey,
            shape,
            course,
            reading,
            seconds_a_view=a_view,
            device=device,
            seed=seed,
            precision=_precision(),
        )

    def trial(shape: rules.Shape, course: rules.Course, reading: rules.Input) -> StepTime:
        settings = settings_of(shape, course, reading, 1.0)
        return time_pretraining(recipe_of("pretrain", settings), some, TRIAL_SECONDS)

    shape, course, step = _settle(survey, seconds, trial)
    _check_time(seconds, step, has_labels=split.finetune > 0)
    reading = rules.choose_reading(step.waiting / step.images, step.computing, usable_cpus(), is_cpu())
    if reading != rules.Input(0, None, reading.reason):
        step = trial(shape, course, reading)
    course = rules.choose_course(survey, seconds, step.a_view, batch_size=course.batch_size)
    return Pretraining(shape, course, reading, step, settings_of(shape, course, reading, step.a_view))


def _settle(
    survey: DataSurvey, seconds: float, trial: Callable[[rules.Shape, rules.Course, rules.Input], StepTime]
) -> tuple[rules.Shape, rules.Course, StepTime]:
    """Choose and measure in turns, until the choice is one that was measured."""
    rate, tried = GUESSED_RATE, dict[tuple[rules.Shape, int], StepTime]()
    while True:
        shape = rules.choose_shape(survey, seconds, rate)
        course = rules.choose_course(survey, seconds, rules.operations(shape) / rate, accelerator=not is_cpu())
        key = (shape, course.batch_size)
        if key not in tried:
            tried[key] = trial(shape, course, NO_READING_AHEAD)
            rate = rules.operations(shape) / tried[key].computing
            if len(tried) < MOST_TRIALS:
                continue
        return shape, course, tried[key]


def _check_time(seconds: float, step: StepTime, *, has_labels: bool) -> None:
    """Refuse a time in which nothing can be learnt."""
    needed = rules.LEAST_UPDATES * rules.SMALLEST_BATCH * step.a_view
    if seconds < needed:
        least = least_minutes(needed, has_labels=has_labels)
        raise TimeTooShort(
            f"the time is too short for any training: {rules.LEAST_UPDATES} steps of the smallest model on these "
            f"images need {least:g} minutes; give that at least, and better half an hour",
            least,
        )


def _precision() -> str:
    return "float32" if is_cpu() else "bfloat16"


def measure_finetuning(
    data: str, survey: DataSurvey, source: Source, split: TimeSplit, pretraining: Pretraining, *, device: str, seed: int
) -> Finetuning:
    """Choose a fine-tuning of the pretrained model for the time, with the speed that is measured."""
    train, test = sizes_of(survey)
    shape, reading = pretraining.shape, NO_READING_AHEAD

    def settings_of(tuning: Tuning) -> Settings:
        return finetuning_settings(data, survey, shape, tuning, reading, device=device, seed=seed)

    length = length_of(train)
    tried = settings_of(Tuning(train, test, length.epochs, length.batch_size, 1))
    recipe = recipe_of("finetune", {**tried, **_whole_model(pretraining)})
    some = subset(source, spread_over(len(source), TRIAL_IMAGES))
    step, an_image = time_finetuning(recipe, some, TRIAL_SECONDS)
    tuning = choose_tuning(survey, split.finetune_steps, step.a_view, an_image)
    return Finetuning(tuning, settings_of(tuning), tuning.seconds(step.a_view, an_image))


def _whole_model(pretraining: Pretraining) -> Settings:
    """Return what fine-tuning takes from the pretrained model."""
    keys = ("image_size", "patch_size", "channels", "embed_dim", "depth", "num_heads")
    settings = {f"model.{key}": pretraining.settings[f"model.{key}"] for key in keys}
    settings |= {key: pretraining.settings[key] for key in ("mean", "std") if key in pretraining.settings}
    return settings | {"model.size": Choice("mini", "overruled"), "init": Choice(SCRATCH, "new weights")}


def recipe_of(task: str, settings: Settings) -> Any:
    """Return the recipe that settings make."""
    return load_recipe(task, None, {key: choice.value for key, choice in settings.items()})
