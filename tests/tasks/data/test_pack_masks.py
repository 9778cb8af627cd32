"""`paddlemae data pack` of images with masks."""

from pathlib import Path

import numpy as np
import pytest

from paddlemae.data.sources import IGNORE, open_source
from tests.support.mask_folders import save, scene, write_pairs
from tests.support.mask_layouts import COUNTS, NAMES, SIZE, WRITERS, scenes


@pytest.mark.parametrize("layout", ["voc", "coco", "npz"])
def test_a_pack_has_the_same_masks(paddlemae, layout: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    spec = WRITERS[layout](tmp_path / "set")
    done = paddlemae("data", "pack", spec, "--out", tmp_path / "pack", "--quiet", "--workers", 0)
    assert done.status == 0, done
    for split, name in (("train", "train"), ("test", "val")):
        packed = open_source(str(tmp_path / "pack"), split, masks=True)
        assert len(packed) == COUNTS[name] and set(packed.classes) == set(NAMES)
        numbers = np.array([NAMES.index(each) for each in packed.classes])
        for i, (image, ids) in enumerate(scenes(name)):
            np.testing.assert_array_equal(packed.read(i, 3), image)
            np.testing.assert_array_equal(numbers[packed.masks.read(i, SIZE)], ids)
        plain = open_source(str(tmp_path / "pack"), split)
        assert len(plain) == COUNTS[name] and plain.targets is None
    assert paddlemae("data", "verify", tmp_path / "pack", "--quiet").status == 0


def test_masks_are_made_smaller_with_their_images(paddlemae, tmp_path: Path) -> None:
    write_pairs(tmp_path / "set", ["train"], 1)
    image, ids = scene(0, 2, (40, 64))
    ids[:20] = 255
    save(tmp_path / "set/images/train/0.jpg", image)
    save(tmp_path / "set/masks/train/0.png", ids)
    spec = f"{tmp_path}/set::classes=a,b"
    assert paddlemae("data", "pack", spec, "--out", tmp_path / "pack", "--size", 10, "--quiet").status == 0
    packed = open_source(str(tmp_path / "pack"), "train", masks=True)
    expected = np.where(np.arange(10)[:, None] < 5, IGNORE, np.arange(16) // 8)
    np.testing.assert_array_equal(packed.masks.read(0, packed.read(0, 3).shape[:2]), expected)


def test_a_mask_that_cannot_be_used_stops_packing(paddlemae, tmp_path: Path) -> None:
    write_pairs(tmp_path / "set", ["train"])
    save(tmp_path / "set/masks/train/1.png", scene(0, size=(5, 5))[1])
    done = paddlemae("data", "pack", tmp_path / "set", "--out", tmp_path / "pack", "--quiet", "--workers", 0)
    assert done.status == 2 and "1.png" in done.err and len(done.err.splitlines()) == 1
