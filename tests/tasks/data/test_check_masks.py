"""`paddlemae data check` of images with masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.mask_folders import save, scene, write_pairs
from tests.support.mask_layouts import COUNTS, WRITERS
from tests.support.pictures import scenes


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Pictures that differ, with masks of two classes."""
    root = write_pairs(tmp_path / "sound", ["train", "val", "test"], 2, classes=2)
    for path, picture in zip(sorted(root.rglob("*.jpg")), scenes(6, 0)):
        save(path, picture)
        save(Path(str(path).replace("images", "masks")).with_suffix(".png"), scene(0, 2, picture.shape[:2])[1])
    (root / "classes.txt").write_text("ground\ntree\n")
    return root


def report(paddlemae, data: Path | str, out: Path, status: int) -> tuple[dict, str]:
    done = paddlemae("data", "check", data, "--out", out, "--quiet", "--workers", 0)
    assert done.status == status and done.err == "", done
    return json.loads((out / "check.json").read_text()), done.out


def test_sound_masks_give_counts_and_status_0(paddlemae, sound: Path, tmp_path: Path) -> None:
    found, text = report(paddlemae, sound, tmp_path / "out", 0)
    assert found["findings"] == {} and list(found["masks"]) == ["train", "val", "test"]
    train = found["masks"]["train"]
    assert [(each["class"], each["images"]) for each in train["classes"]] == [("ground", 2), ("tree", 2)]
    assert train["ignored_pixels"] == 0 and "tree" in text
    with Image.open(tmp_path / "out" / "check.png") as picture:
        assert picture.height > 300


def test_every_fault_is_found_with_its_file(paddlemae, sound: Path, tmp_path: Path) -> None:
    with Image.open(sound / "masks/train/0.png") as mask:
        sizes = mask.size[::-1]
    (sound / "classes.txt").write_text("ground\ntree\nnever\n")
    save(sound / "masks/train/0.png", scene(0, 2, (sizes[0] - 1, sizes[1]))[1])
    save(sound / "masks/train/1.png", np.full(sizes, 77, np.uint8))
    save(sound / "masks/val/0.png", np.full(sizes, 255, np.uint8))
    (sound / "masks/test/0.png").unlink()
    save(sound / "masks/test/stranger.png", scene(0, 2, sizes)[1])
    found, text = report(paddlemae, sound, tmp_path / "out", 1)
    assert found["findings"] == {
        "masks_unusable": 2,
        "images_without_masks": 1,
        "masks_without_images": 1,
        "masks_all_ignored": 1,
        "mask_classes_absent": 1,
    }
    for text_of in ("train/0.png", "train/1.png", "77", "val/0.png", "test/0.jpg", "stranger.png", "'never'"):
        assert text_of in text


def test_masks_that_cannot_be_opened_are_a_finding(paddlemae, sound: Path, tmp_path: Path) -> None:
    (sound / "classes.txt").unlink()
    for path in (sound / "masks").rglob("*.png"):
        with Image.open(path) as mask:
            rgb = np.repeat(np.asarray(mask)[..., None], 3, axis=2)
        save(path, rgb)
    found, text = report(paddlemae, sound, tmp_path / "out", 1)
    assert found["findings"]["masks_unusable"] == 1 and "saved as RGB" in text
    assert report(paddlemae, f"{sound}::rgb=gray::classes=a,b", tmp_path / "other", 0)[0]["findings"] == {}


@pytest.mark.parametrize("layout", ["voc", "coco", "csv", "npz"])
def test_splits_are_those_of_the_layout(paddlemae, layout: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    found, _ = report(paddlemae, WRITERS[layout](tmp_path / "set"), tmp_path / "out", 0)
    assert found["images"] == COUNTS
    assert [each["masks"] for each in found["masks"].values()] == [3, 2]
