"""The images that train a classifier, choose its best checkpoint and test it: no image has two of these tasks."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.sources import Source, SourceNote
from paddlemae.data.sources.source import ClassTargets
from paddlemae.data.sources.subsets import validation_part
from paddlemae.recipe import load_recipe
from paddlemae.tasks.training.labelled_splits import LabelledSplits, open_labelled_splits, open_test_part
from tests.support.exposures import thing_of, write_exposures


class Numbers:
    """A reader of nothing, as long as it is asked to be."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


def source_of(labels: list[int], classes: int, groups: list[int] | None = None) -> Source:
    targets = ClassTargets(np.array(labels), tuple(f"class{number}" for number in range(classes)))
    numbers = None if groups is None else np.array(groups)
    return Source("numbers", Numbers(len(labels)), targets, numbers)  # type: ignore[arg-type]


def indices(part: Source) -> list[int]:
    return part.reader.indices.tolist()  # type: ignore[attr-defined, no-any-return]


def test_each_class_gives_its_share_and_keeps_an_image() -> None:
    source = source_of([0] * 40 + [1] * 5 + [2] * 2 + [3], 5)
    rest, part = validation_part(source, 0.15, seed=0)
    assert np.bincount(part.labels, minlength=5).tolist() == [6, 1, 1, 0, 0]
    assert sorted(indices(rest) + indices(part)) == list(range(48)) and indices(part) == sorted(indices(part))
    assert indices(validation_part(source, 0.15, seed=0)[1]) == indices(part)
    assert indices(validation_part(source, 0.15, seed=1)[1]) != indices(part)


def test_groups_stay_on_one_side() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 400)
    labels = np.where(groups < 45, 0, np.where(groups < 57, 1, 2))
    rest, part = validation_part(source_of(labels.tolist(), 3, groups.tolist()), 0.15, seed=0)
    assert not set(groups[indices(rest)]) & set(groups[indices(part)])
    counts, drawn = np.bincount(labels), np.bincount(labels[indices(part)], minlength=3)
    assert (drawn > 0).all() and (drawn < counts).all()
    assert drawn[0] / counts[0] == pytest.approx(0.15, abs=0.05), drawn


def test_a_class_of_one_group_stays_in_training() -> None:
    labels, groups = [0, 0, 0, 0, 1, 1], [1, 2, 3, 4, 5, 5]
    _, part = validation_part(source_of(labels, 2, groups), 0.25, seed=0)
    assert len(part) == 1 and part.labels is not None and part.labels.tolist() == [0]
    with pytest.raises(ValueError, match="no validation part can be carved out of the 4 images .* validation=0"):
        validation_part(source_of([0, 0, 1, 1], 2, [7, 7, 7, 7]), 0.25, seed=0)


def write_list(folder: Path, counts: dict[str, dict[str, int]], labelled_test: bool = True) -> str:
    """Write images and a CSV of them; counts are split -> class -> images."""
    folder.mkdir(exist_ok=True)
    rows = []
    for split, classes in counts.items():
        for name, number in classes.items():
            for image in range(number):
                path = folder / f"{split}-{name}-{image}.png"
                Image.new("RGB", (8, 8)).save(path)
                rows.append([path.name, name if labelled_test or split != "test" else "", split])
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "split"], *rows])
    return str(folder / "list.csv")


def opened(data: str, *overrides: str) -> LabelledSplits:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SourceNote)
        return open_labelled_splits(load_recipe("finetune", None, [f"data={data}", *overrides]), data)


def names(part: Source | None) -> set[str]:
    return set() if part is None else {Path(part.describe(i)).name.rpartition("-")[0] for i in range(len(part))}


TWO = {"train": {"a": 20, "b": 10}, "test": {"a": 3, "b": 3}}
THREE = {**TWO, "val": {"a": 2, "b": 2}}


def test_labels_are_chosen_first_and_the_validation_part_is_among_them(tmp_path: Path) -> None:
    data = write_list(tmp_path, TWO)
    splits = opened(data, "labels=10/class")
    assert splits.validation is not None
    assert [len(part) for part in splits.parts] == [16, 4, 6] and names(splits.validation) == {"train-a", "train-b"}
    chosen = opened(data, "labels=10/class", "validation=0").train
    both = {part.describe(i) for part in (splits.train, splits.validation) for i in range(len(part))}
    assert both == {chosen.describe(i) for i in range(len(chosen))}, "no other label is used"


def test_whole_series_are_held_back_unless_they_need_not_stay_together(tmp_path: Path) -> None:
    write_exposures(tmp_path / "train", 10)
    write_exposures(tmp_path / "test", 1)

    def divided(*overrides: str) -> set[str]:
        splits = opened(str(tmp_path), *overrides)
        parts = [{thing_of(part.describe(i)) for i in range(len(part))} for part in splits.parts[:2]]
        assert len(parts) == 2
        return parts[0] & parts[1]

    assert not divided() and divided("keep_series=false")


def test_few_images_of_a_class_mean_no_validation_part_unless_it_is_asked_for(tmp_path: Path) -> None:
    data = write_list(tmp_path, {"train": {"a": 20, "b": 4}, "test": {"a": 1, "b": 1}})
    assert opened(data).validation is None
    asked = opened(data, "validation=0.5").validation
    assert asked is not None and asked.labels is not None and np.bincount(asked.labels).tolist() == [10, 2]


def test_the_primary_metric_is_that_of_the_whole_training_split(tmp_path: Path) -> None:
    data = write_list(tmp_path, TWO)
    assert opened(data).primary == opened(data, "labels=5/class").primary == "balanced_accuracy"
    assert opened(data, "primary_metric=macro_f1").primary == "macro_f1"
    assert opened(data, "validation=test").primary == "top1", "as in runs of earlier versions"
    other = write_list(tmp_path / "other", {**TWO, "train": {"a": 15, "b": 10}})
    assert opened(other).primary == "top1"


def test_a_split_val_chooses_where_there_is_a_test_part_too(tmp_path: Path) -> None:
    data = write_list(tmp_path, THREE)
    splits = opened(data)
    assert [names(part) for part in splits.parts] == [{f"{part}-a", f"{part}-b"} for part in ("train", "val", "test")]
    assert names(open_test_part(data, "test")) == {"test-a", "test-b"}, "as evaluate opens it"
    few = opened(data, "labels=10/class")
    assert names(few.validation) == {"train-a", "train-b"} and names(few.held_out) == {"test-a", "test-b"}
    assert opened(data, "validation=0").validation is None
    earlier = opened(data, "validation=test")
    assert earlier.validation is None and names(earlier.held_out) == {"val-a", "val-b"}


def test_a_split_test_without_labels_tests_nothing(tmp_path: Path) -> None:
    splits = opened(write_list(tmp_path, THREE, labelled_test=False))
    assert names(splits.held_out) == {"val-a", "val-b"} and names(splits.validation) == {"train-a", "train-b"}


def test_a_metric_that_can_not_be_computed_is_refused(tmp_path: Path) -> None:
    data = write_list(tmp_path, {**TWO, "test": {"a": 3}})
    with pytest.raises(ValueError, match="primary_metric=auroc needs images of two classes"):
        opened(data, "primary_metric=auroc")
    with pytest.raises(ValueError, match="primary_metric"):
        opened(data, "primary_metric=ece")
