"""`paddlemae data stats`: settings that can be pasted behind a command."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.recipe import load_recipe


def test_settings_can_be_pasted_behind_a_command(paddlemae, colours: Path) -> None:
    done = paddlemae("data", "stats", colours)
    assert done.status == 0 and re.search(r"^images 24/24 ", done.err), done
    recipe = load_recipe("pretrain", None, [f"data={colours}", *done.out.split()])
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted((colours / "train").rglob("*.png"))]) / 255
    np.testing.assert_allclose(recipe.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(recipe.std, pixels.std(axis=(0, 1, 2)), rtol=1e-5)


def test_json_has_every_digit_of_the_part_that_is_asked_for(paddlemae, colours: Path) -> None:
    found = {}
    for split in ("train", "test", "all"):
        done = paddlemae("data", "stats", colours, "--split", split, "--json", "--channels", 1, "--quiet")
        assert done.status == 0 and done.err == ""
        found[split] = json.loads(done.out)
    assert [found[split]["images"] for split in found] == [24, 12, 36]
    whole = (24 * found["train"]["mean"][0] + 12 * found["test"]["mean"][0]) / 36
    assert found["all"]["mean"] == pytest.approx([whole], rel=1e-12)


def test_depth_comes_with_the_settings_where_training_would_take_another(paddlemae, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (6, 8, 8, 1), np.uint16)
    np.save(tmp_path / "a.npy", values)
    plain = paddlemae("data", "stats", tmp_path / "a.npy", "--channels", 1, "--quiet")
    deep = paddlemae("data", "stats", tmp_path / "a.npy", "--channels", 1, "--bits", 16, "--quiet")
    assert "bits" not in plain.out and deep.out.endswith(" bits=16\n")
    assert float(re.findall(r"std=\[(.*?)\]", deep.out)[0]) == pytest.approx(values.std() / 65535, rel=1e-5)


def test_unreadable_images_are_named_and_mistakes_are_one_line(paddlemae, colours: Path, tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "good.png")
    done = paddlemae("data", "stats", tmp_path, "--quiet")
    assert done.status == 0 and done.out == "mean=[1,0,0] std=[0,0,0]\n"
    assert done.err.count("skipped: cannot read image") == 5 and "more images" in done.err
    assert done.err.endswith("note: nothing varies in channel 1, 2, 3, and recipes refuse a std of 0\n")
    for arguments in ((tmp_path, "--split", "val"), (colours, "--bits", 12), (tmp_path / "none",)):
        done = paddlemae("data", "stats", *arguments)
        assert done.status == 2 and done.err.count("\n") == 1 and done.out == "", done
