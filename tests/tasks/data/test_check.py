"""`paddlemae data check`: what it finds, and that it finds nothing in sound images."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.inspect import survey
from paddlemae.data.sources import open_source
from tests.support.pictures import scenes


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Two classes with 6 and 3 pictures to train, 2 each to test; of two sizes."""
    root = tmp_path / "sound"
    pictures = iter(scenes(13, 0))
    for part, counts in (("train", (6, 3)), ("test", (2, 2))):
        for name, count in zip(("cat", "dog"), counts):
            for number in range(count):
                picture = next(pictures)
                save(root / part / name / f"{number}.png", picture[:40] if number else picture)
    return root


@pytest.fixture
def messy(sound: Path) -> Path:
    """The same with a fault of each kind that concerns single images."""
    shutil.copy(sound / "train" / "cat" / "1.png", sound / "train" / "dog" / "copy.png")  # with another label
    leaked = Image.open(sound / "train" / "cat" / "2.png")
    leaked.resize((50, 30)).save(sound / "test" / "cat" / "leaked.jpg")
    (sound / "train" / "dog" / "broken.jpg").write_bytes(b"no image")
    return sound


def report(paddlemae, data: Path, out: Path, *arguments: object, status: int = 1) -> tuple[dict, str]:
    done = paddlemae("data", "check", data, "--out", out, "--quiet", *arguments)
    assert done.status == status and done.err == "", done
    return json.loads((out / "check.json").read_text()), done.out


def drawn(out: Path) -> np.ndarray:
    with Image.open(out / "check.png") as picture:
        return np.asarray(picture)


def test_sound_images_give_counts_and_status_0(paddlemae, sound: Path, tmp_path: Path) -> None:
    found, text = report(paddlemae, sound, tmp_path / "out", status=0)
    assert found["images"] == {"train": 9, "test": 4} and found["findings"] == {}
    assert found["classes"] == {"train": {"cat": 6, "dog": 3}, "test": {"cat": 2, "dog": 2}}
    assert found["height"] == {"least": 40, "median": 40, "largest": 64}
    assert found["width_to_height"] == {"least": 1.0, "median": 1.6, "largest": 1.6}
    assert found["stored"] == [{"colours": "RGB", "bits": 8, "images": 13}]
    assert "train: 2, of 3 ('dog') to 6 images ('cat')" in text and "test: 2 of 2 images each" in text
    assert "height 40 to 64 (median 40), width 64, width / height 1 to 1.6" in text and "nothing wrong" in text
    picture = drawn(tmp_path / "out")
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000


def test_each_fault_is_found_once_and_named(paddlemae, messy: Path, tmp_path: Path) -> None:
    found, text = report(paddlemae, messy, tmp_path / "out")
    train, test = messy / "train", messy / "test"
    assert found["findings"] == {
        "unreadable": 1,
        "exact_duplicates": 1,
        "near_duplicates": 1,
        "leaks": 1,
        "labels_differ": 1,
    }
    reason = "not an image in a format that is read here"
    assert found["unreadable"] == [{"image": f"{train}/dog/broken.jpg", "reason": reason}]
    assert found["exact_duplicates"] == [[f"{train}/cat/1.png", f"{train}/dog/copy.png"]]
    assert found["labels_differ"] == found["exact_duplicates"]
    assert found["near_duplicates"] == [[f"{train}/cat/2.png", f"{test}/cat/leaked.jpg"]]
    leak = [f"train: {train}/cat/2.png", f"test: {test}/cat/leaked.jpg"]
    assert found["leaks"] == [{"exact": False, "images": leak}]
    assert "found      1 held-out images have a duplicate, exact or near, in another split" in text
    assert f"'{train}/cat/1.png' = '{train}/dog/copy.png'" in text
    before = drawn(tmp_path / "out").shape[0]
    (messy / "train" / "dog" / "broken.jpg").unlink()
    report(paddlemae, messy, tmp_path / "out")
    assert drawn(tmp_path / "out").shape[0] < before  # no names of unreadable ones


