"""Splits and labels by one rule in every kind of source: nothing is guessed, and what is left out is said."""

from __future__ import annotations

import json
import os
import resource
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from paddlemae.data.sources import (
    BadLabel,
    MissingSplit,
    Source,
    SourceNote,
    match_classes,
    open_source,
    split_off,
    subset,
    with_classes,
)
from paddlemae.data.sources.labels import as_labels, sort_names
from paddlemae.data.sources.splits import files_of_split
from tests.fuzz import splits as splits_property
from tests.support import source_writers as kinds
from tests.support.source_writers import with_tables

PNG = kinds.png(np.zeros((2, 3, 3), np.uint8))
SEEDS = 200  # each takes about 15 ms; `make fuzz` tries more


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


def names_of(source: Source) -> list[str]:
    assert source.labels is not None
    return [source.classes[label] for label in source.labels]


@pytest.mark.parametrize("seed", range(0, SEEDS, 40))
def test_the_same_data_set_is_the_same_in_every_kind(seed: int, tmp_path: Path) -> None:
    for each in range(seed, seed + 40):
        (tmp_path / str(each)).mkdir()
        splits_property.check(each, tmp_path / str(each))


# --- folders


def test_a_class_folder_named_train_is_a_class(tmp_path: Path) -> None:
    root = make(tmp_path, *(f"{name}/{i}.png" for name in ("bus", "car", "train", "truck") for i in range(4)))
    with pytest.warns(SourceNote, match="'train' is read as a class, not as a split, since 'bus', 'car', 'truck'"):
        source = open_source(str(root), "train", labelled=True)
    assert len(source) == 16 and source.classes == ("bus", "car", "train", "truck")
    with pytest.warns(SourceNote), pytest.raises(MissingSplit, match="put the test images there$"):
        open_source(str(root), "test")


@pytest.mark.parametrize(
    "words", [("Train", "Test"), ("training", "testing"), ("TRAIN", "Dev"), ("train", "Validation")]
)
def test_words_of_splits_are_known_in_any_case(tmp_path: Path, words: tuple[str, str]) -> None:
    root = make(tmp_path, *(f"{word}/{name}/{i}.png" for word in words for name in ("cat", "dog") for i in range(4)))
    for split, word in zip(("train", "test"), words):
        source = open_source(str(root), split, labelled=True)
        assert len(source) == 8 and source.classes == ("cat", "dog") and f"/{word}/" in source.describe(0)
    with pytest.raises(ValueError, match="ask for split"):
        open_source(str(root), labelled=True)


def test_what_is_of_no_split_is_counted(tmp_path: Path) -> None:
    root = make(tmp_path, "train/1.png", "val/2.png", "extra/3.png", "extra/deep/4.png", "loose.png")
    (root / "extra" / "5.npy").write_bytes(b"")
    with pytest.warns(SourceNote) as said:
        assert len(open_source(str(root), "train")) == 1
    texts = [str(warning.message) for warning in said]
    assert any("leaves out 2 images of no split: 'extra' (2)" in text for text in texts), texts
    assert any("leaves out 1 image in no folder of a split" in text for text in texts), texts


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("test/1.png", "images/2.png"),
            "'test' names a split, and 'images' none, so .* ambiguous.* 'train'",
        ),
        (("train/1.png", "Train/2.png", "val/3.png"), "both 'Train' and 'train' name the split"),
        (("train/1.png", "val/2.png", "valid/3.png"), "both 'val' and 'valid' name the split"),
    ],
)
def test_layouts_that_leave_open_what_is_meant_are_refused(tmp_path: Path, names: tuple, message: str) -> None:
    root = make(tmp_path / "folder", *names)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, PNG)
    for spec in (root, tmp_path / "a.zip"):
        for split in ("train", "test"):
            with pytest.raises(ValueError, match=message):
                open_source(str(spec), split)
        assert len(open_source(str(spec))) == len(names)


def test_folders_without_images_decide_nothing(tmp_path: Path) -> None:
    root = make(tmp_path, "train/1.png", "docs/read me.txt", ".hidden/2.png")
    assert len(open_source(str(root), "train")) == 1
    (root / "val").mkdir()
    with pytest.raises(ValueError, match="no images in .*val"):
        open_source(str(root), "test")
    make(root, "bus/3.png")
    with pytest.warns(SourceNote, match="read as a class"):
        assert len(open_source(str(root), "train")) == 3 - 1


