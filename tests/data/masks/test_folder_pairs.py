"""Folders of images and masks: which belong together, which classes they have, and what else is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.batches import eval_batches
from paddlemae.data.sources import IGNORE, BadMask, MissingSplit, SourceNote, open_source, subset
from paddlemae.data.views.augment import View
from tests.support.mask_folders import save, scene, write_pairs


def test_pairs_of_a_split_are_read_with_their_ids(tmp_path: Path) -> None:
    train = open_source(str(write_pairs(tmp_path)), "train", masks=True)
    assert (len(train), train.classes) == (4, ("0", "1", "2"))
    mask = train.masks.read(1, train.read(1, 3).shape[:2])
    assert mask.dtype == np.int16
    np.testing.assert_array_equal(mask, scene(1)[1])
    assert train.masks.describe(1) == str(tmp_path / "masks/train/1.png")
    assert subset(train, [3, 1]).masks.describe(0) == str(tmp_path / "masks/train/3.png")


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/training/a/{}.png", "annotations/training/a/{}.png"),
        ("train/images/{}.png", "train/masks/{}.png"),
        ("Train/imgs/x/{}.png", "Train/Labels/x/{}.png"),
        ("images/train/{}.png", "masks/training/{}.png"),
        ("site/images/{}.png", "site/masks/{}.png"),
    ],
)
def test_layouts_are_understood(tmp_path: Path, image: str, mask: str) -> None:
    for number in range(2):
        pixels, ids = scene(number)
        save(tmp_path / image.format(number), pixels)
        save(tmp_path / mask.format(number), ids)
    train = open_source(str(tmp_path), "train", masks=True)
    assert len(train) == 2
    np.testing.assert_array_equal(train.masks.read(0), scene(0)[1])


def test_masks_next_to_their_images_have_a_suffix(tmp_path: Path) -> None:
    for number in range(2):
        pixels, ids = scene(number)
        save(tmp_path / f"{number}.jpg", pixels)
        save(tmp_path / f"{number}_mask.png", ids)
    train = open_source(f"{tmp_path}::mask_suffix=_mask", "train", masks=True)
    names = [str(tmp_path / f"{number}.jpg") for number in range(2)]
    assert [train.describe(i) for i in range(2)] == names
    plain = open_source(f"{tmp_path}::mask_suffix=_mask", "train")
    assert plain.targets is None and [plain.describe(i) for i in range(len(plain))] == names


def test_roboflow_lists_classes_in_each_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        save(tmp_path / split / "a.jpg", scene(0)[0])
        save(tmp_path / split / "a_mask.png", scene(0)[1])
        (tmp_path / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, road\n2, car\n")
    valid = open_source(f"{tmp_path}::mask_suffix=_mask", "test", masks=True)
    assert len(valid) == 1 and valid.classes == ("background", "road", "car")


def test_without_masks_only_the_images_are_read(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    with pytest.warns(SourceNote, match="masks"):
        plain = open_source(str(tmp_path), "train")
    assert [plain.describe(i) for i in range(len(plain))] == [
        str(tmp_path / f"images/train/{number}.jpg") for number in range(4)
    ]
    assert plain.targets is None
    save(tmp_path / "split" / "train" / "images" / "1.png", scene(0)[0])
    save(tmp_path / "split" / "train" / "masks" / "1.png", scene(0)[1])
    with pytest.warns(SourceNote, match="masks"):
        assert len(open_source(str(tmp_path / "split"), "train")) == 1


def test_black_and_white_masks_are_two_classes(tmp_path: Path) -> None:
    write_pairs(tmp_path, classes=2, factor=255)
    train = open_source(str(tmp_path), "train", masks=True)
    assert train.classes == ("background", "foreground")
    np.testing.assert_array_equal(train.masks.read(0), scene(0, 2)[1])
    (tmp_path / "classes.txt").write_text("background\ndefect\n")
    with pytest.warns(SourceNote, match="255"):
        assert open_source(str(tmp_path), "train", masks=True).classes == ("background", "defect")
    assert open_source(str(tmp_path), "test", masks=True).classes == ("background", "defect")  # said once


def test_255_is_ignored_next_to_ids(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    image, ids = scene(7)
    ids[0, :5] = 255
    save(tmp_path / "images/train/7.jpg", image)
    save(tmp_path / "masks/train/7.png", ids)
    mask = open_source(str(tmp_path), "train", masks=True).masks.read(4)
    assert (mask[0, :5] == IGNORE).all()
    assert (mask[1:] >= 0).all()
    with pytest.raises(BadMask, match=r"7\.png.*255"):
        open_source(f"{tmp_path}::ignore=2::classes=a,b,c", "train", masks=True).masks.read(4)


def test_an_unknown_id_names_its_file(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    with pytest.raises(BadMask, match=r"masks/train/0\.png.* 2"):
        open_source(str(tmp_path), "train", masks=True).masks.read(0)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    save(tmp_path / "masks/train/0.png", scene(0, size=(12, 15))[1])
    train = open_source(str(tmp_path), "train", masks=True)
    with pytest.raises(BadMask, match=r"0\.png.*15 x 12.*16 x 12"):
        train.masks.read(0, train.read(0, 3).shape[:2])


def test_masks_of_the_unrotated_photo_are_turned_when_asked(tmp_path: Path) -> None:
    image, ids = scene(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "images" / "1.jpg", image, exif=exif)
    save(tmp_path / "masks" / "1.png", ids)
    train = open_source(str(tmp_path), "train", masks=True)
    with pytest.raises(BadMask, match="turn_masks"):
        train.masks.read(0, train.read(0, 3).shape[:2])
    turned = open_source(f"{tmp_path}::turn_masks=true", "train", masks=True)
    mask = turned.masks.read(0, turned.read(0, 3).shape[:2])
    np.testing.assert_array_equal(mask, np.rot90(ids, -1))


def test_unpaired_files_are_refused_or_left_out(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    (tmp_path / "masks/train/2.png").unlink()
    (tmp_path / "images/train/3.jpg").unlink()
    with pytest.raises(ValueError, match=r"2\.jpg.*3\.png"):
        open_source(str(tmp_path), "train", masks=True)
    with pytest.warns(SourceNote, match="left out"):
        assert len(open_source(f"{tmp_path}::unpaired=skip", "train", masks=True)) == 2


def test_a_missing_split_and_no_masks_at_all_are_errors(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["train"])
    with pytest.raises(MissingSplit):
        open_source(str(tmp_path), "test", masks=True)
    save(tmp_path / "plain" / "1.jpg", scene(0)[0])
    with pytest.raises(ValueError, match="0 masks"):
        open_source(str(tmp_path / "plain"), "train", masks=True)


def test_batches_carry_masks(tmp_path: Path) -> None:
    test = open_source(str(write_pairs(tmp_path)), "test", masks=True)
    view = View((12, 16), 3)
    batch = next(iter(eval_batches(test, view, batch_size=3)))
    assert batch.targets is not None and batch.targets.shape == (3, 12, 16) and batch.targets.dtype == np.int16


def test_pixels_are_counted(tmp_path: Path) -> None:
    train = open_source(str(write_pairs(tmp_path)), "train", masks=True)
    assert train.masks.pixels.sum() == 4 * 12 * 16
    assert train.masks.counts().tolist() == [4, 4, 4]
    assert train.masks.names(0) == ("0", "1", "2")
