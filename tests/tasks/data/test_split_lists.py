"""`paddlemae data split`: a list whose parts share no duplicates and no groups, which `--data` reads."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.sources import SourceNote, open_source
from tests.support.exposures import thing_of, write_exposures
from tests.support.pictures import scenes

COUNTS = {"cat": 24, "dog": 12}


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes, and a resized copy of every third picture of cats."""
    pictures = iter(scenes(sum(COUNTS.values()), 0))
    for name, count in COUNTS.items():
        for number in range(count):
            picture = next(pictures)
            save(tmp_path / "photos" / name / f"{number}.png", picture)
            if name == "cat" and number % 3 == 0:
                small = np.asarray(Image.fromarray(picture).resize((40, 40)))
                save(tmp_path / "photos" / name / f"{number} small.jpg", small)
    return tmp_path / "photos"


def split(paddlemae, data: object, out: Path, *arguments: object) -> tuple[list[dict[str, str]], str]:
    done = paddlemae("data", "split", data, "--out", out, "--quiet", *arguments)
    assert done.status == 0, done.err
    return rows_of(out), done.out


def rows_of(out: Path) -> list[dict[str, str]]:
    with open(out / "split.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_copies_share_a_part_and_the_list_passes_the_check(paddlemae, photos: Path, tmp_path: Path) -> None:
    rows, text = split(paddlemae, photos, tmp_path / "lists", "--test", "0.25", "--val", "0.125")
    part_of = {row["path"].rpartition("/")[2]: row["split"] for row in rows if row["label"] == "cat"}
    for number in range(0, 24, 3):
        assert part_of[f"{number}.png"] == part_of[f"{number} small.jpg"]
    assert Counter(row["split"] for row in rows if row["label"] == "cat") == {"train": 20, "test": 8, "val": 4}
    assert Counter(row["split"] for row in rows if row["label"] == "dog") in (
        {"train": 8, "test": 3, "val": 1},
        {"train": 7, "test": 3, "val": 2},
    )
    assert "16 images in 8 sets" in text and "cat" in text
    checked = paddlemae("data", "check", tmp_path / "lists" / "split.csv", "--quiet")
    assert "another split" not in checked.out and "several splits" not in checked.out


def test_the_list_reads_from_any_folder_and_names_the_command(
    paddlemae, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, text = split(paddlemae, "photos", Path("lists"))
    assert "finetune --init RUN --data lists/split.csv" in text
    monkeypatch.chdir("/")
    train = open_source(str(tmp_path / "lists" / "split.csv"), "train", labelled=True)
    test = open_source(str(tmp_path / "lists" / "split.csv"), "test", labelled=True)
    assert (len(train), len(test), train.classes) == (36, 8, ("cat", "dog"))
    assert train.read(0, 3).shape in ((64, 64, 3), (40, 40, 3))


def test_a_seed_repeats_the_list(paddlemae, photos: Path, tmp_path: Path) -> None:
    once, again, other = (
        split(paddlemae, photos, tmp_path / f"lists{place}", "--seed", seed)[0] for place, seed in enumerate((1, 1, 2))
    )
    assert once == again and once != other


def test_groups_stay_together_and_keep_their_names(paddlemae, photos: Path, tmp_path: Path) -> None:
    lines = ["image,label,patient"]
    for path in sorted(photos.rglob("*.png")):
        lines.append(f"{path.relative_to(tmp_path)},{path.parent.name},{path.parent.name}-{int(path.stem) // 2}")
    (tmp_path / "scans.csv").write_text("\n".join(lines))
    rows, _ = split(paddlemae, tmp_path / "scans.csv", tmp_path / "lists")
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row["group"], set()).add(row["split"])
    assert len(parts) == 18 and "dog-3" in parts
    assert all(len(each) == 1 for each in parts.values())
    assert paddlemae("data", "check", tmp_path / "lists" / "split.csv", "--quiet").status == 0


def test_series_stay_together_and_a_list_that_divides_them_is_found(paddlemae, tmp_path: Path) -> None:
    things = write_exposures(tmp_path / "shots", 10)
    rows, text = split(paddlemae, tmp_path / "shots", tmp_path / "whole")
    part_of = {thing_of(row["path"]): row["split"] for row in rows}
    assert {(thing_of(row["path"]), row["split"]) for row in rows} == set(part_of.items()) and "20 sets" in text
    assert len({row["group"] for row in rows}) == len(set(things)) == 20

    rows, text = split(paddlemae, tmp_path / "shots", tmp_path / "single", "--no-series")
    assert len({(thing_of(row["path"]), row["split"]) for row in rows}) > 20 and "group" not in rows[0]
    checked = paddlemae("data", "check", tmp_path / "single" / "split.csv", "--quiet", "--out", tmp_path / "check")
    assert checked.status == 1 and "frames or exposures" in checked.out
    found = json.loads((tmp_path / "check" / "check.json").read_text())["series_in_both_parts"]
    assert found and all(thing_of(a) == thing_of(b) for a, b in found)
    checked = paddlemae("data", "check", tmp_path / "whole" / "split.csv", "--quiet")
    assert checked.status == 0, checked.out


def test_parts_that_are_there_are_pooled_or_one_is_split(paddlemae, photos: Path, tmp_path: Path) -> None:
    for part, names in (("train", range(0, 10)), ("val", range(10, 12)), ("test", range(12, 24))):
        for number in names:
            for label in COUNTS:
                if (source := photos / label / f"{number}.png").exists():
                    (tmp_path / "set" / part / label).mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, tmp_path / "set" / part / label)
    shutil.copytree(tmp_path / "set" / "test" / "cat", tmp_path / "set" / "test" / "dog")
    pooled, _ = split(paddlemae, tmp_path / "set", tmp_path / "pooled")
    assert len(pooled) == 10 * 2 + 2 * 2 + 12 * 2
    one, _ = split(paddlemae, tmp_path / "set", tmp_path / "one", "--split", "train")
    assert len(one) == 20 and all("/train/" in row["path"] for row in one)


