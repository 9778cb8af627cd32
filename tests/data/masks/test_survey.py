"""What is found in masks before a training, and which sources have masks."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from paddlemae.data.masks.holds_masks import holds_masks
from paddlemae.data.masks.survey import image_size, survey_masks
from paddlemae.data.sources import BadMask, SourceNote, open_source
from tests.support.mask_folders import save, scene, write_pairs
from tests.support.mask_layouts import WRITERS


def test_pixels_are_counted(tmp_path: Path) -> None:
    train = open_source(str(write_pairs(tmp_path)), "train", masks=True)
    looks = survey_masks(train)
    assert looks.pixels.sum() == 4 * 12 * 16 and looks.images.tolist() == [4, 4, 4]
    assert image_size(train, 0) == (12, 16)


def test_every_mask_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    save(tmp_path / "masks/train/1.png", scene(0, size=(10, 16))[1])
    save(tmp_path / "masks/train/2.png", scene(0)[1] + np.uint8(9))
    (tmp_path / "masks/train/3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    train = open_source(f"{tmp_path}::classes=a,b,c", "train", masks=True)
    looks = survey_masks(train)
    assert sorted(looks.faults) == [1, 2, 3]
    assert "16 x 10" in looks.faults[1] and "9 to 11" in looks.faults[2] and "3.png" in looks.faults[3]


def test_ignored_masks_and_absent_classes_are_counted(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    save(tmp_path / "masks/train/1.png", np.full((12, 16), 255, np.uint8))
    train = open_source(f"{tmp_path}::classes=a,b,c,never", "train", masks=True)
    looks = survey_masks(train)
    assert looks.all_ignored == [1] and looks.ignored_share == pytest.approx(1 / 4)
    assert looks.images.tolist() == [3, 3, 3, 0]


def test_black_and_white_masks_of_many_classes_are_explained(tmp_path: Path) -> None:
    write_pairs(tmp_path, classes=2, factor=255)
    with pytest.warns(SourceNote, match="0 and 255 only"):
        open_source(f"{tmp_path}::classes=a,b,c", "train", masks=True)
    train = open_source(f"{tmp_path}::classes=a,b,c::ignore=none", "train", masks=True)
    with pytest.raises(BadMask, match=r"black and white.*binary=true"):
        train.masks.read(0)


def test_ids_above_254_need_16_bits(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join(f"c{number}" for number in range(300)))
    with pytest.raises(BadMask, match="16 bits"):
        open_source(str(tmp_path), "train", masks=True)
    for path in (tmp_path / "masks").rglob("*.png"):
        save(path, scene(0)[1].astype(np.uint16) + np.uint16(255))
    train = open_source(str(tmp_path), "train", masks=True)
    assert train.masks.names(0) == ("c255", "c256", "c257")


@pytest.mark.parametrize("layout", WRITERS)
def test_masks_are_seen(layout: str, tmp_path: Path) -> None:
    spec = WRITERS[layout](tmp_path)
    assert holds_masks(spec)
    if layout not in ("list", "colours"):  # which options say
        assert holds_masks(spec.partition("::")[0])


@pytest.mark.parametrize("layout", WRITERS)
def test_images_are_read_without_masks(layout: str, tmp_path: Path) -> None:
    """For pretraining, with the same name of the source."""
    spec = WRITERS[layout](tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SourceNote)
        train = open_source(spec, None if layout == "voc" else "train")
    assert train.targets is None
    assert all("mask" not in train.describe(i).rpartition("/")[2] for i in range(len(train)))
    assert len(train) == {"voc": 5, "cvat": 5, "coco": 5}.get(layout, 3)
    np.testing.assert_array_equal(train.read(0, 3), scene(0)[0])


def test_plain_images_hold_no_masks(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", scene(0)[0])
    save(tmp_path / "b" / "2.png", scene(1)[0])
    assert not holds_masks(str(tmp_path))
    assert not holds_masks("digits") and holds_masks("digit-scenes")