def test_an_exact_copy_in_both_parts_is_an_exact_leak(paddlemae, sound: Path, tmp_path: Path) -> None:
    shutil.copy(sound / "train" / "cat" / "3.png", sound / "test" / "cat" / "copy.png")
    found, _ = report(paddlemae, sound, tmp_path / "out")
    assert found["findings"] == {"exact_duplicates": 1, "leaks": 1} and found["leaks"][0]["exact"] is True
    found, _ = report(paddlemae, sound, tmp_path / "out", "--split", "train", status=0)
    assert found["images"] == {"train": 9}


def test_names_may_hold_anything(paddlemae, sound: Path, tmp_path: Path) -> None:
    strange = sound / "train" / "cat" / os.fsdecode(b"a\n\xff.png")
    shutil.copy(sound / "train" / "cat" / "1.png", strange)
    (sound / "test" / "dog" / os.fsdecode(b"\xfe.png")).write_bytes(b"no image")
    found, text = report(paddlemae, sound, tmp_path / "out")
    assert found["exact_duplicates"] == [[f"{sound}/train/cat/1.png", str(strange)]]
    assert r"a\n\udcff.png" in text and r"\udcfe.png': not an image" in text


def test_archives_and_workers_give_the_same(paddlemae, messy: Path, tmp_path: Path, monkeypatch) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(messy, ".")
    alone, _ = report(paddlemae, messy, tmp_path / "alone", "--workers", 0)
    packed, _ = report(paddlemae, tmp_path / "all.tar", tmp_path / "packed")
    assert alone["findings"] == packed["findings"] and alone["classes"] == packed["classes"]
    assert "all.tar, entry " in packed["unreadable"][0]["image"]
    monkeypatch.setattr(survey, "_CHUNK", 4)
    sources = [open_source(str(messy), part) for part in ("train", "test")]
    here, there = (survey.survey_sources(sources, 3, workers=workers) for workers in (0, 1))
    assert here.forms == there.forms and here.faults == there.faults == {9: here.faults[9]}
    for name in ("digests_N2", "thumbnails_NP", "sizes_N2", "shallow_N"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))