def test_images_without_labels_are_split(paddlemae, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "cat", tmp_path / "loose")
    rows, text = split(paddlemae, tmp_path / "loose", tmp_path / "lists")
    assert "label" not in rows[0] and "pretrain" in text
    assert Counter(row["split"] for row in rows) == {"train": 26, "test": 6}
    assert len(open_source(str(tmp_path / "lists" / "split.csv"), "train")) == 26


def test_images_with_and_without_labels_are_split_alike(paddlemae, photos: Path, tmp_path: Path) -> None:
    for number, picture in enumerate(scenes(20, 5)):
        save(photos / "unlabelled" / f"{number}.png", picture)
    rows, text = split(paddlemae, photos, tmp_path / "lists")
    assert Counter(row["split"] for row in rows if not row["label"]) == {"train": 16, "test": 4}
    assert "20 of 64 images have no label" in text and "(no label)" in text
    with pytest.warns(SourceNote, match="16 of 52 images have no label"):
        assert len(open_source(str(tmp_path / "lists" / "split.csv"), "train", labelled=True)) == 36


@pytest.mark.parametrize("form", ["sets", "flags"])
def test_images_of_several_classes_keep_them(paddlemae, photos: Path, tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(0)
    paths = sorted(photos.rglob("*.png"))
    has = rng.random((len(paths), 3)) < (0.6, 0.4, 0.3)
    if form == "sets":
        has[:, 0] |= ~has.any(axis=1)
        cells = ["|".join(name for name, flag in zip("abc", row) if flag) for row in has]
        lines, option = ["image,labels", *(f"{path},{cell}" for path, cell in zip(paths, cells))], ""
    else:
        lines = ["image,a,b,c", *(f"{path},{int(a)},{int(b)},{int(c)}" for path, (a, b, c) in zip(paths, has))]
        option = "::labels=a,b,c"
    (tmp_path / "all.csv").write_text("\n".join(lines))
    _, text = split(paddlemae, f"{tmp_path / 'all.csv'}{option}", tmp_path / "lists", "--test", "0.25")
    data = f"{tmp_path / 'lists' / 'split.csv'}{option}"
    assert f"--data {data}" in text
    parts = [open_source(data, part, labelled=True, multi_label=True) for part in ("train", "test")]
    assert sum(map(len, parts)) == 36 and 8 <= len(parts[1]) <= 10
    read = {
        Path(part.describe(i)).resolve(): part.targets.labels[i].tolist() for part in parts for i in range(len(part))
    }
    assert read == {path: row.tolist() for path, row in zip(paths, has)}
    assert np.abs(parts[1].targets.counts() - has.sum(axis=0) / 4).max() <= 1.5


def test_unreadable_images_are_left_out_and_named(paddlemae, photos: Path, tmp_path: Path) -> None:
    (photos / "dog" / "broken.png").write_bytes(b"no image")
    rows, text = split(paddlemae, photos, tmp_path / "lists")
    assert len(rows) == 44 and "broken.png" in text and "1 unreadable" in text


def test_linked_images_that_swallow_the_set_are_reported(paddlemae, tmp_path: Path) -> None:
    picture = scenes(1, 0)[0]
    for number in range(15):
        save(tmp_path / "photos" / f"{number}.png", np.minimum(picture, 255 - number))
    for number, each in enumerate(scenes(5, 3)):
        save(tmp_path / "photos" / f"{number + 15}.png", each)
    _, text = split(paddlemae, tmp_path / "photos", tmp_path / "lists")
    assert "75% of the images are linked" in text and "--exact-only" in text
    rows, text = split(paddlemae, tmp_path / "photos", tmp_path / "exact", "--exact-only")
    assert Counter(row["split"] for row in rows) == {"train": 16, "test": 4}


def test_a_class_that_cannot_be_divided_is_named(paddlemae, photos: Path, tmp_path: Path) -> None:
    save(photos / "owl" / "1.png", scenes(1, 9)[0])
    save(photos / "owl" / "2.png", scenes(1, 9)[0])
    rows, text = split(paddlemae, photos, tmp_path / "lists")
    assert {row["split"] for row in rows if row["label"] == "owl"} == {"train"}
    assert "not in every part: 'owl'" in text


def test_bad_input_is_one_line(paddlemae, photos: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        done = paddlemae("data", "split", *arguments, "--quiet")
        assert done.status == 2 and done.err.count("\n") == 1, done
        return done.err

    out = tmp_path / "lists"
    assert "below 1" in refused(photos, "--out", out, "--test", "0.9", "--val", "0.2")
    assert "in the folder of the images" in refused(photos, "--out", photos / "lists")
    assert "lists name image files" in refused("digits", "--out", out)
    assert not out.exists()
    split(paddlemae, photos, out)
    before = (out / "split.csv").read_bytes()
    assert "--overwrite" in refused(photos, "--out", out, "--seed", 5)
    assert (out / "split.csv").read_bytes() == before
    split(paddlemae, photos, out, "--seed", 5, "--overwrite")
    assert (out / "split.csv").read_bytes() != before
    save(tmp_path / "one" / "a.png", scenes(1, 0)[0])
    assert "too few" in refused(tmp_path / "one", "--out", tmp_path / "x")
    save(tmp_path / "odd" / "-1" / "a.png", scenes(1, 0)[0])
    save(tmp_path / "odd" / "b" / "a.png", scenes(1, 1)[0])
    assert "'-1'" in refused(tmp_path / "odd", "--out", tmp_path / "x")
