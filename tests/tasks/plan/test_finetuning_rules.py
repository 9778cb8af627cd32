"""The rules of `paddlemae plan` for fine-tuning: lengths by labels and time, unequal classes."""

from dataclasses import replace

import pytest

from paddlemae.recipe import load_recipe
from paddlemae.tasks.plan import rules
from paddlemae.tasks.plan.finetuning_settings import (
    MOST_EVALUATIONS,
    TEST_SHARE,
    LabelledImages,
    Shares,
    affordable_shares,
    choose_tuning,
    chosen_by_labels,
    finetuning_settings,
)
from tests.support.surveys import PHOTOS

EQUAL = replace(PHOTOS, images=1000, classes={"cat": 500, "dog": 500}, labelled=1000, unlabelled=None)
UNEQUAL = replace(EQUAL, classes={"cat": 900, "dog": 100})
SHAPE = rules.shape_of(EQUAL, 64, rules.MODELS[0], 64, 96)


def test_parts_are_counted_as_fine_tuning_draws_them() -> None:
    images = LabelledImages.of(EQUAL)
    assert (images.train, images.validation, images.test) == (680, 120, 200)
    tested = LabelledImages.of(replace(EQUAL, test_images=300))
    assert (tested.train, tested.validation, tested.test) == (850, 150, 300)
    few = LabelledImages.of(replace(EQUAL, classes={"cat": 4, "dog": 5}, labelled=9))
    assert few.validation == 0 and few.train + few.test == 9


def test_rare_classes_are_repeated_where_classes_are_unequal() -> None:
    assert LabelledImages.of(EQUAL).views == LabelledImages.of(EQUAL).train
    unequal = LabelledImages.of(UNEQUAL)
    assert unequal.is_unequal and unequal.views == pytest.approx(2 * 0.68 * 900, abs=1)
    _, settings = chosen_by_labels("photos", UNEQUAL, SHAPE, unequal)
    assert settings["sampling"].value == "balanced"
    several = replace(UNEQUAL, is_multi_label=True)
    assert chosen_by_labels("photos", several, SHAPE, LabelledImages.of(several))[1]["sampling"].value is None


def test_the_length_is_what_the_labels_ask_for_or_what_the_time_allows() -> None:
    images = LabelledImages.of(EQUAL)
    enough = choose_tuning(images, 50, 1e5, 0.01, 0.001)
    assert enough.epochs == 50 and enough.evaluations == MOST_EVALUATIONS
    little = choose_tuning(images, 50, 60, 0.01, 0.001)
    assert little.epochs < 10 and little.seconds(images, 0.01, 0.001) == pytest.approx(60, rel=0.05)
    none = choose_tuning(images, 50, 0, 0.01, 0.001)
    assert 0 < none.epochs < 0.01


def test_a_shortened_fine_tuning_is_a_recipe_that_says_so() -> None:
    images = LabelledImages.of(EQUAL)
    chosen, by_labels = chosen_by_labels("photos", EQUAL, SHAPE, images)
    tuning = choose_tuning(images, chosen.training.epochs, 60, 0.01, 0.001)
    settings = finetuning_settings(by_labels, images, tuning, {}, {})
    recipe = load_recipe("finetune", None, {key: choice.value for key, choice in settings.items()})
    assert recipe.training.epochs < chosen.training.epochs and recipe.training.warmup_epochs < recipe.training.epochs
    assert f"{chosen.training.epochs:g}" in settings["training.epochs"].reason
    assert recipe.training.base_lr == chosen.training.base_lr


def test_held_back_parts_are_as_large_as_there_is_time_to_evaluate_them() -> None:
    assert affordable_shares(EQUAL, 500, 0.01) == Shares()
    many = replace(EQUAL, images=200_000, classes={"cat": 100_000, "dog": 100_000}, labelled=200_000)
    shares = affordable_shares(many, 500, 0.05)
    images = LabelledImages.of(many, shares)
    assert 900 <= images.test <= 1000 and 300 <= images.validation <= 380
    tuning = choose_tuning(images, 20, 500, 0.01, 0.05)
    assert tuning.seconds(images, 0.01, 0.05) == pytest.approx(500, rel=0.05)
    assert tuning.epochs * images.views * 0.01 > 0.7 * 500
    _, settings = chosen_by_labels("photos", many, SHAPE, images, shares)
    assert settings["val_fraction"].value == shares.test < TEST_SHARE
    assert settings["validation"].value == shares.validation


def test_a_class_keeps_an_image_in_each_part_however_little_time_there_is() -> None:
    shares = affordable_shares(EQUAL, 1, 10)
    assert shares.test * 500 >= 1 and shares.validation * 500 >= 1
    tested = affordable_shares(replace(EQUAL, test_images=10_000), 1, 10)
    assert tested.test == TEST_SHARE and tested.validation < 0.15