def test_deep_images_that_8_bits_would_lose_are_reported(paddlemae, tmp_path: Path) -> None:
    pictures = scenes(6, 1)[..., 0].astype(np.uint16)
    for number, picture in enumerate(pictures):
        save(tmp_path / "scans" / f"{number}.png", picture * (16 if number else 257) + 10)  # up to 4090: 12 bits
    save(tmp_path / "scans" / "dark.png", (scenes(1, 3)[0, ..., 0] // 20))  # of 8 bits, of which none is lost
    found, text = report(paddlemae, tmp_path / "scans", tmp_path / "out", "--channels", 1)
    assert found["findings"] == {"nearly_empty_high_byte": 5}
    assert found["nearly_empty_high_byte"][0].endswith("1.png") and found["stored"][0]["bits"] == 16
    assert "train with bits=16" in text
    np.save(tmp_path / "bands.npy", np.repeat(pictures[..., None] * 16, 5, axis=3))
    report(paddlemae, tmp_path / "bands.npy", tmp_path / "out", "--channels", 5, status=0)  # are read with 16 anyway


def test_arrays_are_compared_by_their_values(paddlemae, tmp_path: Path) -> None:
    pictures = scenes(5, 2)
    np.save(tmp_path / "a.npy", np.concatenate([pictures, pictures[1:2]]))
    found, _ = report(paddlemae, tmp_path / "a.npy", tmp_path / "out")
    assert found["findings"] == {"exact_duplicates": 1} and found["unlabelled"]
    assert found["exact_duplicates"] == [[f"{tmp_path}/a.npy image 1", f"{tmp_path}/a.npy image 5"]]


def test_a_held_out_part_without_the_labels_of_the_other_is_reported(paddlemae, sound: Path, tmp_path: Path) -> None:
    shutil.move(sound / "test" / "cat" / "0.png", sound / "test" / "loose.png")
    found, text = report(paddlemae, sound, tmp_path / "out")
    assert found["findings"] == {"parts_without_the_labels_of_others": 1}
    assert "in no class folder" in found["unlabelled"]["test"] and "in no class folder" in text


def test_mistakes_are_one_line(paddlemae, sound: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "file").write_text("")
    for arguments in (
        (tmp_path / "none",),
        (sound / "train", "--split", "test"),
        (sound, "--split", "val"),
        (sound, "--split", "train", "--test", sound / "test"),
        (sound, "--test", tmp_path / "none"),
        (tmp_path / "broken",),
        (sound, "--out", tmp_path / "file"),
    ):
        done = paddlemae("data", "check", *arguments, "--quiet")
        assert done.status == 2 and done.err.count("\n") == 1 and "error" in done.err, done
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    found, text = report(paddlemae, tmp_path / "broken", tmp_path / "out")
    assert found["findings"] == {"unreadable": 1} and found["height"] is None and "nothing that can be read" in text


def test_held_out_images_elsewhere_are_compared(paddlemae, sound: Path, tmp_path: Path) -> None:
    """Whether both are folders of classes, or are parts of others."""
    other = tmp_path / "other"
    shutil.copytree(sound / "test", other)
    found, _ = report(paddlemae, sound / "train", tmp_path / "out", "--test", other, status=0)
    assert found["images"] == {"train": 9, "test": 4} and found["test_source"] == str(other)
    shutil.copy(sound / "train" / "cat" / "3.png", other / "dog" / "copy.png")
    leak = {"exact": True, "images": [f"train: {sound}/train/cat/3.png", f"test: {other}/dog/copy.png"]}
    for train, test in ((sound / "train", other), (sound, other)):
        found, text = report(paddlemae, train, tmp_path / "out", "--test", test)
        assert found["findings"] == {"exact_duplicates": 1, "leaks": 1, "labels_differ": 1}
        assert found["leaks"] == [leak] and "1 held-out images have a duplicate" in text
    found, _ = report(paddlemae, other, tmp_path / "out", "--test", sound)
    assert found["images"] == {"train": 5, "test": 4}, "of one with both parts its test part"
    assert found["findings"]["leaks"] == 4


def test_classes_that_only_one_of_two_has_are_reported(paddlemae, sound: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(sound / "test" / "cat", other / "cat")
    shutil.copytree(sound / "test" / "dog", other / "wolf")
    shutil.copy(sound / "train" / "dog" / "1.png", other / "wolf" / "copy.png")
    found, text = report(paddlemae, sound / "train", tmp_path / "out", "--test", other)
    expected = {"exact_duplicates": 1, "leaks": 1, "labels_differ": 1, "classes_in_one_part_only": 2}
    assert found["findings"] == expected and found["classes"]["test"] == {"cat": 2, "wolf": 3}
    dog, wolf = {"class": "dog", "train": 3, "test": 0}, {"class": "wolf", "train": 0, "test": 3}
    assert found["classes_in_one_part_only"] == [dog, wolf] and "'wolf': 0 and 3 images" in text
    shutil.rmtree(other / "cat")
    found, _ = report(paddlemae, sound / "train", tmp_path / "out", "--test", other / "wolf")
    assert found["findings"]["parts_without_the_labels_of_others"] == 1 and found["findings"]["leaks"] == 1


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A CSV of 9 pictures of patients 1 to 5; patient 2 is in both parts, and 5 in none of these two."""
    lines = ["image,patient,split"]
    rows = [(1, "train"), (2, "train"), (2, "train"), (2, "test"), (3, "train"), (4, "test"), (4, "test"), (2, "test")]
    for number, (patient, part) in enumerate([*rows, (5, "other")]):
        lines.append(f"{number}.png,{patient},{part}")
    for number, picture in enumerate(scenes(len(lines) - 1, 7)):
        save(tmp_path / f"{number}.png", picture)
    (tmp_path / "scans.csv").write_text("\n".join(lines))
    return tmp_path / "scans.csv"


def test_groups_are_counted_and_those_in_both_parts_are_leaks(paddlemae, scans: Path, tmp_path: Path) -> None:
    found, text = report(paddlemae, scans, tmp_path / "out")
    assert found["groups"] == {
        "train": {"groups": 3, "largest": {"group": "2", "images": 2}},
        "test": {"groups": 2, "largest": {"group": "2", "images": 2}},
    }
    assert found["findings"] == {"groups_in_both_parts": 1}
    assert found["groups_in_both_parts"] == [{"group": "2", "train": 2, "test": 2}]
    assert "groups     train: 3, the largest '2' of 2 images" in text
    assert "found      1 groups (patients, tiles ...) have images in several splits" in text
    assert "           '2': 2 and 2 images" in text
    found, text = report(paddlemae, scans, tmp_path / "out", "--split", "test", status=0)
    assert list(found["groups"]) == ["test"] and "both parts" not in text


def test_groups_of_two_files_are_compared_by_name(paddlemae, scans: Path, tmp_path: Path) -> None:
    """Their numbers mean nothing to each other: patient 4 is the first one in one, the third in the other."""
    lines = [line.rpartition(",")[0] for line in scans.read_text().splitlines()]
    (tmp_path / "a.csv").write_text("\n".join([lines[0], *lines[1:6]]))
    (tmp_path / "b.csv").write_text("\n".join([lines[0], *lines[6:8]]))
    found, _ = report(paddlemae, tmp_path / "a.csv", tmp_path / "out", "--test", tmp_path / "b.csv", status=0)
    assert [found["groups"][part]["groups"] for part in ("train", "test")] == [3, 1]
    (tmp_path / "b.csv").write_text("\n".join([lines[0], *lines[6:9]]))
    found, _ = report(paddlemae, tmp_path / "a.csv", tmp_path / "out", "--test", tmp_path / "b.csv")
    assert found["groups_in_both_parts"] == [{"group": "2", "train": 3, "test": 1}]
    plain = tmp_path / "plain"
    save(plain / "0.png", scenes(1, 9)[0])
    found, _ = report(paddlemae, tmp_path / "a.csv", tmp_path / "out", "--test", plain, status=0)
    assert list(found["groups"]) == ["train"]


def test_groups_of_a_table_may_be_numbers_some_of_them_missing(paddlemae, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for number, picture in enumerate(scenes(6, 8)):
        save(tmp_path / f"{number}.png", picture)
    content = [(tmp_path / f"{number}.png").read_bytes() for number in range(6)]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": content[:4], "tile": [7, 8, None, 7]}), tmp_path / "data" / "train.parquet")
    pq.write_table(pa.table({"image": content[4:], "tile": [9, 8]}), tmp_path / "data" / "test.parquet")
    found, _ = report(paddlemae, tmp_path / "data", tmp_path / "out")
    assert found["groups"]["train"] == {"groups": 3, "largest": {"group": "7", "images": 2}}
    assert found["groups_in_both_parts"] == [{"group": "8", "train": 1, "test": 1}]


def test_a_group_of_very_many_is_not_listed_whole(paddlemae, sound: Path, tmp_path: Path) -> None:
    for number in range(30):
        shutil.copy(sound / "train" / "cat" / "3.png", sound / "train" / "cat" / f"copy{number:02}.png")
    shutil.copy(sound / "train" / "cat" / "3.png", sound / "test" / "cat" / "copy.png")
    found, _ = report(paddlemae, sound, tmp_path / "out")
    assert found["findings"] == {"exact_duplicates": 31, "leaks": 1}
    assert [len(group) for group in found["exact_duplicates"]] == [20]
    assert [len(leak["images"]) for leak in found["leaks"]] == [11], "ten to train on, and the one of the test part"
    assert found["leaks"][0]["images"][-1] == f"test: {sound}/test/cat/copy.png"


def test_what_is_left_out_and_not_read_is_reported(paddlemae, sound: Path, tmp_path: Path) -> None:
    """Images of no split, and files that are none here; neither is a finding."""
    for name in ("a.heic", "b.HEIC", "c.dcm", "d", ".hidden"):
        (sound / "train" / "cat" / name).write_bytes(b"")
    shutil.copytree(sound / "test" / "cat", sound / "extra")
    found, text = report(paddlemae, sound, tmp_path / "out", status=0)
    assert found["not_read"] == {".heic": 2, ".dcm": 1, "": 1}
    assert "not read   .heic 2, .dcm 1, without an ending 1" in text
    assert len(found["notes"]) == 1 and "leaves out 2 images of no split: 'extra' (2)" in found["notes"][0]
    assert f"note       {found['notes'][0]}" in text
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(sound, ".")
    packed, _ = report(paddlemae, tmp_path / "all.tar", tmp_path / "packed", status=0)
    assert packed["not_read"] == found["not_read"] and len(packed["notes"]) == 1


def test_an_unusable_label_is_a_finding_and_nothing_is_made_without_it(
    paddlemae, sound: Path, tmp_path: Path, pretrained: Path
) -> None:
    rows = [f"{path.relative_to(sound)},{path.parent.name}" for path in sorted(sound.rglob("*.png"))]
    (sound / "all.csv").write_text("\n".join(["path,label", *rows[:-1], rows[-1].partition(",")[0] + ",nan"]))
    found, text = report(paddlemae, sound / "all.csv", tmp_path / "out")
    assert found["findings"] == {"parts_with_unusable_labels": 1} and "row 14: the label 'nan'" in text
    for command in (("data", "pack", sound / "all.csv"), ("embed", pretrained, "--data", sound / "all.csv")):
        done = paddlemae(*command, "--out", tmp_path / "none.npz", "--quiet")
        assert done.status == 2 and "row 14: the label 'nan'" in done.err and done.err.count("\n") == 1, done
        assert not (tmp_path / "none.npz").exists()


def test_labels_are_compared_by_name(paddlemae, sound: Path, tmp_path: Path) -> None:
    """Of a held-out split without one of the classes, the others have other numbers of their own."""
    shutil.rmtree(sound / "test" / "cat")
    shutil.copy(sound / "train" / "dog" / "1.png", sound / "test" / "dog" / "same.png")
    found, _ = report(paddlemae, sound, tmp_path / "out")
    assert found["findings"] == {"exact_duplicates": 1, "leaks": 1, "classes_in_one_part_only": 1}
    assert found["classes_in_one_part_only"] == [{"class": "cat", "train": 6, "test": 0}]
    shutil.copy(sound / "train" / "cat" / "1.png", sound / "test" / "dog" / "other.png")
    found, _ = report(paddlemae, sound, tmp_path / "out")
    assert found["findings"]["labels_differ"] == 1 and found["findings"]["leaks"] == 2
    assert found["labels_differ"] == [[f"{sound}/train/cat/1.png", f"{sound}/test/dog/other.png"]]


def test_images_without_a_label_are_checked_and_noted(paddlemae, sound: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(sound)},{path.parent.name}" for path in sorted(sound.rglob("*.png"))]
    (sound / "all.csv").write_text("\n".join(["path,label", *rows[:-1], rows[-1].partition(",")[0] + ","]))
    found, text = report(paddlemae, sound / "all.csv", tmp_path / "out", status=0)
    assert found["images"] == {"train": 13} and sum(found["classes"]["train"].values()) == 12
    assert "1 of 13 images have no label" in text
