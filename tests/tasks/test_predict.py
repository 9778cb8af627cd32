"""`paddlemae predict`: tables of images, the numbers of `evaluate` and `Model.predict`, and what a stop leaves."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import paddlemae as package
from paddlemae.data.sources import open_source
from paddlemae.runs.exhibit_files import read_exhibit
from paddlemae.tasks.evaluate import evaluate
from paddlemae.tasks.models import parts as parts_module
from paddlemae.tasks.predict import predict
from paddlemae.tasks.predictions.outputs import Outputs, Predicted
from tests.support.embed_files import Killed, stop_after
from tests.support.pictures import write_noise

HAS_PYARROW = bool(importlib.util.find_spec("pyarrow"))
ENDINGS = [".csv", ".json", *([".parquet"] if HAS_PYARROW else [])]
COLUMNS = ["path", "class", "probability", "class_2", "probability_2", "class_3", "probability_3"]


pytestmark = pytest.mark.usefixtures("small_parts")


def predicted(
    run: Path, images: Path | str, out: Path, *, settings: dict[str, Any] | None = None, **outputs
) -> Predicted:
    known: dict[str, Any] = {"batch_size": 2, "threads": 1, "quiet": True}
    return predict(str(run), [str(images)], Outputs(out, **outputs), **{**known, **(settings or {})})


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a table, values of a CSV as text."""
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_table_has_a_row_for_each_image_with_the_numbers_of_the_model(tmp_path, tuned, photos, ending: str) -> None:
    out = tmp_path / f"p{ending}"
    found = predicted(tuned, photos, out)
    rows, source = rows_of(out), open_source(str(photos))
    assert list(rows[0]) == [*COLUMNS, "error"], "names of folders that are no class are no labels"
    assert [row["path"] for row in rows] == [source.describe(i) for i in range(12)]
    expected = package.load(tuned, threads=1).predict(source)
    for row, best in zip(rows, expected.top(3), strict=True):
        assert [row["class"], row["class_2"], row["class_3"]] == [name for name, _ in best]
        probabilities = [float(row[name]) for name in ("probability", "probability_2", "probability_3")]
        np.testing.assert_allclose(probabilities, [probability for _, probability in best], rtol=0, atol=1e-6)
        assert not row["error"]
    assert found.images == 12 and found.classes == dict(Counter(expected.labels).most_common())
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name], "no parts are left"


@pytest.mark.parametrize("top", [1, 2, 7])
def test_so_many_classes_are_listed(tmp_path, tuned, photos, top: int) -> None:
    predicted(tuned, photos, tmp_path / "p.csv", top=top)
    assert list(rows_of(tmp_path / "p.csv")[0]) == [*COLUMNS[: 1 + 2 * min(top, 3)], "error"]


def test_labelled_images_are_counted_as_evaluation_counts_them(tmp_path, tuned, colours) -> None:
    found = predicted(tuned, colours, tmp_path / "p.csv", settings={"split": "test", "batch_size": 5})
    evaluated = evaluate(str(tuned), str(colours), batch_size=5, threads=1)
    assert found.metrics is not None and found.metrics["eval_images"] == evaluated["eval_images"] == 12
    for name in ("top1", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "ece"):
        assert found.metrics[name] == pytest.approx(evaluated[name], abs=1e-6)
    assert found.metrics["primary"] == evaluated["primary"] and found.metrics["per_class"] == evaluated["per_class"]
    confusion = read_exhibit(tuned, "confusion")
    names = confusion["classes"]
    triples = zip(confusion["true"], confusion["predicted"], confusion["count"])
    assert Counter((row["label"], row["class"]) for row in rows_of(tmp_path / "p.csv")) == {
        (names[true], names[guess]): count for true, guess, count in triples
    }


def test_labels_that_the_model_does_not_know_give_no_accuracy(tmp_path, tuned, colours) -> None:
    for number, name in enumerate(("red", "purple")):
        write_noise(tmp_path / "images" / name / "a.png", number)
    with pytest.warns(UserWarning, match="does not know the labels .*purple"):
        found = predicted(tuned, tmp_path / "images", tmp_path / "p.csv")
    assert found.metrics is None
    assert [row["label"] for row in rows_of(tmp_path / "p.csv")] == ["purple", "red"]