def test_a_refusal_is_one_line_whatever_names_hold(tmp_path: Path) -> None:
    root = make(tmp_path / "two\nlines", "a\nb/0.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a\nb/0.png", PNG)
    (root / "x.csv").write_text("name\n0.png\n")
    (root / "x.txt").write_text("gone.png 0\n")
    for spec in (root, tmp_path / "a.zip", root / "x.csv", root / "x.txt"):
        with pytest.raises((ValueError, FileNotFoundError)) as fault:
            open_source(str(spec), labelled=True)
        assert "\n" not in str(fault.value), spec


def test_a_link_in_a_circle_is_no_sibling_with_images(tmp_path: Path) -> None:
    root = make(tmp_path, "train/1.png")
    (root / "loop").mkdir()
    (root / "loop" / "up").symlink_to(root / "loop")
    assert len(open_source(str(root), "train")) == 1


# --- numbers and names of classes


def test_whole_numbers_are_in_numeric_order() -> None:
    assert sort_names(map(str, range(12))) == tuple(map(str, range(12)))
    assert sort_names(["10", "9", "x"]) == ("10", "9", "x")
    assert sort_names(["007", "10", "7", "1" * 5000, "8"]) == ("007", "7", "8", "10", "1" * 5000)


def test_folders_archives_and_lists_number_classes_alike(tmp_path: Path) -> None:
    root = make(
        tmp_path / "n", *(f"{part}/{c}/{i}.png" for part in ("train", "val") for c in range(12) for i in (0, 1))
    )
    with tarfile.open(tmp_path / "n.tar", "w") as archive:
        archive.add(root, "n")
    for part in ("train", "val"):
        lines = [f"{part}/{c}/{i}.png {c}\n" for c in range(12) for i in (0, 1)]
        (root / f"{part}_list.txt").write_text("".join(lines))
    for spec in (root, tmp_path / "n.tar", root / "train_list.txt"):
        for split in ("train", "test"):
            assert open_source(str(spec), split, labelled=True).classes == tuple(map(str, range(12)))


def test_a_held_out_split_has_the_numbers_of_the_training_split(tmp_path: Path) -> None:
    names = ["train/a/0.png", "train/b/1.png", "train/c/2.png", "val/c/3.png", "val/b/4.png"]
    root = make(tmp_path / "folder", *names)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, PNG)
    for spec in (root, tmp_path / "a.zip"):
        source = open_source(str(spec), "test", labelled=True)
        assert source.classes == ("a", "b", "c") and source.labels is not None and source.labels.tolist() == [1, 2]
        with pytest.warns(SourceNote, match="1 of 3 classes have no held-out image: 'a'"):
            match_classes(open_source(str(spec), "train", labelled=True), source)
    make(root, "val/d/5.png")
    with pytest.raises(ValueError, match="labels that no training image has: 'd'"):
        open_source(str(root), "test", labelled=True)


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    source = open_source(str(make(tmp_path, "a/0.png", "b/1.png", "c/2.png")), labelled=True)
    other = with_classes(source, ("c", "x", "b", "a"))
    assert names_of(other) == ["a", "b", "c"] and other.labels is not None and other.labels.tolist() == [3, 2, 0]
    assert other.describe(2) == source.describe(2) and with_classes(source, source.classes) is source
    assert names_of(match_classes(source, with_classes(subset(source, [2, 0, 1]), ("c", "b", "a")))) == ["c", "a", "b"]
    with pytest.raises(ValueError, match="no training image has: 'c'"):
        match_classes(with_classes(subset(source, [0, 1]), ("a", "b")), source)


def test_classes_that_a_split_leaves_without_images_are_reported(tmp_path: Path) -> None:
    source = open_source(str(make(tmp_path, "a/0.png", "a/1.png", "b/2.png", "c/3.png")), labelled=True)
    with pytest.warns(SourceNote, match="2 of 3 classes have no image to train on: 'b', 'c'"):
        match_classes(*split_off(source, 0.5, seed=0))


