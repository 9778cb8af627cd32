"""Plans for real images: what is found, chosen and written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.recipe import load_recipe
from paddlemae.tasks.plan.make_plan import make_plan
from paddlemae.tasks.plan.time_split import TimeTooShort
from paddlemae.tasks.plan.write_plan import output_paths, recipe_text, summarize, write_plan
from tests.support.mask_folders import save, scene
from tests.support.pictures import photo

MINUTES = 600  # enough on a machine that has other work


def write_photos(folder: Path, count: int, height: int = 40, width: int = 48) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        photo(height, width, number).save(folder / f"{number}.png")
    return folder


def test_a_plan_without_labels_is_a_recipe_of_pretraining(tmp_path: Path) -> None:
    plan = make_plan(str(write_photos(tmp_path / "photos", 12)), MINUTES, quiet=True)
    assert set(plan.settings) == {"pretrain"} and plan.survey.images == 12
    assert sum(plan.times.values()) == pytest.approx(60 * MINUTES)
    paths = write_plan(plan, tmp_path / "mine.yaml")
    recipe = load_recipe("pretrain", str(paths["pretrain"]))
    assert recipe == plan.recipe("pretrain")
    assert recipe.model.channels == 3 and recipe.mean == plan.survey.mean
    assert "no labels" in summarize(plan)
    with pytest.raises(ValueError, match="no recipe"):
        plan.recipe("finetune")


def test_every_value_of_a_recipe_has_its_reason_behind_it(tmp_path: Path) -> None:
    plan = make_plan(str(write_photos(tmp_path / "photos", 12)), MINUTES, quiet=True)
    lines = recipe_text(plan, "pretrain").splitlines()[2:]
    values = [line for line in lines if not line.endswith(":")]
    assert len(values) == len(plan.settings["pretrain"])
    assert all(line.partition(" # ")[2] for line in values)


def test_a_plan_with_labels_has_two_recipes(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_photos(tmp_path / "animals" / name, 10)
    plan = make_plan(str(tmp_path / "animals"), MINUTES, quiet=True)
    paths = write_plan(plan, tmp_path / "plans")
    assert [path.name for path in paths.values()] == ["pretrain.yaml", "finetune.yaml"]
    recipe = load_recipe("finetune", str(paths["finetune"]))
    assert recipe.val_fraction > 0 and recipe.init is None and recipe.data == str(tmp_path / "animals")
    assert plan.times["finetune"] < plan.times["pretrain"]


def test_labels_of_some_images_are_for_fine_tuning_and_all_images_for_pretraining(tmp_path: Path) -> None:
    write_photos(tmp_path / "animals", 12)
    names = ["cat"] * 4 + ["dog"] * 4 + [""] * 4
    rows = [f"{number}.png,{name}" for number, name in enumerate(names)]
    (tmp_path / "animals.csv").write_text("\n".join(["path,label", *rows]))
    plan = make_plan(f"{tmp_path / 'animals.csv'}::root={tmp_path / 'animals'}", MINUTES, quiet=True)
    assert plan.survey.images == 12 and plan.survey.labelled == 8
    assert any("8 of 12" in note for note in plan.notes)


def test_images_of_several_classes_are_planned_for_too(tmp_path: Path) -> None:
    write_photos(tmp_path / "animals", 12)
    rows = [f"{number}.png,{('cat', 'dog', 'cat|dog')[number % 3]}" for number in range(12)]
    (tmp_path / "animals.csv").write_text("\n".join(["path,labels", *rows]))
    plan = make_plan(f"{tmp_path / 'animals.csv'}::root={tmp_path / 'animals'}", MINUTES, quiet=True)
    assert plan.survey.is_multi_label and plan.survey.labelled == 12
    assert plan.survey.classes == {"cat": 8, "dog": 8}
    assert plan.recipe("finetune").label_smoothing == 0


def test_one_class_is_no_label(tmp_path: Path) -> None:
    write_photos(tmp_path / "animals" / "cat", 6)
    plan = make_plan(str(tmp_path / "animals"), MINUTES, quiet=True)
    assert set(plan.settings) == {"pretrain"} and any("two classes" in note for note in plan.notes)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine-finetune.yaml").touch()
    with pytest.raises(FileExistsError):
        output_paths(tmp_path / "mine.yaml")


@pytest.mark.parametrize(("channels", "dtype"), [(13, np.uint16), (1, np.uint16), (1, np.uint8)])
def test_bands_and_bits_are_found(tmp_path: Path, channels: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        values = rng.integers(0, 3000 if dtype == np.uint16 else 255, (channels, 40, 40)).astype(dtype)
        np.save(tmp_path / f"{number}.npy", values)
    plan = make_plan(str(tmp_path), MINUTES, quiet=True)
    recipe = plan.recipe("pretrain")
    assert recipe.model.channels == channels == len(recipe.mean)
    assert plan.survey.bits == (16 if dtype == np.uint16 else 8)
    assert recipe.augment.bits == (16 if (channels, dtype) == (1, np.uint16) else None)


@pytest.mark.parametrize("splits", [("train",), ("train", "test"), ("train", "val", "test")])
def test_images_with_masks_are_planned_with_windows_and_a_segmentation(tmp_path: Path, splits: tuple[str, ...]) -> None:
    folder = tmp_path / "scenes"
    for place, split in enumerate(splits):
        for number in range(8):
            image, ids = scene(10 * place + number, 2, (160, 200))
            save(folder / "images" / split / f"{number}.png", image)
            save(folder / "masks" / split / f"{number}.png", ids)
    plan = make_plan(str(folder), MINUTES, quiet=True)
    found = plan.survey.masked
    assert found is not None and found.images == 8 and len(found.classes) == 2
    assert (found.val_images, found.test_images) == (8 if "val" in splits else None, 8 if len(splits) > 1 else None)
    pretrain, segment = plan.recipe("pretrain"), plan.recipe("segment")
    assert pretrain.model.image_size == 128 and pretrain.model.patch_size == 8
    low, high = pretrain.augment.crop_scale
    assert low < 128**2 / (160 * 200) < high
    assert segment.model.head == "linear" and segment.augment.short_side is None and segment.dice == 1
    assert segment.val_fraction == (0.2 if splits == ("train",) else 0)
    assert set(plan.times) == {"plan", "pretrain", "segment", "reserve"}
    assert "finetune" not in plan.settings and not any("left out" in note for note in plan.notes)
    assert any("holds out 20%" in note for note in plan.notes) == (splits == ("train",))
    paths = write_plan(plan, tmp_path / "mine.yaml")
    assert paths["segment"].name == "mine-segment.yaml"
    assert load_recipe("segment", str(paths["segment"])) == segment


def test_masks_of_little_but_one_class_show_the_others_more_often(tmp_path: Path) -> None:
    for number in range(8):
        image, ids = scene(number, 2, (64, 64))
        ids[:] = 0
        ids[number : number + 4, 20:24] = number % 2
        save(tmp_path / "images" / f"{number}.png", image)
        save(tmp_path / "masks" / f"{number}.png", ids)
    plan = make_plan(str(tmp_path), MINUTES, quiet=True)
    assert plan.survey.masked is not None and 0.99 < plan.survey.masked.commonest < 1
    recipe = plan.recipe("segment")
    assert (recipe.sampling, recipe.augment.rare_crops, recipe.dice) == ("balanced", 1, 1)


@pytest.mark.parametrize("dark", [True, False])
def test_noise_of_mostly_empty_images_is_not_brought_to_the_contrast_of_what_they_show(
    tmp_path: Path, dark: bool
) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        values = rng.integers(0, 4 if dark else 256, (64, 64, 3), dtype=np.uint8)
        values[8:24, 8:24] = 200 + rng.integers(0, 50, (16, 16, 1))
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    plan = make_plan(str(tmp_path), MINUTES, quiet=True)
    assert (plan.survey.flat > 0.45) == dark
    assert plan.recipe("pretrain").model.norm_pix_floor == (0.1 if dark else 0)


def test_gray_photos_in_colours_are_planned_with_one_channel(tmp_path: Path) -> None:
    for number in range(6):
        photo(40, 40, number).convert("L").convert("RGB").save(tmp_path / f"{number}.png")
    assert make_plan(str(tmp_path), MINUTES, quiet=True).recipe("pretrain").model.channels == 1


def test_images_that_no_plan_can_be_made_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one image"):
        make_plan(str(write_photos(tmp_path / "one", 1)), MINUTES, quiet=True)
    write_photos(tmp_path / "single" / "cat", 5)
    write_photos(tmp_path / "single" / "dog", 1)
    with pytest.raises(ValueError, match="'dog'"):
        make_plan(str(tmp_path / "single"), MINUTES, quiet=True)


def test_images_smaller_than_a_patch_are_refused_or_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5 x 6 pixels"):
        make_plan(str(write_photos(tmp_path / "specks", 4, 5, 6)), MINUTES, quiet=True)
    folder = write_photos(tmp_path / "photos", 12)
    photo(3, 3, 0).save(folder / "speck.png")
    assert any("smaller than a patch" in note for note in make_plan(str(folder), MINUTES, quiet=True).notes)


def test_a_time_that_is_too_short_says_how_long_is_enough(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 12)
    with pytest.raises(TimeTooShort, match=r"need [0-9.]+ minutes") as raised:
        make_plan(str(folder), 0.1, quiet=True)
    assert raised.value.minutes > 0.1
    with pytest.raises(ValueError, match="above 0"):
        make_plan(str(folder), 0, quiet=True)


def test_one_unreadable_image_does_not_end_a_plan(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 12)
    (folder / "broken.png").write_bytes(b"no image")
    plan = make_plan(str(folder), MINUTES, quiet=True)
    assert plan.survey.unreadable == 1 and any("can't be read" in note for note in plan.notes)


def test_images_are_packed_where_reading_takes_long(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 6, 450, 600)
    plan = make_plan(str(folder), MINUTES, cache=str(tmp_path / "cache"), quiet=True)
    assert plan.recipe("pretrain").training.cache == str(tmp_path / "cache")
    assert make_plan(str(folder), MINUTES, quiet=True).recipe("pretrain").training.cache is None
    assert not (tmp_path / "cache").exists()


def test_images_of_all_sizes_are_planned_as_squares(tmp_path: Path) -> None:
    for number, (height, width) in enumerate([(20, 90), (90, 20), (64, 64), (33, 47), (120, 70), (50, 51)]):
        photo(height, width, number).save(tmp_path / f"{number}.png")
    size = make_plan(str(tmp_path), MINUTES, quiet=True).recipe("pretrain").model.image_size
    assert isinstance(size, int)
