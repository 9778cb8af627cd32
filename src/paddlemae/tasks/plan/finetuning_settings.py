"""Choose a fine-tuning by the number of labels and the time: settings of a recipe, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from paddlemae.tasks.plan import rules
from paddlemae.tasks.plan.data_survey import DataSurvey
from paddlemae.tasks.plan.plan import Choice, Settings
from paddlemae.tasks.plan.pretraining_settings import augmentation, digits, reading_settings

TEST_SHARE = 0.2  # of each class, where there is no split to evaluate on
MOST_EVALUATIONS = 20
EVALUATION_SHARE = 0.15  # of the time, at most


class Length(NamedTuple):
    """Epochs and batch size for up to `labels` training images."""

    labels: float
    epochs: int
    batch_size: int


LENGTHS = (
    Length(200, 100, 16),
    Length(1_000, 80, 32),
    Length(5_000, 50, 64),
    Length(20_000, 30, 128),
    Length(float("inf"), 20, 128),
)
PEAK_LR = 1e-3


@dataclass(frozen=True)
class Tuning:
    """How long a fine-tuning is, and what it takes.

    Attributes:
        train, test: numbers of images.
        epochs, batch_size: of the training.
        evaluations: how many there are, the last one included.
    """

    train: int
    test: int
    epochs: float
    batch_size: int
    evaluations: int

    def seconds(self, seconds_a_view: float, seconds_an_evaluation: float) -> float:
        """Return the seconds of training and of evaluating."""
        return self.epochs * self.train * seconds_a_view + self.evaluations * self.test * seconds_an_evaluation


def sizes_of(survey: DataSurvey) -> tuple[int, int]:
    """Return the numbers of images to train and to evaluate on."""
    if survey.test_images is not None:
        return survey.labelled, survey.test_images
    test = round(TEST_SHARE * survey.labelled)
    return survey.labelled - test, test


def length_of(train: int) -> Length:
    """Return the epochs and batch size for a number of training images."""
    return next(length for length in LENGTHS if train <= length.labels)


def choose_tuning(survey: DataSurvey, seconds: float, seconds_a_view: float, seconds_an_evaluation: float) -> Tuning:
    """Choose the length for a time: what the labels ask for, or less."""
    train, test = sizes_of(survey)
    length = length_of(train)
    one = max(1e-9, test * seconds_an_evaluation)
    evaluations = max(2, min(MOST_EVALUATIONS, int(EVALUATION_SHARE * seconds / one)))
    left = max(0.0, seconds - evaluations * one)
    epochs = min(float(length.epochs), left / (train * seconds_a_view))
    least = length.batch_size / train  # one step
    epochs = digits(max(epochs, least))
    return Tuning(train, test, epochs, length.batch_size, max(1, min(evaluations, int(epochs) + 1)))


def finetuning_settings(
    data: str,
    survey: DataSurvey,
    shape: rules.Shape,
    tuning: Tuning,
    reading: rules.Input,
    *,
    cache: str | None,
    machine: Settings,
) -> dict[str, Choice]:
    """Return the settings of a fine-tuning, full key -> choice; what the model is comes from its initial weights."""
    classes = len(survey.classes)
    settings = {"data": Choice(data, f"{survey.labelled:,} labelled images of {classes} classes")}
    if survey.test_images is None:
        settings["val_fraction"] = Choice(TEST_SHARE, "no split to evaluate on, so part of each class is held out")
    settings |= augmentation(survey, shape)
    by_labels = f"by the number of labels ({tuning.train:,})"
    full = length_of(tuning.train).epochs
    why = by_labels if tuning.epochs >= full else f"all that the time allows; {full} would be better"
    settings |= {
        "training.batch_size": Choice(tuning.batch_size, by_labels),
        "training.epochs": Choice(tuning.epochs, why),
        "training.warmup_epochs": Choice(digits(0.1 * tuning.epochs), "10% of the run"),
        "training.base_lr": Choice(
            float(f"{PEAK_LR * 256 / tuning.batch_size:.2g}"), f"{PEAK_LR:g} at this batch size"
        ),
        "training.checkpoint_every": Choice(tuning.epochs, "at the end; each new best is saved as well"),
        "evaluate_every": Choice(
            digits(tuning.epochs / tuning.evaluations), f"{tuning.evaluations} evaluations of {tuning.test:,} images"
        ),
    }
    return {**settings, **reading_settings(reading, cache), **machine}
