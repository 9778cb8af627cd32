"""Defaults of a segmentation by the number of images and the width of the encoder."""

import pytest

from paddlemae.recipe import choose_for_masks, load_recipe, open_names
from paddlemae.train.optim import peak_lr


def chosen(*overrides: str, images: int = 40, width: int = 128, is_pretrained: bool = True):
    recipe = load_recipe("segment", None, [*overrides])
    return choose_for_masks(recipe, images, width, is_pretrained=is_pretrained)


def test_what_nobody_named_is_chosen_and_nothing_else() -> None:
    recipe, choices = chosen()
    assert open_names(recipe) == () and {choice.name for choice in choices} == set(open_names(load_recipe("segment")))
    named, fewer = chosen("batch_size=4", "base_lr=0.1", "evaluate_every=7")
    assert (named.training.batch_size, named.training.base_lr, named.evaluate_every) == (4, 0.1, 7)
    assert len(fewer) == len(choices) - 3


@pytest.mark.parametrize(("images", "steps"), [(8, 1500), (1000, 1500), (20_000, 25_000)])
def test_few_images_are_seen_often(images: int, steps: int) -> None:
    recipe, _ = chosen(images=images)
    assert recipe.training.total_steps(images) == pytest.approx(steps, rel=1e-3)
    assert recipe.training.warmup_steps(images) == pytest.approx(steps / 10, rel=1e-2)


def test_steps_that_are_named_stay() -> None:
    recipe, _ = chosen("steps=300")
    assert recipe.training.total_steps(40) == 300 and recipe.training.warmup_steps(40) == pytest.approx(30)
    assert 300 * 16 / 40 / recipe.evaluate_every == pytest.approx(20)


@pytest.mark.parametrize(
    ("width", "pretrained", "lr"), [(128, True, 1e-3), (384, True, 5e-4), (768, True, 1e-4), (128, False, 5e-4)]
)
def test_the_learning_rate_is_that_of_the_width_whatever_the_batch(width: int, pretrained: bool, lr: float) -> None:
    for overrides in ([], ["batch_size=2", "accumulation_steps=4"]):
        recipe, _ = chosen(*overrides, width=width, is_pretrained=pretrained)
        training = recipe.training
        assert peak_lr(training.base_lr, training.effective_batch_size) == pytest.approx(lr)
    assert recipe.layer_decay == (1.0 if not pretrained else 0.65 if width >= 768 else 0.75)
