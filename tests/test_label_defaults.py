"""Settings of a fine-tuning that nobody names are chosen by the number of labelled images."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paddlemae.recipe import (
    Labelled,
    build_recipe,
    choose,
    describe,
    dump_recipe,
    load_recipe,
    open_names,
    short_run,
    with_stored,
)
from paddlemae.recipe.label_defaults import BANDS, band_of, chosen_names

FEW = Labelled(120, 120, 128, 4)


def chosen(labelled: Labelled = FEW, *overrides: str, name: str | None = None):
    return choose(load_recipe("finetune", name, ["init=somewhere", *overrides]), labelled)[0]


@pytest.mark.parametrize("images", [1, 20, 999, 1_000, 4_999, 5_000, 50_000, 1_281_167])
def test_every_number_of_labels_has_a_whole_recipe(images: int) -> None:
    recipe, choices = choose(load_recipe("finetune"), Labelled(images, images, 192, 12))
    assert open_names(recipe) == () and {choice.name for choice in choices} == set(chosen_names("finetune"))
    assert recipe.training.total_steps(images) >= 1_500
    assert recipe.training.warmup_steps(images) == pytest.approx(recipe.training.total_steps(images) / 10, rel=0.01)
    assert all(choice.reason for choice in choices)
    assert build_recipe("finetune", recipe.model_dump()) == recipe


def test_the_bands_ascend_and_end_nowhere() -> None:
    bounds = [band.below for band in BANDS]
    assert bounds == sorted(set(bounds)) and bounds[-1] == float("inf")
    assert [band_of(images).below for images in (0, 999, 1_000)] == [1_000, 1_000, 5_000]


def test_few_labels_get_many_epochs_and_a_learning_rate_for_their_batch() -> None:
    recipe = chosen()
    assert recipe.training.total_steps(120) == BANDS[0].steps and recipe.training.epochs == 400
    assert recipe.training.base_lr * recipe.training.effective_batch_size / 256 == pytest.approx(BANDS[0].lr / 3)
    other = chosen(FEW, "batch_size=8", "accumulation_steps=2").training
    assert other.base_lr * 16 / 256 == pytest.approx(BANDS[0].lr / 3) and other.total_steps(120) == BANDS[0].steps
    assert recipe.evaluate_every == 20 and recipe.training.checkpoint_every == 40


def test_a_head_is_fitted_for_few_labels_of_pretrained_models() -> None:
    def head(labelled: Labelled, *named: str) -> tuple[bool, str]:
        recipe = chosen(labelled, *named)
        return recipe.fit_head, recipe.model.pool

    assert head(FEW) == (True, "mean+std") == head(FEW, "pool=mean+std")
    assert head(FEW, "fit_head=false") == (False, "mean+std")
    assert head(FEW, "base_lr=0.1") == (False, "mean") == head(replace(FEW, is_pretrained=False))
    assert head(replace(FEW, images=20_000)) == (False, "mean+std") == head(replace(FEW, is_multi_label=True))
    lr = chosen(FEW, "fit_head=false").training.base_lr
    assert lr == pytest.approx(3 * chosen(FEW).training.base_lr)


def test_few_labels_get_harder_views_where_weights_are_pretrained_and_images_are_pictures() -> None:
    def views(labelled: Labelled) -> tuple[int, float, float]:
        augment = chosen(labelled).augment
        return augment.randaugment, augment.erasing, augment.crop_scale[0]

    assert views(FEW) == (2, 0.25, 0.35)
    assert views(replace(FEW, is_pretrained=False)) == (0, 0, 0.5)
    assert views(replace(FEW, is_picture=False)) == (0, 0.25, 0.35)
    assert views(replace(FEW, images=2_000)) == views(replace(FEW, images=2_000, is_pretrained=False))


def test_what_is_named_stays() -> None:
    named = ["base_lr=0.5", "layer_decay=0.3", "crop_scale=null", "batch_size=7", "weight_decay=0", "mixup=0.9"]
    recipe = chosen(FEW, *named)
    plain = load_recipe("finetune", None, ["init=somewhere", *named])
    assert (recipe.layer_decay, recipe.mixup, recipe.augment.crop_scale) == (0.3, 0.9, None)
    assert (recipe.training.base_lr, recipe.training.batch_size, recipe.training.weight_decay) == (0.5, 7, 0)
    assert set(open_names(plain)).isdisjoint({"mixup", "layer_decay", "training.base_lr", "augment.crop_scale"})
    assert choose(recipe, FEW) == (recipe, ())


def test_a_length_that_is_named_stays() -> None:
    by_epochs = chosen(FEW, "epochs=3").training
    assert (by_epochs.epochs, by_epochs.warmup_epochs, by_epochs.steps) == (3, 0.3, None)
    by_steps = chosen(FEW, "steps=30").training
    assert by_steps.total_steps(120) == 30 and by_steps.warmup_steps(120) == pytest.approx(3)
    assert chosen(FEW, "epochs=50", "warmup_epochs=1").training.warmup_epochs == 1
    assert chosen(FEW, "steps=100", "warmup_epochs=10").training.warmup_steps(120) == 10  # of the default 100 epochs


def test_a_run_much_shorter_than_the_default_gets_a_line() -> None:
    recipe = chosen(FEW, name="cifar10")
    assert short_run(recipe, 120, 120).startswith("19 steps are few for 120 labelled images")
    assert short_run(chosen(), 120, 120) is None and short_run(chosen(FEW, "steps=400"), 120, 120) is None


def test_repeated_images_make_longer_epochs() -> None:
    recipe = choose(load_recipe("finetune"), Labelled(120, 480, 128, 4))[0]
    assert recipe.training.epochs == 100 and recipe.training.total_steps(480) == 1_500


def test_layer_decay_is_for_pretrained_encoders() -> None:
    def decay(width: int, depth: int, is_pretrained: bool = True) -> float:
        return choose(load_recipe("finetune"), Labelled(500, 500, width, depth, is_pretrained))[0].layer_decay

    assert decay(128, 4, False) == decay(768, 12, False) == 1
    assert 1 > decay(192, 12) == decay(128, 4) > decay(768, 12)


def test_unequal_classes_are_sampled_alike_unless_something_else_is_named() -> None:
    unequal = Labelled(120, 120, 128, 4, balanced_views=600)
    recipe = chosen(unequal)
    assert recipe.sampling == "balanced" and recipe.training.total_steps(600) == BANDS[0].steps
    assert chosen(FEW).sampling is None
    for named in ("class_weights=balanced", "primary_metric=top1", "sampling=null"):
        other = chosen(unequal, named)
        assert other.sampling is None and other.training.total_steps(120) == BANDS[0].steps


def test_shifted_views_are_not_cropped() -> None:
    recipe = chosen(FEW, "shift=2", "crop_scale=null", "eval_crop_ratio=1")
    assert recipe.augment.crop_scale is None and recipe.augment.shift == 2


def test_images_fit_views_as_in_pretraining_unless_named() -> None:
    stretched = replace(FEW, fit="stretch")
    assert chosen(stretched).augment.fit == "stretch"
    assert chosen(stretched, "augment.fit=crop").augment.fit == "crop"


def test_batches_hold_all_views_of_an_image() -> None:
    assert chosen(FEW, "repeats=3", "batch_size=33").training.batch_size == 33
    recipe = load_recipe("finetune", None, ["augment.repeats=4"])
    assert choose(recipe, FEW)[0].training.batch_size % 4 == 0


def test_a_stored_choice_is_taken_where_nothing_is_named() -> None:
    stored = chosen(FEW, "base_lr=0.7")
    again = load_recipe("finetune", None, ["init=somewhere", "base_lr=0.7"])
    assert again != stored and with_stored(again, stored) == stored
    other = load_recipe("finetune", None, ["init=somewhere", "base_lr=0.6"])
    assert with_stored(other, stored) != stored
    late = load_recipe("finetune", None, ["init=somewhere", "warmup_epochs=99", "steps=3"])
    assert with_stored(late, chosen(FEW, "epochs=2")) == late  # does not go together


@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_a_built_in_recipe_names_a_model_for_random_weights_only(name: str, tmp_path) -> None:
    scratch, tuned = (load_recipe("finetune", name, [f"init={init}"]) for init in ("scratch", "runs/mine"))
    assert scratch.model.size == "mini" and scratch.mean
    assert (tuned.model.size, tuned.model.image_size, tuned.model.patch_size) == (None, None, None)
    assert (tuned.model.channels, tuned.mean, tuned.std) == (None, None, None)
    assert tuned.training == scratch.training and tuned.model.drop_path == scratch.model.drop_path
    typed = load_recipe("finetune", name, ["init=runs/mine", "image_size=64", "mean=[0.5]", "std=[0.5]"])
    assert (typed.model.image_size, typed.mean) == (64, (0.5,))
    own = tmp_path / "own.yaml"
    own.write_text(describe.describe_recipe("finetune", name))
    assert load_recipe("finetune", str(own), ["init=runs/mine"]).model.size == "mini"


def test_a_schedule_alone_is_a_recipe(tmp_path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("task: finetune\ntraining: {epochs: 7}\n")
    recipe = load_recipe("finetune", str(path), ["init=runs/mine"])
    assert recipe.training.epochs == 7 and "training.base_lr" in open_names(recipe)


def test_a_printed_recipe_leaves_the_choice_open(tmp_path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(describe.describe_recipe("finetune"))
    assert open_names(load_recipe("finetune", str(path))) == chosen_names("finetune")
    path.write_text(dump_recipe(load_recipe("finetune"), without=chosen_names("finetune")))
    assert open_names(load_recipe("finetune", str(path))) == chosen_names("finetune")
    assert open_names(load_recipe("pretrain")) == ()


def test_two_ways_to_the_same_balance_are_refused() -> None:
    with pytest.raises(ValueError, match="class_weights=balanced has no effect"):
        load_recipe("finetune", None, ["sampling=balanced", "class_weights=balanced"])
    assert load_recipe("finetune", None, ["sampling=balanced", "class_weights=[1,2]"]).class_weights == (1, 2)
    for wrong in ("class_weights=[1,0]", "class_weights=[-1]", "class_weights=even", "sampling=even"):
        with pytest.raises(ValueError, match="class_weights|sampling"):
            load_recipe("finetune", None, [wrong])
