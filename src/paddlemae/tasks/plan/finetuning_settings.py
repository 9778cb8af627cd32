"""Choose a fine-tuning for the labels and the time: settings of a recipe, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

from paddlemae.recipe import FinetuneRecipe, Labelled
from paddlemae.recipe import choose as choose_by_labels
from paddlemae.tasks.plan import rules
from paddlemae.tasks.plan.data_survey import DataSurvey
from paddlemae.tasks.plan.plan import Choice, Settings
from paddlemae.tasks.plan.pretraining_settings import digits, rectangle_settings
from paddlemae.tasks.training.labelled_splits import FEWEST_IMAGES, VALIDATION_SHARE

TEST_SHARE = 0.2  # of each class, where there is no split to evaluate on
UNEQUAL = 1.5  # the largest class over the smallest, from which rare classes are shown as often as others
MOST_EVALUATIONS, FEWEST_EVALUATIONS = 20, 4
NEARLY = 0.97  # of the epochs that labels ask for, which is as good
EVALUATION_SHARE = 0.15  # of the time, at most
TEST_TIME = 0.1  # of the time, at most, for the test part where the plan chooses it


@dataclass(frozen=True)
class Shares:
    """Shares of the labelled images: of all for the test part, where no split is one, and of the others to validate."""

    test: float = TEST_SHARE
    validation: float = VALIDATION_SHARE


def affordable_shares(survey: DataSurvey, seconds: float, an_evaluation: float) -> Shares:
    """Return the shares that can be evaluated in a part of the time; at least one image of each class.

    Args:
        seconds: of training and evaluating.
        an_evaluation: seconds of one image.
    """
    smallest = min(count for count in survey.classes.values() if count)

    def share(usual: float, images: float, of: float) -> float:
        return usual if images >= usual * of else min(usual, digits(max(images / of, 1 / smallest)))

    affordable = max(0.0, seconds) / an_evaluation
    test = 0.0 if survey.test_images is not None else share(TEST_SHARE, TEST_TIME * affordable, survey.labelled)
    left = (1 - test) * survey.labelled
    validation = share(VALIDATION_SHARE, EVALUATION_SHARE * affordable / FEWEST_EVALUATIONS, left)
    return Shares(test or TEST_SHARE, validation)


@dataclass(frozen=True)
class LabelledImages:
    """Numbers of labelled images.

    Attributes:
        train, validation, test: of each part.
        views: of an epoch: more than `train` where rare classes are repeated.
        is_unequal: whether they are.
    """

    train: int
    validation: int
    test: int
    views: int
    is_unequal: bool

    @classmethod
    def of(cls, survey: DataSurvey, shares: Shares = Shares()) -> LabelledImages:
        """Count the images of each part about as fine-tuning will draw them."""
        counts = [count for count in survey.classes.values() if count]
        is_unequal = not survey.is_multi_label and max(counts) > UNEQUAL * min(counts)
        left = 1 if survey.test_images is not None else 1 - shares.test
        kept = left * (1 - shares.validation if left * min(counts) >= FEWEST_IMAGES else 1)
        train = max(1, round(kept * survey.labelled))
        test = survey.test_images if survey.test_images is not None else round(shares.test * survey.labelled)
        views = round(kept * len(counts) * max(counts)) if is_unequal else train
        return cls(train, round((left - kept) * survey.labelled), test, views, is_unequal)


def chosen_by_labels(
    data: str, survey: DataSurvey, shape: rules.Shape, images: LabelledImages, shares: Shares = Shares()
) -> tuple[FinetuneRecipe, dict[str, Choice]]:
    """Return the recipe that the number of labels asks for, and its settings (see `recipe.label_defaults`)."""
    settings = {"data": Choice(data, f"{survey.labelled:,} labelled images of {len(survey.classes)} classes")}
    if survey.test_images is None:
        why = "no split to evaluate on, so part of each class is held out"
        less = "" if shares.test == TEST_SHARE else "; more would take too long to evaluate"
        settings["val_fraction"] = Choice(shares.test, why + less)
    if shares.validation < VALIDATION_SHARE and images.validation:
        why = f"{images.validation:,} images; more would take too long to evaluate"
        settings["validation"] = Choice(shares.validation, why)
    if images.is_unequal:
        counts = survey.classes.values()
        why = f"classes have {min(counts):,} to {max(counts):,} images, so the rare ones are shown as often"
        settings["sampling"] = Choice("balanced", why)
    settings |= rectangle_settings(survey, shape)
    content: dict[str, object] = {}
    for key, (value, _) in settings.items():
        section, _, leaf = key.rpartition(".")
        (content.setdefault(section, {}) if section else content)[leaf] = value  # type: ignore[index]
    labelled = Labelled(
        images.train,
        images.views,
        shape.model.width,
        shape.model.depth,
        is_multi_label=survey.is_multi_label,
        is_picture=survey.channels in (1, 3) and survey.bits == 8,
        fit=rules.choose_fit(survey, shape)[0],
    )
    recipe, choices = choose_by_labels(FinetuneRecipe.model_validate(content), labelled)
    return recipe, settings | {choice.name: Choice(choice.value, choice.reason) for choice in choices}


@dataclass(frozen=True)
class Tuning:
    """How long a fine-tuning is: epochs and evaluations; `wanted` epochs are what the labels ask for."""

    epochs: float
    wanted: float
    evaluations: int

    def seconds(self, images: LabelledImages, a_view: float, an_evaluation: float) -> float:
        """Return the seconds of training and of evaluating; the test part is evaluated once."""
        evaluated = self.evaluations * images.validation + images.test
        return self.epochs * images.views * a_view + evaluated * an_evaluation


def choose_tuning(
    images: LabelledImages,
    wanted: float,
    seconds: float,
    a_view: float,
    an_evaluation: float,
    fewest: int = FEWEST_EVALUATIONS,
) -> Tuning:
    """Choose the length for a time: what the labels ask for, or less.

    Args:
        wanted: epochs.
        seconds: of training and evaluating.
        a_view, an_evaluation: seconds of one image.
        fewest: evaluations, also where they take a larger share of the time than they should.
    """
    left = max(0.0, seconds - images.test * an_evaluation)
    one = images.validation * an_evaluation
    evaluations = max(fewest, min(MOST_EVALUATIONS, int(EVALUATION_SHARE * left / max(one, 1e-9))))

    def affordable(evaluations: int) -> float:
        return max(0.0, left - evaluations * one) / (images.views * a_view)

    evaluations = max(1, min(evaluations, math.ceil(affordable(evaluations))))
    epochs = affordable(evaluations)
    epochs = wanted if epochs > NEARLY * wanted else digits(max(epochs, 1 / images.views))
    return Tuning(epochs, wanted, max(1, min(evaluations, math.ceil(epochs))))


def finetuning_settings(
    by_labels: Settings, images: LabelledImages, tuning: Tuning, reading: dict[str, Choice], machine: Settings
) -> dict[str, Choice]:
    """Return the settings of a fine-tuning, full key -> choice; what the model is comes from its initial weights.

    Args:
        by_labels: as of `chosen_by_labels`.
        reading, machine: as of `reading_settings` and `machine`.
    """
    settings = dict(by_labels)
    if tuning.epochs < NEARLY * tuning.wanted:
        why = f"all that the time allows; {tuning.wanted:g} would be better"
        settings["training.epochs"] = Choice(tuning.epochs, why)
        settings["training.warmup_epochs"] = Choice(digits(0.1 * tuning.epochs), "10% of the run")
    every = digits(tuning.epochs / tuning.evaluations)
    chosen = f"{tuning.evaluations} evaluations of about {images.validation:,} images, which choose the best"
    if tuning.evaluations == 1:
        chosen = f"one evaluation of about {images.validation:,} images, as they take long"
    evaluated = chosen if images.validation else "too few images for a validation part; the last step counts"
    settings["evaluate_every"] = Choice(every, evaluated)
    settings["training.checkpoint_every"] = Choice(digits(tuning.epochs / 4), "4 in all")
    return {**settings, **reading, **machine}