# --- lists


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    names = [f"d/{c}/scan {mark}.png" for c in ("cat", "dog") for mark in ("\u2028", "\x85", "\x0c", "\x1c", "é")]
    make(tmp_path, *names)
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "list.txt").write_bytes("".join(f"{name} {n % 2}{end}" for n, name in enumerate(names)).encode())
        assert [
            os.path.relpath(open_source(f"{tmp_path}/list.txt", labelled=True).describe(i), tmp_path) for i in range(10)
        ] == names
        rows = [f"{name},one\u2028two\x85three,{name[2:5]}{end}" for name in names]
        (tmp_path / "all.csv").write_bytes(("image,caption,label" + end + "".join(rows)).encode())
        source = open_source(f"{tmp_path}/all.csv", labelled=True)
        assert len(source) == 10 and source.classes == ("cat", "dog")


def test_a_csv_as_windows_and_excel_write_it(tmp_path: Path) -> None:
    make(tmp_path, "d/cat/0.png", "d/dog/1.png")
    (tmp_path / "a.csv").write_text("sep=;\npath;label\nd\\cat\\0.png;cat\nd\\dog\\1.png;dog\n")
    source = open_source(f"{tmp_path}/a.csv", labelled=True)
    assert names_of(source) == ["cat", "dog"] and source.describe(0) == f"{tmp_path}/d/cat/0.png"
    (tmp_path / "b.csv").write_text('path,label\nd/cat/0.png,cat\n"d/dog/1.png,dog\n' + "x" * 200_000)
    with pytest.raises(ValueError, match="is not valid CSV: .*quotation mark"):
        open_source(f"{tmp_path}/b.csv", labelled=True)
    (tmp_path / "c.csv").write_text("path,label\nd/cat/0.png,cat\n".replace("\n", "\r\n"), encoding="utf-16")
    with pytest.raises(ValueError, match="save it as UTF-8"):
        open_source(f"{tmp_path}/c.csv", labelled=True)
    (tmp_path / "d.csv").write_text("path,label,Label\nd/cat/0.png,cat,dog\n")
    with pytest.raises(ValueError, match="2 columns called 'label'"):
        open_source(f"{tmp_path}/d.csv", labelled=True)


def test_a_csv_s_row_without_a_path_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "0.png")
    (tmp_path / "a.csv").write_text("path,label\n0.png,a\n,b\n")
    with pytest.raises(ValueError, match="row 3: no path"):
        open_source(f"{tmp_path}/a.csv")


def test_which_of_several_columns_has_the_labels_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "0.png")
    (tmp_path / "a.csv").write_text("path,Class,label\n0.png,a,0\n0.png,b,1\n")
    with pytest.warns(SourceNote, match="labels are of column 'label', and 'Class' not used"):
        assert names_of(open_source(f"{tmp_path}/a.csv", labelled=True)) == ["0", "1"]
    assert names_of(open_source(f"{tmp_path}/a.csv::label=Class", labelled=True)) == ["a", "b"]


def test_rows_of_unknown_splits_are_counted(tmp_path: Path) -> None:
    make(tmp_path, "0.png")
    words = ("Train", "train", "dev", "DEV", "holdout", "", "Test")
    rows = "".join(f"0.png,{n % 2},{word}\n" for n, word in enumerate(words))
    (tmp_path / "a.csv").write_text("path,label,split\n" + rows)
    with pytest.warns(SourceNote, match=r"leaves out 2 images of no split: '' \(1\), 'holdout' \(1\)"):
        assert len(open_source(f"{tmp_path}/a.csv", "train", labelled=True)) == 2
    with pytest.warns(SourceNote) as said:
        assert len(open_source(f"{tmp_path}/a.csv", "test", labelled=True)) == 2
    assert any("of 'dev' and 'test' the first is held out" in str(warning.message) for warning in said)


