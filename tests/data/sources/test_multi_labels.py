"""Images of several classes: from cells such as `a|b` or columns of 0 and 1, and refused where one class is needed."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from paddlemae.data.batches import eval_batches
from paddlemae.data.sources import (
    BadLabel,
    MultiLabelTargets,
    Source,
    SourceNote,
    balanced_subset,
    match_classes,
    open_source,
    split_off,
    subset,
    with_classes,
)
from paddlemae.data.views.augment import View
from tests.support import source_writers as kinds
from tests.support.source_writers import with_tables

PNG = kinds.png(np.zeros((2, 3, 3), np.uint8))


def write(root: Path, text: str, name: str = "a.csv") -> str:
    for number in range(6):
        (root / f"{number}.png").write_bytes(PNG)
    (root / name).write_text(text)
    return str(root / name)


def opened(spec: str, split: str | None = None) -> tuple[Source, MultiLabelTargets]:
    source = open_source(spec, split, labelled=True, multi_label=True)
    assert isinstance(source.targets, MultiLabelTargets)
    return source, source.targets


SETS = "path,labels,split\n0.png,b|a,train\n1.png,a,train\n2.png, c | b ,train\n3.png,c,test\n"
FLAGS = "path,split,b,a,c\n0.png,train,1,1,0\n1.png,train,0,1,\n2.png,train,1.0,,TRUE\n3.png,test,0,false,1\n"


@pytest.mark.parametrize(("text", "option"), [(SETS, ""), (FLAGS, "::labels=a,b,c")])
def test_both_forms_give_the_same_targets(tmp_path: Path, text: str, option: str) -> None:
    spec = write(tmp_path, text) + option
    train, targets = opened(spec, "train")
    assert targets.classes == ("a", "b", "c") and train.labels is None
    assert targets.labels.astype(int).tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 1]]
    assert targets.counts().tolist() == [2, 2, 1] and targets.names(2) == ("b", "c")
    assert targets.batch([2, 0]).tolist() == [[0, 1, 1], [1, 1, 0]]
    _, held_out = opened(spec, "test")
    assert held_out.classes == targets.classes and held_out.labels.tolist() == [[False, False, True]]
    assert len(open_source(spec, "train")) == 3


@with_tables
@pytest.mark.parametrize("form", ["sets", "flags"])
def test_tables_have_both_forms(tmp_path: Path, form: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"image": [PNG] * 3}
    if form == "sets":
        columns["labels"] = ["b|a", "a", None]
    else:
        columns |= {"b": [1, 0, 0], "a": [True, True, None]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SourceNote)
        _, targets = opened(f"{tmp_path}/a.parquet" + ("::labels=a,b" if form == "flags" else ""))
    assert targets.classes == ("a", "b")
    assert targets.labels.astype(int).tolist() == [[1, 1], [1, 0], [0, 0]][: 2 if form == "sets" else 3]


def test_an_empty_cell_is_a_missing_label_among_sets_and_no_class_among_flags(tmp_path: Path) -> None:
    with pytest.warns(SourceNote, match="1 of 3 images have no label: used for pretraining only"):
        source, targets = opened(write(tmp_path, "path,labels\n0.png,a|b\n1.png,\n2.png,a\n"))
    assert [source.describe(i)[-5:] for i in range(2)] == ["0.png", "2.png"] and targets.labels.shape == (2, 2)
    _, flags = opened(write(tmp_path, "path,a,b\n0.png,1,\n1.png,,\n") + "::labels=a,b")
    assert flags.labels.tolist() == [[True, False], [False, False]]


def test_a_separator_means_sets_in_the_column_labels_only(tmp_path: Path) -> None:
    source = open_source(write(tmp_path, "path,label\n0.png,a|b\n1.png,a\n"), labelled=True)
    assert source.classes == ("a", "a|b")
    source = open_source(write(tmp_path, "path,labels\n0.png,b\n1.png,a\n"), labelled=True)
    assert source.classes == ("a", "b") and source.labels is not None
    _, targets = opened(write(tmp_path, "path,tags\n0.png,b\n1.png,a\n") + "::labels=tags")
    assert targets.labels.tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(
    ("text", "option", "message"),
    [
        ("path,labels\n0.png,a||b\n1.png,a\n", "", "row 2: no label"),
        ("path,labels\n0.png,a|b\n1.png,nan|a\n", "", "row 3: the label 'nan'"),
        ("path,a,b\n0.png,1,0\n1.png,2,0\n", "::labels=a,b", "row 3: expected 0 or 1 in column 'a', got '2'"),
        ("path,a,b\n0.png,1,-1\n", "::labels=a,b", "row 2: expected 0 or 1 in column 'b', got '-1'"),
    ],
)
def test_bad_labels_name_their_row(tmp_path: Path, text: str, option: str, message: str) -> None:
    with pytest.raises(BadLabel, match=message):
        opened(write(tmp_path, text) + option)


def test_other_mistakes_are_one_line(tmp_path: Path) -> None:
    spec = write(tmp_path, SETS)
    with pytest.raises(ValueError, match="several classes .* needs one class per image"):
        open_source(spec, "train", labelled=True)
    with pytest.raises(ValueError, match="no column 'x'"):
        opened(f"{spec}::labels=labels,x")
    train, _ = opened(spec, "train")
    with pytest.raises(ValueError, match="needs one class per image"):
        balanced_subset(train, 2, seed=0)
    write(tmp_path, SETS.replace("3.png,c", "3.png,d"))
    with pytest.raises(ValueError, match="no training image has: 'd'"):
        opened(spec, "test")
    with pytest.raises(ValueError, match="at least two classes"):
        opened(write(tmp_path, "path,a\n0.png,1\n1.png,0\n") + "::labels=a,a")


def test_subsets_and_other_orders_of_the_classes(tmp_path: Path) -> None:
    train, targets = opened(write(tmp_path, SETS), "train")
    some = subset(train, [2, 0]).targets
    assert isinstance(some, MultiLabelTargets) and some.labels.astype(int).tolist() == [[0, 1, 1], [1, 1, 0]]
    turned = with_classes(train, ("c", "d", "b", "a")).targets
    assert isinstance(turned, MultiLabelTargets)
    assert turned.labels.astype(int).tolist() == [[0, 0, 1, 1], [0, 0, 0, 1], [1, 0, 1, 0]]
    with pytest.warns(SourceNote, match="2 of 3 classes have no held-out image"):
        match_classes(train, opened(str(tmp_path / "a.csv"), "test")[0])
    batch = next(eval_batches(train, View((2, 2), 3), batch_size=8))
    assert batch.targets is not None and np.array_equal(batch.targets, targets.labels.astype(np.float32))


@pytest.mark.parametrize("with_groups", [False, True])
def test_a_part_that_is_held_out_has_its_share_of_each_class(tmp_path: Path, with_groups: bool) -> None:
    rng = np.random.default_rng(0)
    has = rng.random((200, 3)) < (0.5, 0.2, 0.1)
    rows = [f"0.png,{n // 2 if with_groups else n},{','.join(map(str, row.astype(int)))}" for n, row in enumerate(has)]
    source, _ = opened(write(tmp_path, "\n".join(["path,group,a,b,c", *rows])) + "::labels=a,b,c")
    source = source if with_groups else Source(source.name, source.reader, source.targets)
    rest, held_out = split_off(source, 0.2, seed=1)
    assert len(rest) + len(held_out) == 200 and abs(len(held_out) - 40) <= 3
    assert isinstance(held_out.targets, MultiLabelTargets)
    assert np.abs(held_out.targets.counts() - 0.2 * has.sum(axis=0)).max() <= 3
    if with_groups:
        assert not set(rest.groups.tolist()) & set(held_out.groups.tolist())
