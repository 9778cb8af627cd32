"""Which images train a classifier, choose its best checkpoint and test it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.sources import SourceNote
from paddlemae.recipe import FinetuneRecipe
from paddlemae.tasks.training.labelled_splits import open_labelled_splits, open_test_part


def write(root: Path, counts: dict[str, int]) -> str:
    for part, count in counts.items():
        for label in "ab":
            for number in range(count):
                (root / part / label).mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / part / label / f"{number}.png")
    return str(root)


def recipe(**settings: object) -> FinetuneRecipe:
    return FinetuneRecipe.model_validate({"task": "finetune", **settings})


def test_val_chooses_and_test_tests_where_there_are_both(tmp_path: Path) -> None:
    data = write(tmp_path, {"train": 10, "val": 3, "test": 4})
    splits = open_labelled_splits(recipe(), data)
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation), len(splits.held_out)) == (20, 6, 8)
    assert splits.validation.name.endswith("val") and splits.held_out.name.endswith("test")


@pytest.mark.parametrize("settings", [{"validation": 0}, {"validation": 0.2}])
def test_a_share_of_the_training_images_can_choose_instead(tmp_path: Path, settings: dict) -> None:
    data = write(tmp_path, {"train": 10, "val": 3, "test": 4})
    with pytest.warns(SourceNote, match="not used"):
        splits = open_labelled_splits(recipe(**settings), data)
    assert splits.held_out.name.endswith("val")
    assert (0 if splits.validation is None else len(splits.validation)) == 20 * settings["validation"]


def test_test_images_without_labels_leave_val_as_the_test_part(tmp_path: Path) -> None:
    data = write(tmp_path, {"train": 10, "val": 3})
    (tmp_path / "test").mkdir()
    (tmp_path / "train" / "a" / "0.png").rename(tmp_path / "test" / "0.png")
    with pytest.warns(SourceNote, match="not used"):
        splits = open_labelled_splits(recipe(), data)
    assert splits.held_out.name.endswith("val") and splits.validation is not None
    assert len(splits.train) + len(splits.validation) == 19


def test_a_classifier_is_tested_on_test_where_it_has_labels(tmp_path: Path) -> None:
    data = write(tmp_path, {"train": 10, "val": 3, "test": 4})
    opened = {split: len(open_test_part(data, split, multi_label=False)) for split in ("train", "test", "val-only")}
    assert opened == {"train": 20, "test": 8, "val-only": 6}
    for label in "ab":
        for path in (tmp_path / "test" / label).iterdir():
            path.rename(tmp_path / "test" / f"{label}{path.name}")
        (tmp_path / "test" / label).rmdir()
    with pytest.warns(SourceNote, match="not used"):
        assert len(open_test_part(data, "test", multi_label=False)) == 6