@pytest.mark.filterwarnings("default:.*have no label")
def test_images_without_a_label_among_labelled_ones_are_predicted_too(tmp_path, tuned, photos, paddlemae) -> None:
    files = sorted(photos.rglob("*.png"))
    lines = [f"{file},{label}" for file, label in zip(files, ["red", "", "blue", *9 * [""]])]
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *lines]))
    done = paddlemae(
        "predict", tuned, tmp_path / "images.csv", "--out", tmp_path / "p.csv", "--sheet", tmp_path / "s.png"
    )
    assert done.status == 0 and "2 labelled images:" in done.out, done.err
    rows = rows_of(tmp_path / "p.csv")
    assert [row["label"] for row in rows] == ["red", "", "blue", *9 * [""]]
    right = np.mean([rows[i]["class"] == rows[i]["label"] for i in (0, 2)])
    assert f"{right:.2%}" in done.out


def test_a_table_of_predictions_is_a_list_of_labelled_images(tmp_path, tuned, colours) -> None:
    shutil.copytree(colours / "train", tmp_path / "images")
    (tmp_path / "images" / "red" / "0.png").write_bytes(b"no image")
    predicted(tuned, tmp_path / "images", tmp_path / "p.csv")
    named = [row["class"] for row in rows_of(tmp_path / "p.csv") if row["class"]]
    assert len(named) == 23 and len(set(named)) > 1
    with pytest.warns(UserWarning, match="1 of 24 images have no label"):
        source = open_source(f"{tmp_path / 'p.csv'}::label=class", labelled=True)
    assert source.labels is not None and [source.classes[label] for label in source.labels] == named


def test_several_files_and_folders_are_predicted_in_their_order(tmp_path, tuned, photos, paddlemae) -> None:
    files = [photos / "day1" / "1.png", photos / "day0", photos / "day1" / "3.png"]
    done = paddlemae("predict", tuned, *files, "--out", tmp_path / "p.csv", "--threads", 1, "--quiet")
    assert done.status == 0, done.err
    names = [row["path"] for row in rows_of(tmp_path / "p.csv")]
    assert names[0] == str(files[0]) and names[-1] == str(files[2]) and len(names) == 8
    assert done.out.splitlines()[-1] == f"wrote {tmp_path / 'p.csv'}: 8 images"
    done = paddlemae("predict", tuned, files[0], "--out", tmp_path / "one.json", "--quiet")
    assert [row["path"] for row in rows_of(tmp_path / "one.json")] == [str(files[0])]


@pytest.mark.parametrize("ending", ENDINGS)
def test_unreadable_images_have_a_row_with_the_reason(tmp_path, tuned, some_bad, ending: str) -> None:
    found = predicted(tuned, some_bad, tmp_path / f"p{ending}", unsure=0.0)
    assert (found.images, found.unreadable) == (12, 5)
    for number, row in enumerate(rows_of(tmp_path / f"p{ending}")):
        assert row["path"].endswith(f"{number:02}.png")
        is_bad = number in (1, 4, 5, 6, 7)
        assert bool(row["error"]) == is_bad == (not row["class"]) == (row["probability"] in ("", None))
        assert row["unsure"] in (("", None) if is_bad else ("false", False))


