"""Baselines of labelled images, as reports show them."""

from pathlib import Path

import numpy as np
import pytest

from paddlemae.data.sources import Source, match_classes, open_source, subset
from paddlemae.data.views.augment import View
from paddlemae.tasks.baselines.compare import measure_baselines

VIEW = View((16, 16), 3, eval_crop_ratio=1.0)


@pytest.fixture
def splits(colours: Path) -> tuple[Source, Source]:
    train = open_source(str(colours), "train", labelled=True)
    return train, match_classes(train, open_source(str(colours), "test", labelled=True))


def test_colours_are_told_apart_by_colour_and_not_by_the_commonest_class(splits: tuple[Source, Source]) -> None:
    found = {one["baseline"]: one for one in measure_baselines(*splits, VIEW, primary="top1", quiet=True)}
    assert list(found) == ["majority", "gradients", "colour"]
    assert found["majority"]["top1"] == found["majority"]["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["colour"]["top1"] == 1
    for one in found.values():
        assert one["train_images"] == 24 and one["eval_images"] == 12
        low, high = one["intervals"]["top1"]
        assert low <= one["top1"] <= high


def test_the_commonest_class_is_that_of_the_training_images(splits: tuple[Source, Source]) -> None:
    train, test = splits
    assert train.labels is not None
    train = subset(train, [*np.flatnonzero(train.labels == 1), *np.flatnonzero(train.labels == 2)[:3]])
    majority = measure_baselines(train, test, VIEW, primary="balanced_accuracy", quiet=True)[0]
    assert train.classes[1] in majority["title"]
    assert majority["primary"] == "balanced_accuracy"


def test_large_sources_are_drawn_from_class_by_class(splits: tuple[Source, Source]) -> None:
    found = measure_baselines(*splits, VIEW, primary="top1", most_trained=6, most_tested=4, quiet=True)
    assert {(one["train_images"], one["eval_images"]) for one in found} == {(6, 6)}
    assert "drawn from 24" in found[1]["detail"]
    again = measure_baselines(*splits, VIEW, primary="top1", most_trained=6, most_tested=4, quiet=True)
    assert [one["top1"] for one in again] == [one["top1"] for one in found]


def test_one_class_has_the_majority_only(splits: tuple[Source, Source]) -> None:
    train, test = splits
    assert train.labels is not None and test.labels is not None
    one_class = [subset(part, np.flatnonzero(part.labels == 0)) for part in (train, test)]
    found = measure_baselines(*one_class, VIEW, primary="top1", quiet=True)
    assert [one["baseline"] for one in found] == ["majority"] and found[0]["top1"] == 1


def test_large_images_are_made_smaller(splits: tuple[Source, Source]) -> None:
    large = View((600, 300), 3, eval_crop_ratio=1.0)
    found = measure_baselines(*splits, large, primary="top1", quiet=True)
    assert found[2]["top1"] == 1
