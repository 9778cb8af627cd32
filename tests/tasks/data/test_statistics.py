"""`paddlemae data stats`: settings that can be pasted behind a command."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.recipe import load_recipe
from tests.support.mask_folders import write_pairs


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


def test_settings_contain_the_depth_that_training_would_miss(paddlemae, tmp_path: Path) -> None:
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


def test_a_recipe_is_written_that_both_trainings_take(paddlemae, colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "colours.yaml"
    done = paddlemae("data", "stats", colours, "--channels", 4, "--bits", 16, "--out", out, "--quiet")
    assert done.status == 2 and "channel 4 is constant" in done.err and not out.exists()  # opaque
    done = paddlemae("data", "stats", colours, "--bits", 16, "--out", out, "--quiet")
    assert done.status == 0 and done.err == "", done
    pasted, said = done.out.splitlines()
    assert said == f"wrote {out}"
    expected = load_recipe("pretrain", None, [f"data={colours}", *pasted.split()])
    assert load_recipe("pretrain", str(out)) == expected and expected.augment.bits == 16
    assert load_recipe("finetune", str(out), ["init=scratch"]).mean == expected.mean
    first, second, third = out.read_text().splitlines()[:3]
    assert first == f"# mean and std of 24 images of {colours} (train), 16 bits a value; measured"
    assert second == f"# source:   paddlemae data stats {colours} --bits 16 --out {out} --quiet"
    assert third == f"# command:  paddlemae pretrain {out} --out runs/colours"


def test_a_recipe_may_be_another_one_with_what_was_found(paddlemae, colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    done = paddlemae("data", "stats", colours, "--recipe", "digits", "--out", out, "--quiet")
    assert done.status == 0 and done.out.count(",") == 0, "of one channel, as that recipe has it"
    written, base = load_recipe("pretrain", str(out)), load_recipe("pretrain", "digits")
    differing = {"data", "mean", "std"}
    assert written.model_dump(exclude=differing) == base.model_dump(exclude=differing)
    assert written.data == str(colours) and len(written.mean) == len(written.std) == 1
    before = out.read_text()
    again = ["data", "stats", colours, "--recipe", out, "--channels", 3, "--out", out, "--quiet"]
    done = paddlemae(*again)
    assert done.status == 2 and "exists already; add --overwrite" in done.err and out.read_text() == before
    done = paddlemae(*again, "--overwrite")
    assert done.status == 0 and load_recipe("pretrain", str(out)).model.channels == 3
    assert list(tmp_path.iterdir()) == [out]


def test_names_in_a_recipe_may_hold_anything(paddlemae, tmp_path: Path) -> None:
    folder = tmp_path / "a\nmask_ratio: 0.1 \udcff \u00e4"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(
            folder / f"{number}.png"
        )
    done = paddlemae("data", "stats", folder, "--out", tmp_path / "a.yaml", "--quiet")
    assert done.status == 0
    assert load_recipe("pretrain", str(tmp_path / "a.yaml")).data == str(folder)
    assert "\\nmask_ratio: 0.1 \\xff \u00e4" in (tmp_path / "a.yaml").read_text().splitlines()[0]


def test_recipe_mistakes_come_before_images_are_read(paddlemae, colours: Path, tmp_path: Path) -> None:
    (tmp_path / "tuning.yaml").write_text("task: finetune\n")
    (tmp_path / "wrong.yaml").write_text("mask_ratio: 2\n")
    for arguments, message in [
        (["--out", tmp_path / "a.txt"], "ends in .yaml; got"),
        (["--out", tmp_path / "none" / "a.yaml"], "there is no folder"),
        (["--recipe", "digits"], "add --out FILE.yaml"),
        (["--recipe", "digit", "--out", tmp_path / "a.yaml"], "did you mean 'digits'"),
        (["--recipe", tmp_path / "tuning.yaml", "--out", tmp_path / "a.yaml"], "is a recipe for 'paddlemae finetune'"),
        (["--recipe", tmp_path / "wrong.yaml", "--out", tmp_path / "a.yaml"], "mask_ratio"),
    ]:
        done = paddlemae("data", "stats", colours, *arguments)
        assert done.status == 2 and done.err.count("\n") == 1 and message in done.err, done
    assert not (tmp_path / "a.yaml").exists()


def test_pixels_of_masks_are_counted(paddlemae, tmp_path: Path) -> None:
    write_pairs(tmp_path, ["train"])
    done = paddlemae("data", "stats", f"{tmp_path}::classes=a,b,c", "--json", "--quiet")
    found = json.loads(done.out)["masks"]
    assert found["masks"] == 4 and sum(found["pixels"].values()) == 4 * 12 * 16
    assert found["images"] == {"a": 4, "b": 4, "c": 4}
    text = paddlemae("data", "stats", f"{tmp_path}::classes=a,b,c", "--quiet")
    assert "a 37.50%" in text.err and "mean=" in text.out and "masks" not in text.out
