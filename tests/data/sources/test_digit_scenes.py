"""The embedded scenes: fixed, exact, and of the digits of their own part."""

import hashlib

import numpy as np
import pytest

from paddlemae.data.sources import MaskTargets, MissingSplit, open_source


def test_scenes_are_the_same_everywhere() -> None:
    digest = hashlib.sha256()
    for split in ("train", "test"):
        scenes = open_source("digit-scenes", split, masks=True)
        for i in range(20):
            digest.update(scenes.read(i, 3).tobytes() + scenes.masks.read(i).astype("<i2").tobytes())
    assert digest.hexdigest()[:16] == "7e0d8044b45057a1"


def test_splits_and_classes() -> None:
    sizes = {split: len(open_source("digit-scenes", split, masks=True)) for split in ("train", "fit", "val", "test")}
    assert sizes == {"train": 2000, "fit": 1600, "val": 400, "test": 500}
    train, val = open_source("digit-scenes", masks=True), open_source("digit-scenes", "val", masks=True)
    assert train.classes == ("background", *"0123456789")
    np.testing.assert_array_equal(train.read(1600, 3), val.read(0, 3))
    np.testing.assert_array_equal(train.masks.read(1600), val.masks.read(0))
    assert open_source("digit-scenes", "test").targets is None
    with pytest.raises(MissingSplit):
        open_source("digit-scenes", "val-only", masks=True)


def test_masks_show_where_digits_are() -> None:
    """All classes are there, and pixels of a digit differ from the background around them."""
    train = open_source("digit-scenes", "train", masks=True)
    assert isinstance(train.targets, MaskTargets)
    masks = np.stack([train.masks.read(i) for i in range(200)])
    share = np.bincount(masks.ravel(), minlength=11) / masks.size
    assert masks.dtype == np.int16 and masks.shape == (200, 64, 64)
    assert 0.7 < share[0] < 0.95 and share[1:].min() > 0.003
    gray = np.stack([train.read(i, 1)[..., 0] for i in range(200)]).astype(int)
    contrast = [abs(image[mask > 0].mean() - image[mask == 0].mean()) for image, mask in zip(gray, masks)]
    assert np.median(contrast) > 40


def test_their_classes_can_be_merged() -> None:
    merged = open_source("digit-scenes::select=background,digit=*", "test", masks=True)
    assert merged.classes == ("background", "digit")
    whole = open_source("digit-scenes", "test", masks=True)
    np.testing.assert_array_equal(merged.masks.read(3), np.minimum(whole.masks.read(3), 1))
    with pytest.raises(ValueError, match="options"):
        open_source("digit-scenes::colour=red", "test", masks=True)


def test_scenes_have_no_class_of_their_own() -> None:
    with pytest.raises(ValueError, match="masks"):
        open_source("digit-scenes", "train", labelled=True)