def test_a_list_finds_its_held_out_list_in_any_spelling(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    for train, held_out in (
        ("Train_List.txt", "val_list.txt"),
        ("training.txt", "Validation.txt"),
        ("trainlist01.txt", "testlist01.txt"),
    ):
        (tmp_path / train).write_text("a.png 0\nb.png 1\n")
        (tmp_path / held_out).write_text("b.png 1\n")
        source = open_source(f"{tmp_path}/{train}", "test", labelled=True)
        assert source.name.endswith(held_out) and names_of(source) == ["1"]
    (tmp_path / "train_test.txt").write_text("a.png 0\n")
    with pytest.raises(ValueError, match="words of two splits"):
        open_source(f"{tmp_path}/train_test.txt", "test")


# --- files and arrays, by the words in their names


def test_files_of_a_split() -> None:
    files = ["w/Train-0.tar", "w/train-1.tar", "w/val-0.tar", "w/extra.tar"]
    with pytest.warns(SourceNote, match="leaves out 1 file of no split: 'w/extra.tar'"):
        assert files_of_split(files, "train", "w") == files[:2]
    assert files_of_split(["test export/train-0", "test export/val-0"], "test", "w") == ["test export/val-0"]
    assert files_of_split(["train/0.tar", "train/1.tar", "test/0.tar"], "train", "w") == ["train/0.tar", "train/1.tar"]
    assert files_of_split(["val/0.tar"], "test", "w") == ["val/0.tar"]
    with pytest.raises(MissingSplit, match="has no file named by train"):
        files_of_split(["val/0.tar"], "train", "w")
    with pytest.raises(ValueError, match="names a split, and 'extra.tar' none"):
        files_of_split(["train.tar", "extra.tar"], "train", "w")
    with pytest.raises(ValueError, match="'train/test-0.tar' has the words of two splits"):
        files_of_split(["train/test-0.tar", "val/0.tar"], "train", "w")
    assert files_of_split(files, None, "w") == files


def test_arrays_of_no_split_are_reported(tmp_path: Path) -> None:
    images, labels = np.zeros((2, 3, 3), np.uint8), np.array([0, 1])
    arrays = {f"{what}_{part}": value for part in ("train", "Test") for what, value in (("x", images), ("y", labels))}
    np.savez(tmp_path / "a.npz", **arrays, x_extra=images)
    with pytest.warns(SourceNote, match="leaves out 1 array of no split: 'x_extra'"):
        assert len(open_source(f"{tmp_path}/a.npz", "train", labelled=True)) == 2
    np.savez(tmp_path / "b.npz", images=images, test_images=images)
    with pytest.raises(ValueError, match="'test' names a split, and 'images' none"):
        open_source(f"{tmp_path}/b.npz", "train")


def test_a_folder_of_several_published_sets_names_them(tmp_path: Path) -> None:
    root = kinds.write_mnist(tmp_path / "emnist", zipped=False)
    for name in list(os.listdir(root)):
        shutil.copy(root / name, root / f"letters-{name}")
    with pytest.raises(ValueError, match="several files of images to train: 'letters-train-.*, 'train-"):
        open_source(str(root), "train")
    assert len(open_source(f"{root}/letters-train-images-idx3-ubyte")) == 30


# --- labels


def test_what_is_no_label() -> None:
    for value in [None, float("nan"), 0.5, 3.0, True, -1, [1], {"a": 1}, b"\xff", "", "  ", "nan", "3.5", "-1"]:
        with pytest.raises(BadLabel, match="row 2: "):
            as_labels(["cat", "dog", value], lambda row: f"row {row}")
        with pytest.raises(ValueError, match="row 0: "):
            as_labels([value, value], lambda row: f"row {row}")


def test_what_is_a_label() -> None:
    values = ["cat", b"caf\xc3\xa9", 3, 0, " x ", "1e5", "None"]
    assert as_labels(values, str) == ["cat", "café", "3", "0", " x ", "1e5", "None"]
    assert as_labels([], str) == []


def labels_of_columns(values: list) -> Iterator[tuple[str, object]]:
    import pyarrow as pa

    yield "text", pa.array([None if value is None else str(value) for value in values])
    if not any(isinstance(value, str) for value in values):
        yield "numbers", pa.array(values)


@with_tables
def test_a_table_s_labels_are_names_or_numbers(tmp_path: Path) -> None:
    for ending, last in product(["parquet", "arrow", "PARQUET", "tmp"], [1.5, True, b"\xff", [1], -1]):
        import pyarrow as pa
        import pyarrow.parquet as pq

        kind = type(last)
        first = {str: "cat", float: 1.0, bool: False, bytes: b"cat", list: [2], int: 0}[kind]
        second = {str: "dog", float: 2.0, bool: True, bytes: b"dog", list: [3], int: 1}[kind]
        table = pa.table({"image": [PNG] * 3, "label": [first, second, last]})
        path = tmp_path / f"a.{ending}"
        if ending == "arrow":
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        else:
            pq.write_table(table, path)
        assert len(open_source(str(path))) == 3
        row = 0 if kind in (float, bool, list) else 2  # a column of such values has no label at all
        with pytest.raises(BadLabel, match=rf"a\.{ending}', row {row}: "):
            open_source(str(path), labelled=True)


@with_tables
def test_the_classes_that_a_table_names(tmp_path: Path) -> None:
    """Whole numbers are in numeric order; a number that is none of theirs, and other names elsewhere, are refused."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(name: str, labels: list, names: list[str]) -> None:
        about = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}}
        table = pa.table({"image": [PNG] * len(labels), "label": labels})
        pq.write_table(table.replace_schema_metadata({b"huggingface": json.dumps(about).encode()}), tmp_path / name)

    write("train-0.parquet", [0, 1, 2], ["1", "10", "2"])
    source = open_source(str(tmp_path), "train", labelled=True)
    assert source.classes == ("1", "2", "10") and names_of(source) == ["1", "10", "2"]
    write("train-1.parquet", [0, 1, 2], ["10", "1", "2"])
    with pytest.raises(ValueError, match="train-1.parquet' has other classes than .*train-0.parquet"):
        open_source(str(tmp_path), "train", labelled=True)
    for wrong in (1.5, -1, 3):
        write("train-1.parquet", [0, 1, wrong], ["1", "10", "2"])
        with pytest.raises(BadLabel, match="train-1.parquet', row [02]: label .* none of the table's 3 classes"):
            open_source(str(tmp_path), "train", labelled=True)
    write("train-1.parquet", [0, 1], ["1", "1"])
    with pytest.raises(ValueError, match="two classes .* same name"):
        open_source(f"{tmp_path}/train-1.parquet", labelled=True)


def test_an_array_s_labels_are_names_or_numbers(tmp_path: Path) -> None:
    for labels, message in [
        (np.array([0.0, 1.0]), "type float64"),
        (np.array([False, True]), "type bool"),
        (np.array([0, -1]), "array 'labels', row 1: the label -1"),
        (np.array(["a", ""]), "array 'labels', row 1: no label"),
        (np.array([[0, 1], [1, 0]]), r"shape \(2, 2\)"),
    ]:
        np.savez(tmp_path / "a.npz", images=np.zeros((2, 3, 3), np.uint8), labels=labels)
        with pytest.raises(ValueError, match=message):
            open_source(f"{tmp_path}/a.npz", labelled=True)


def test_a_sidecar_s_label_is_a_name_or_a_number(tmp_path: Path) -> None:
    for value in ["true", "null", "1.0", "NaN", "[1]", "-1", '""', "[" * 100_000, "9" * 5000]:
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for number, label in enumerate(("0", value)):
                kinds.add(archive, f"{number}.png", PNG)
                kinds.add(archive, f"{number}.json", f'{{"label": {label}}}'.encode())
        with pytest.raises(ValueError, match=r"1\.png"):
            open_source(f"{tmp_path}/a.tar", labelled=True)


@pytest.mark.parametrize("value", ["nan", "0.5", "-1", "3.0"])
def test_a_csv_s_label_is_a_name_or_a_number(tmp_path: Path, value: str) -> None:
    make(tmp_path, "0.png")
    (tmp_path / "a.csv").write_text(f"path,label\n0.png,0\n\n0.png,{value}\n")
    with pytest.raises(BadLabel, match="row 4: "):
        open_source(f"{tmp_path}/a.csv", labelled=True)


def test_cifar_s_labels_are_whole_numbers(tmp_path: Path) -> None:
    for wrong in (1.5, None, -1, 3, "x"):
        files = kinds.cifar100_files()
        content = {
            b"data": kinds.rows_of(kinds.PARTS["test"]),
            b"fine_labels": [0, 1, 2, 0, 1, wrong],
            b"coarse_labels": [0] * 6,
        }
        import pickle

        root = kinds.write_files(tmp_path / f"{wrong}", {**files, "test": pickle.dumps(content, 2)})
        with pytest.raises(ValueError, match="fine_labels, row 5|is damaged"):
            open_source(str(root), "test")


# --- tables: many of them, and of any name


@with_tables
def test_tables_are_known_by_their_content(tmp_path: Path) -> None:
    import pyarrow as pa

    whole = kinds.write_parquet(tmp_path / "set") / "data" / "test-00000-of-00001.parquet"
    table = kinds.table(kinds.PARTS["test"])
    for name in ("UP.PARQUET", "blob", "a.parquet.tmp", "misnamed.arrow"):
        shutil.copy(whole, tmp_path / name)
    for name, writer in (
        ("stream", pa.ipc.new_stream),
        ("file", pa.ipc.new_file),
        ("misnamed.parquet", pa.ipc.new_file),
    ):
        with pa.OSFile(str(tmp_path / name), "wb") as file, writer(file, table.schema) as out:
            out.write_table(table)
    for name in ("UP.PARQUET", "blob", "a.parquet.tmp", "misnamed.arrow", "stream", "file", "misnamed.parquet"):
        source = open_source(f"{tmp_path}/{name}", labelled=True)
        assert len(source) == 6 and (source.read(5, 3) == kinds.PARTS["test"][5].pixels_HW3).all(), name


@pytest.fixture
def few_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(64, open_now + 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@with_tables
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_many_tables_need_few_open_files(tmp_path: Path, few_files: None, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number in range(150):
        table = pa.table({"image": [kinds.png(np.full((1, 1), number, np.uint8))], "label": [number % 2]})
        path = str(tmp_path / f"train-{number:05}.{kind}")
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
    source = open_source(str(tmp_path), "train", labelled=True)
    order = np.random.default_rng(0).permutation(150).tolist()
    assert [int(source.read(i, 1)[0, 0, 0]) for i in order] == order


@with_tables
def test_a_table_that_the_system_does_not_open_is_not_called_damaged(tmp_path: Path) -> None:
    path = kinds.write_parquet(tmp_path / "set") / "data" / "test-00000-of-00001.parquet"
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(ValueError, match="Too many open files") as fault:
            from paddlemae.data.sources import table_files

            table_files._open_parquet(str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "damaged" not in str(fault.value)


@with_tables
def test_tables_with_other_columns_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [PNG], "label": ["a"]}), tmp_path / "train-0.parquet")
    pq.write_table(pa.table({"image": [PNG]}), tmp_path / "train-1.parquet")
    with pytest.raises(ValueError, match="train-1.parquet' lacks the column 'label'"):
        open_source(str(tmp_path), "train", labelled=True)
    pq.write_table(pa.table({"picture": [PNG], "label": ["a"]}), tmp_path / "train-1.parquet")
    with pytest.raises(ValueError, match="train-1.parquet' lacks the column 'image'"):
        open_source(str(tmp_path), "train")


# --- packs


def test_an_older_pack_s_classes_get_numeric_order(tmp_path: Path, paddlemae) -> None:
    make(tmp_path / "n", *(f"{c}/{i}.png" for c in range(12) for i in (0, 1)))
    done = paddlemae("data", "pack", tmp_path / "n", "--out", tmp_path / "pack", "--quiet")
    assert done.status == 0, done.err
    index = json.loads((tmp_path / "pack" / "pack.json").read_text())
    assert index["parts"]["train"]["classes"] == [str(c) for c in range(12)]
    older = sorted(map(str, range(12)))
    index["parts"]["train"]["classes"] = older
    (tmp_path / "pack" / "pack.json").write_text(json.dumps(index))
    rows = np.load(tmp_path / "pack" / "images.npy")
    rows[:, 4] = [older.index(str(label)) for label in rows[:, 4]]
    with open(tmp_path / "pack" / "images.npy", "wb") as file:
        np.save(file, rows)
    source = open_source(str(tmp_path / "pack"), labelled=True)
    assert source.classes == tuple(map(str, range(12)))
    assert names_of(source) == names_of(open_source(str(tmp_path / "n"), labelled=True))


@with_tables
@pytest.mark.parametrize("column", ["split", "Part"])
def test_a_table_s_column_of_splits(tmp_path: Path, column: str) -> None:
    """As a CSV's: what a table without a split's word in its name says row by row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = ["Train", "test", "train", "holdout", "test", "train"]
    images = [kinds.png(np.full((1, 1), number, np.uint8)) for number in range(6)]
    table = {"image": images, "label": ["a", "b", "b", None, "a", "a"], column: words}
    pq.write_table(pa.table(table), tmp_path / "all.parquet")
    spec = f"{tmp_path}/all.parquet" + (f"::split={column}" if column == "Part" else "")
    for split, numbers in (("train", [0, 2, 5]), ("test", [1, 4])):
        with pytest.warns(SourceNote, match=r"leaves out 1 image of no split: 'holdout' \(1\)"):
            source = open_source(spec, split, labelled=True)
        assert [int(source.read(i, 1)[0, 0, 0]) for i in range(len(source))] == numbers
        assert names_of(source) == [table["label"][number] for number in numbers]
        assert source.describe(1).endswith(f", row {numbers[1]}")
    assert len(open_source(spec)) == 6
    pq.write_table(pa.table({**table, "label": list("aabbcc"), column: list("xyzxyz")}), tmp_path / "all.parquet")
    assert len(open_source(spec, "train", labelled=True)) == 6
    with pytest.raises(MissingSplit):
        open_source(spec, "test")


def test_splits_one_level_deeper_are_pointed_out(tmp_path: Path) -> None:
    """Two folders each with splits inside, which would all be trained on."""
    make(tmp_path / "set", *(f"{kind}/{split}/1.png" for kind in ("images", "normals") for split in ("train", "test")))
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "set", "set")
    for path in (tmp_path / "set", tmp_path / "set.tar"):
        with pytest.warns(SourceNote, match="'images' holds folders 'train' and 'test'"):
            assert len(open_source(str(path), "train")) == 4
    assert len(open_source(str(tmp_path / "set" / "images"), "train")) == 1