def test_without_any_readable_image_nothing_is_written(tmp_path, tuned, paddlemae) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    done = paddlemae("predict", tuned, tmp_path / "images", "--out", tmp_path / "p.csv", "--quiet")
    assert done.status == 2 and "no image of" in done.err.splitlines()[-1] and not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_names_of_any_kind_come_back(tmp_path, tuned, ending: str) -> None:
    names = ['a,"b".png', "c\nd.png", "e\rf.png", "=1+1.png", os.fsdecode(b"g\xe9.png"), " h'.png"]
    for number, name in enumerate(names):
        write_noise(tmp_path / "images" / name, number)
    predicted(tuned, tmp_path / "images", tmp_path / f"p{ending}")
    found = {Path(row["path"]).name for row in rows_of(tmp_path / f"p{ending}")}
    assert found == {name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in names}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_stopped_command_resumes_to_the_same_bytes(
    tmp_path, tuned, some_bad, monkeypatch, done: int, ending: str
) -> None:
    whole, out, computed = tmp_path / f"whole{ending}", tmp_path / f"p{ending}", []
    predicted(tuned, some_bad, whole)
    with monkeypatch.context() as stopped:
        stop_after(stopped, done)
        with pytest.raises(Killed):
            predicted(tuned, some_bad, out)
    assert not out.exists()
    compute = parts_module.embedded

    def counted(*arguments, **settings):
        for batch in compute(*arguments, **settings):
            computed.extend(batch[1].tolist())
            yield batch

    monkeypatch.setattr(parts_module, "embedded", counted)
    predicted(tuned, some_bad, out)
    assert out.read_bytes() == whole.read_bytes()
    assert all(number >= 4 * done for number in computed), "finished parts are not computed again"


def test_changed_images_start_over_with_one_line(tmp_path, tuned, some_bad, monkeypatch, capsys) -> None:
    with monkeypatch.context() as stopped:
        stop_after(stopped, 2)
        with pytest.raises(Killed):
            predicted(tuned, some_bad, tmp_path / "p.csv")
    write_noise(some_bad / "01.png", 1)
    capsys.readouterr()
    assert predicted(tuned, some_bad, tmp_path / "p.csv").unreadable == 4
    assert "made with another state of the image files; starting over" in capsys.readouterr().err


def test_images_are_sorted_by_their_class(tmp_path, tuned, photos, paddlemae) -> None:
    arguments = ["predict", tuned, photos, "--sort-into", tmp_path / "sorted", "--unsure", 0.34, "--quiet"]
    done = paddlemae(*arguments, "--out", tmp_path / "p.csv")
    assert done.status == 0, done.err
    rows = rows_of(tmp_path / "p.csv")
    links = {os.path.realpath(path): path.parent.name for path in (tmp_path / "sorted").rglob("*.png")}
    assert len(links) == 12
    for row in rows:
        is_unsure = float(row["probability"]) < 0.34
        assert row["unsure"] == str(is_unsure).lower()
        assert links[os.path.realpath(row["path"])] == ("unsure" if is_unsure else row["class"])
    done = paddlemae(*arguments, "--out", tmp_path / "again.csv")
    assert "12 there already" in done.out and len(list((tmp_path / "sorted").rglob("*.png"))) == 12


def test_the_sheet_shows_the_least_sure_images(tmp_path, tuned, photos, paddlemae) -> None:
    done = paddlemae(
        "predict", tuned, photos, "--out", tmp_path / "p.csv", "--sheet", tmp_path / "new" / "s.png", "--quiet"
    )
    assert done.status == 0 and "the 12 least sure images" in done.out, done.err
    with Image.open(tmp_path / "new" / "s.png") as sheet:
        assert sheet.size[0] > 1000 and sheet.size[1] > 300


