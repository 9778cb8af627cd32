"""`paddlemae data split` of images with masks."""

import csv
from pathlib import Path

import numpy as np
import pytest

from paddlemae.data.sources import open_source
from tests.support.mask_folders import save, scene
from tests.support.mask_layouts import write_coco
from tests.support.pictures import scenes


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """Twenty pictures, of which every fourth has a pixel of a rare class."""
    root = tmp_path / "masked"
    for number, picture in enumerate(scenes(20, 0)):
        ids = scene(0, 2, picture.shape[:2])[1]
        ids[0, 0] = 2 if number % 4 == 0 else 0
        save(root / "images" / f"{number}.png", picture)
        save(root / "masks" / f"{number}.png", ids)
    (root / "classes.txt").write_text("ground\ntree\nrare\n")
    return root


def test_a_list_of_pairs_has_each_class_in_each_part(paddlemae, masked: Path, tmp_path: Path) -> None:
    done = paddlemae("data", "split", masked, "--out", tmp_path / "out", "--test", 0.4, "--quiet", "--workers", 0)
    assert done.status == 0 and "paddlemae segment" in done.out, done
    with open(tmp_path / "out" / "split.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and {row["split"] for row in rows} == {"train", "test"}
    parts = {name: open_source(str(tmp_path / "out/split.csv"), name, masks=True) for name in ("train", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 12, "test": 8}
    for part in parts.values():
        assert part.classes == ("ground", "tree", "rare")
        assert part.masks.counts()[2] in (2, 3)
        for i in range(len(part)):
            assert Path(part.describe(i)).stem == Path(part.masks.describe(i)).stem


def test_options_and_groups_are_kept(paddlemae, masked: Path, tmp_path: Path) -> None:
    (masked / "classes.txt").unlink()
    rows = [f"images/{n}.png,masks/{n}.png,patient{n // 5}\n" for n in range(20)]
    (masked / "all.csv").write_text("image,mask,patient\n" + "".join(rows))
    spec = f"{masked}/all.csv::classes=a,b,c::ignore=c"
    done = paddlemae("data", "split", spec, "--out", tmp_path / "out", "--test", 0.25, "--quiet", "--workers", 0)
    assert done.status == 0, done
    command = next(line for line in done.out.splitlines() if line.startswith("check it:"))
    source = open_source(command.split()[-1].strip("'"), "test", masks=True)
    assert source.classes == ("a", "b") and source.groups is not None
    assert len(np.unique(source.groups)) == 1 and len(source) == 5


def test_masks_without_files_are_refused(paddlemae, tmp_path: Path) -> None:
    done = paddlemae("data", "split", write_coco(tmp_path / "coco"), "--out", tmp_path / "out", "--quiet")
    assert done.status == 2 and "file of its own" in done.err
