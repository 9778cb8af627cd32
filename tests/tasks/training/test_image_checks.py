"""Labelled images that can't be trained on are refused in one line before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.tasks.training.image_checks import check_images
from tests.support.pictures import COLOURS, write_png

FEW = ["steps=1", "batch_size=4", "threads=1", "--quiet"]


def folder(root: Path, counts: dict[str, tuple[int, int]]) -> Path:
    """Write train and test images of some classes."""
    for place, (name, numbers) in enumerate(counts.items()):
        for part, count in zip(("train", "test"), numbers):
            for number in range(count):
                write_png(root / part / name / f"{number}.png", list(COLOURS.values())[place], number)
    return root


def refused(done, out: Path) -> str:
    assert done.status == 2 and done.err.count("\n") == 1 and not out.exists(), done
    return done.err


@pytest.mark.parametrize("task", ["finetune", "probe"])
def test_one_class_is_refused(paddlemae: Callable, pretrained: Path, tmp_path: Path, task: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "list.csv").write_text(
        "path,label,split\n" + "".join(f"{n}.png,cat,{'train' if n < 4 else 'test'}\n" for n in range(6))
    )
    for number in range(6):
        write_png(tmp_path / "data" / f"{number}.png", (9, 9, 9), number)
    out = tmp_path / "run"
    done = paddlemae(task, "--init", pretrained, "--data", tmp_path / "data" / "list.csv", "--out", out, *FEW)
    assert "'cat'" in refused(done, out)


@pytest.mark.parametrize("task", ["finetune", "probe"])
def test_a_class_with_a_single_image_is_refused(paddlemae, pretrained: Path, tmp_path: Path, task: str) -> None:
    data, out = folder(tmp_path / "data", {"red": (4, 2), "green": (4, 2), "blue": (1, 0)}), tmp_path / "run"
    (data / "test" / "blue").mkdir(parents=True, exist_ok=True)
    done = paddlemae(task, "--init", pretrained, "--data", data / "train", "--out", out, *FEW, "val_fraction=0.25")
    assert "'blue': a single image of this class" in refused(done, out)


def test_one_image_a_class_to_train_on_is_enough(paddlemae, pretrained: Path, tmp_path: Path) -> None:
    data, out = folder(tmp_path / "data", {"red": (4, 2), "green": (4, 2)}), tmp_path / "one"
    command = ["finetune", "--init", pretrained, "--data", data, *FEW]
    assert paddlemae(*command, "--out", tmp_path / "run", "labels=1/class").status == 0
    done = paddlemae(*command, "--out", out, "labels=1")
    assert "all 1 of" in refused(done, out)


@pytest.mark.parametrize("task", ["finetune", "probe"])
def test_images_of_other_channels_than_the_runs_are_refused(paddlemae, pretrained: Path, tmp_path: Path, task) -> None:
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(3):
                bands = np.random.default_rng(number).integers(0, 999, (8, 8, 5), np.uint16)
                np.save(tmp_path / "data" / part / name / f"{number}.npy", bands)
    out = tmp_path / "run"
    done = paddlemae(task, "--init", pretrained, "--data", tmp_path / "data", "--out", out, *FEW)
    assert "have 5 channels, and" in refused(done, out) and "takes 3" in done.err


def test_images_smaller_than_a_patch_are_enlarged_with_a_warning(tmp_path: Path) -> None:
    from paddlemae.data.sources import as_source

    source = as_source([np.zeros((6, 3, 3), np.uint8)] * 2)
    with pytest.warns(UserWarning, match="6x3 pixels are smaller than a patch of 4x4"):
        check_images(source, {"channels": 3, "image_size": 8, "patch_size": 4}, "the recipe")


def test_unreadable_images_are_left_to_the_training(tmp_path: Path) -> None:
    from paddlemae.data.sources import open_source

    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    check_images(open_source(str(tmp_path), "train"), {"channels": 3, "image_size": 8, "patch_size": 4}, "it")