def test_masks_next_to_images_are_no_images(tmp_path: Path) -> None:
    parts = [(kind, split) for kind in ("images", "masks") for split in ("train", "test")]
    make(tmp_path / "inside", *(f"{kind}/{split}/1.png" for kind, split in parts))
    make(tmp_path / "outside", *(f"{split}/{kind}/1.png" for kind, split in parts))
    for name, file in (("inside", "images/train/1.png"), ("outside", "train/images/1.png")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            archive.add(tmp_path / name, name)
        for path in (tmp_path / name, tmp_path / f"{name}.tar"):
            with pytest.warns(SourceNote, match="'masks' are left out"):
                train = open_source(str(path), "train")
            assert len(train) == 1
            assert train.describe(0).endswith(file)


# --- both of val and test


@pytest.mark.parametrize("kind", ["folder", "tar", "csv", "lists"])
def test_val_and_test_are_opened_one_by_one(kind: str, tmp_path: Path) -> None:
    counts = {"train": 3, "val": 2, "test": 1}
    names = [f"{split}/{label}/{n}.png" for split, count in counts.items() for label in "ab" for n in range(count)]
    data = make(tmp_path / "set", *names)
    if kind == "tar":
        with tarfile.open(tmp_path / "set.tar", "w") as archive:
            archive.add(data, "set")
        data = tmp_path / "set.tar"
    elif kind == "csv":
        rows = [f"{name},{name.split('/')[1]},{name.split('/')[0]}" for name in names]
        data = data / "all.csv"
        data.write_text("\n".join(["path,label,split", *rows]))
    elif kind == "lists":
        for split in counts:
            rows = [f"{name} {'ab'.index(name.split('/')[1])}\n" for name in names if name.startswith(split)]
            (data / f"{split}_list.txt").write_text("".join(rows))
        data = data / "train_list.txt"
    opened = {split: open_source(str(data), split, labelled=True) for split in ("train", "val-only", "test-only")}
    assert [len(source) for source in opened.values()] == [6, 4, 2]
    assert opened["val-only"].classes == opened["train"].classes
    with pytest.warns(SourceNote, match="not used"):
        assert len(open_source(str(data), "test")) == 4


def test_a_split_that_is_named_alone_is_not_replaced_by_the_other(tmp_path: Path) -> None:
    make(tmp_path, "train/1.png", "test/1.png", "val_list/x")
    (tmp_path / "val_list.txt").write_text("train/1.png 0\n")
    with pytest.raises(MissingSplit):
        open_source(str(tmp_path), "val-only")
    with pytest.raises(MissingSplit):
        open_source("digits", "val-only")
    with pytest.raises(MissingSplit):
        open_source(str(tmp_path / "val_list.txt"), "test-only")
    assert len(open_source(str(tmp_path), "test-only")) == 1
    assert len(open_source("digits", "test-only")) == 1000


# --- labels for some images only


def note_of(path: Path, split: str | None = None, *, keep_unlabelled: bool = False) -> tuple[Source, str]:
    with pytest.warns(SourceNote) as notes:
        source = open_source(str(path), split, labelled=True, keep_unlabelled=keep_unlabelled)
    assert len(notes) == 1
    return source, str(notes[0].message)


def test_rows_of_a_csv_without_a_label_are_for_pretraining_only(tmp_path: Path) -> None:
    make(tmp_path, *(f"{n}.png" for n in range(5)))
    (tmp_path / "a.csv").write_text("path,label,patient\n0.png,,1\n1.png,b,2\n2.png,a,3\n3.png, ,4\n4.png,b,5\n")
    source, text = note_of(tmp_path / "a.csv")
    assert "2 of 5 images have no label: used for pretraining only" in text
    assert names_of(source) == ["b", "a", "b"] and source.describe(0).endswith("1.png")
    assert source.groups is not None and source.groups.tolist() == [1, 2, 4]
    assert len(open_source(str(tmp_path / "a.csv"))) == 5
    everything, _ = note_of(tmp_path / "a.csv", keep_unlabelled=True)
    assert everything.labels is not None and everything.labels.tolist() == [-1, 1, 0, -1, 1]
    assert with_classes(everything, ("b", "c", "a")).labels.tolist() == [-1, 0, 2, -1, 0]


@with_tables
@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_rows_of_a_table_without_a_label_are_for_pretraining_only(tmp_path: Path, missing: object) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = pa.array([["a", "b", missing][n % 3] for n in range(6)], pa.string(), from_pandas=True)
    pq.write_table(pa.table({"image": [PNG] * 6, "label": labels}), tmp_path / "a.parquet")
    source, text = note_of(tmp_path / "a.parquet")
    assert names_of(source) == ["a", "b", "a", "b"] and "2 of 6" in text
    features = {"image": {"_type": "Image"}, "label": {"names": ["b", "a"], "_type": "ClassLabel"}}
    numbers = pa.table({"image": [PNG] * 3, "label": pa.array([0, None, 1], pa.int64())})
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(numbers.replace_schema_metadata(about), tmp_path / "b.parquet")
    source, text = note_of(tmp_path / "b.parquet")
    assert names_of(source) == ["b", "a"] and "1 of 3" in text


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
@pytest.mark.parametrize("name", ["unlabelled", "Unlabeled"])
def test_a_folder_of_unlabelled_images_is_no_class(tmp_path: Path, kind: str, name: str) -> None:
    data = make(tmp_path / "a", "train/cat/1.png", "train/dog/1.png", f"train/{name}/1.png", f"train/{name}/x/2.png")
    make(data, "test/cat/1.png")
    if kind == "tar":
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            archive.add(data, ".")
    elif kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for path in sorted(data.rglob("*.png")):
                archive.write(path, path.relative_to(data))
    path = data if kind == "folder" else tmp_path / f"a.{kind}"
    source, text = note_of(path, "train")
    assert names_of(source) == ["cat", "dog"] and "2 of 4 images" in text
    assert len(open_source(str(path), "train")) == 4
    assert open_source(str(path), "test", labelled=True).classes == ("cat", "dog")


def test_a_folder_named_unlabelled_alone_is_a_folder(tmp_path: Path) -> None:
    make(tmp_path, "unlabelled/cat/1.png", "unlabelled/dog/1.png")
    assert open_source(f"{tmp_path}/unlabelled", labelled=True).classes == ("cat", "dog")
    with pytest.raises(ValueError, match="at least two classes"):
        open_source(str(tmp_path), labelled=True)