@pytest.mark.parametrize("kind", ["mae", "encoder"])
def test_a_model_without_classes_says_what_it_can_do(tmp_path, pretrained, photos, paddlemae, kind: str) -> None:
    run = pretrained
    if kind == "encoder":
        run = tmp_path / "encoder"
        done = paddlemae("weights", "convert", pretrained, "--to", "timm", "--out", tmp_path / "encoder")
        assert done.status == 0, done.err
    done = paddlemae("predict", run, photos, "--out", tmp_path / "p.csv", "--quiet")
    assert done.status == 2 and "finetune --init" in done.err.splitlines()[-1] and "embed" in done.err
    assert not (tmp_path / "p.csv.parts").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "p.txt"], "expected a file that ends in .csv, .json or .parquet; got p.txt"),
        (["--out", "there.csv"], "there.csv exists already; add --overwrite"),
        (["--out", "p.csv", "--copy"], "--copy needs --sort-into DIR"),
        (["--out", "p.csv", "--sheet", "s.jpg"], "expected --sheet FILE.png; got s.jpg"),
        (["--out", "images/p.csv"], "--out images/p.csv is in the folder of the images"),
        (["--out", "p.csv", "--sort-into", "there.csv"], "--sort-into there.csv is a file; name a folder"),
        (
            ["--out", "p.csv", "--sort-into", "images/sorted"],
            "--sort-into images/sorted is in the folder of the images",
        ),
        (["--out", "p.csv", "--sheet", "images/s.png"], "--sheet images/s.png is in the folder of the images"),
        (["--out", "p.csv", "images/a.png", "--split", "test"], "--split test needs one folder, list"),
        (["--out", "p.csv", "unmade"], "'unmade' does not exist; expected image files and folders of images"),
        (["--out", "p.csv", "there.csv"], "'there.csv' is neither an image file nor a folder"),
    ],
)
def test_mistakes_get_one_line(tmp_path, tuned, paddlemae, monkeypatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_noise(Path("images/a.png"), 0)
    Path("there.csv").write_text("mine")
    done = paddlemae("predict", tuned, "images", *arguments)
    assert done.status == 2 and done.err.count("\n") == 1 and message in done.err
    assert Path("there.csv").read_text() == "mine" and not Path("p.csv").exists()


def test_without_pyarrow_parquet_says_what_to_install(tmp_path, tuned, photos, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'paddlemae\[tables\]', or use a file that ends in .csv"):
        predicted(tuned, photos, tmp_path / "p.parquet")


def test_many_classes_and_images_of_an_array(tmp_path, tuned) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8))
    predicted(tuned, tmp_path / "images.npy", tmp_path / "p.csv", sort_into=tmp_path / "sorted")
    rows = rows_of(tmp_path / "p.csv")
    assert [row["path"] for row in rows] == [f"{tmp_path / 'images.npy'} image {i}" for i in range(5)]
    files = {path.name: path for path in (tmp_path / "sorted").rglob("*.png")}
    assert sorted(files) == [f"images.npy image {i}.png" for i in range(5)]
    with Image.open(files["images.npy image 3.png"]) as image:
        np.testing.assert_array_equal(np.asarray(image), np.load(tmp_path / "images.npy")[3])


def test_a_former_name_says_so(tuned, photos) -> None:
    model = package.load(tuned, threads=1)
    with pytest.warns(FutureWarning, match=r"Model.predict"):
        former = model.classify(photos)
    np.testing.assert_array_equal(former.probabilities, model.predict(photos).probabilities)


@pytest.mark.parametrize("world", [2, 5])
def test_several_processes_write_the_files_of_one(tmp_path, tuned, some_bad, together, world: int) -> None:
    whole, out = tmp_path / "whole.csv", tmp_path / "p.csv"
    found = predicted(tuned, some_bad, whole, sort_into=tmp_path / "of one")
    answers = together(
        world,
        lambda ranks: predicted(tuned, some_bad, out, sort_into=tmp_path / "of all", settings={"ranks": ranks}),
    )
    assert answers == [found] * world
    assert out.read_bytes() == whole.read_bytes()
    of_one, of_all = (sorted(path.name for path in (tmp_path / name).rglob("*")) for name in ("of one", "of all"))
    assert of_one == of_all and len(of_one) > 7


@pytest.mark.slow
def test_processes_are_launched_for_names_that_look_like_options(tmp_path, tuned, run_command) -> None:
    write_noise(tmp_path / "-a.png", 0)
    write_noise(tmp_path / "b.png", 1)
    words = ["predict", "--out", "p.csv", "--procs", 2, "--threads", 1, "--quiet", "--", tuned, "-a.png", "b.png"]
    done = run_command(*words, cwd=tmp_path)
    assert done.status == 0, done.err
    assert [row["path"] for row in rows_of(tmp_path / "p.csv")] == ["-a.png", "b.png"]
