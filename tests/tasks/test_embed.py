"""`paddlemae embed` and `search`: what a file holds, that a stopped command resumes to the same file, what is near."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import open_source
from paddlemae.tasks import embed as task
from paddlemae.tasks.models import parts as module
from paddlemae.tasks.models.build import load_encoder
from paddlemae.tasks.models.feature_file import read_file
from paddlemae.tasks.models.features import embed
from paddlemae.tasks.models.inference import FeatureKind
from paddlemae.tasks.models.nearest import standardise
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.search import search
from tests.support.embed_files import Killed, stop_after, written

ENDINGS = [".npz"]
if importlib.util.find_spec("pyarrow"):
    ENDINGS.append(".parquet")


pytestmark = pytest.mark.usefixtures("small_parts")


def in_memory(run: Path, data: Path | str, kind: FeatureKind) -> np.ndarray:
    checkpoint = read_checkpoint(run)
    source = open_source(str(data))
    return embed(load_encoder(checkpoint), checkpoint.description, source, kind=kind, batch_size=2, threads=1)[0]


@pytest.mark.parametrize(
    ("images", "batch_size", "size"),
    [(384, 64, 64), (1000, 16, 16), (4000, 16, 48), (10**6, 64, 1024), (10**6, 2048, 2048)],
)
def test_small_sources_have_parts_for_several_processes(monkeypatch, images: int, batch_size: int, size: int) -> None:
    monkeypatch.undo()  # of `small_parts`
    assert module.part_size(images, batch_size) == size


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", [FeatureKind(), FeatureKind("cls", 1, "none")], ids=str)
def test_a_file_holds_number_path_label_and_features(tmp_path, pretrained, colours, ending: str, kind) -> None:
    found = read_file(written(pretrained, colours / "train", tmp_path / f"f{ending}", kind=kind))
    source = open_source(str(colours / "train"), labelled=True)
    assert found.ids.tolist() == list(range(24))
    assert list(found.paths) == [source.describe(i) for i in range(24)]
    assert list(found.labels) == ["blue"] * 8 + ["green"] * 8 + ["red"] * 8
    np.testing.assert_array_equal(found.vectors, in_memory(pretrained, colours / "train", kind))
    assert found.vectors.dtype == np.float32 and found.about["layer"] == kind.layer
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"f{ending}"], "no parts are left"


def test_columns_are_what_other_readers_expect(tmp_path, pretrained, photos) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    flat = photos / "day0"  # files next to a folder: no labels
    table = pq.read_table(written(pretrained, flat, tmp_path / "f.parquet"))
    assert table.column_names == ["id", "path", "label", "vector"] and len(table) == 6
    assert table["label"].null_count == 6
    assert len(table["vector"][3].as_py()) == 16
    with np.load(written(pretrained, flat, tmp_path / "f.npz")) as arrays:
        assert sorted(arrays) == ["ids", "paddlemae", "paths", "vectors"]
        assert arrays["vectors"].shape == (6, 16)
        np.testing.assert_array_equal(arrays["vectors"][3], np.float32(table["vector"][3].as_py()))


def test_parts_of_a_source_are_no_labels(tmp_path, pretrained, colours) -> None:
    assert read_file(written(pretrained, colours, tmp_path / "all.npz")).labels is None
    found = read_file(written(pretrained, colours, tmp_path / "test.npz", split="test"))
    assert list(found.labels) == ["blue"] * 4 + ["green"] * 4 + ["red"] * 4


def test_batch_norm_is_that_of_the_whole_source(tmp_path, pretrained, photos) -> None:
    found = read_file(written(pretrained, photos, tmp_path / "f.npz", kind=FeatureKind(norm="batch")))
    expected = in_memory(pretrained, photos, FeatureKind(norm="batch"))
    standardise(expected, expected[:0].copy())
    np.testing.assert_allclose(found.vectors, expected, atol=2e-5)
    np.testing.assert_allclose(found.vectors.mean(axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("parts", [0, 1, 2])
def test_a_stopped_command_resumes_to_the_same_file(
    tmp_path, pretrained, photos, monkeypatch, ending: str, parts: int
) -> None:
    whole = written(pretrained, photos, tmp_path / f"whole{ending}").read_bytes()
    out, computed = tmp_path / f"f{ending}", []
    with monkeypatch.context() as stopped:
        stop_after(stopped, parts)
        with pytest.raises(Killed):
            written(pretrained, photos, out)
    assert not out.exists() and len(list((tmp_path / f"f{ending}.parts").glob("*.npz"))) == parts
    compute = module.embedded

    def counted(*arguments, **settings):
        for batch in compute(*arguments, **settings):
            computed.extend(batch[1].tolist())
            yield batch

    monkeypatch.setattr(module, "embedded", counted)
    assert written(pretrained, photos, out).read_bytes() == whole
    assert computed == list(range(4 * parts, 12)), "finished parts are not computed again"


def test_a_command_stopped_while_it_joined_computes_nothing_again(tmp_path, pretrained, photos, monkeypatch) -> None:
    def no(*arguments):
        raise Killed

    with monkeypatch.context() as stopped:
        stopped.setattr(task, "write_file", no)
        with pytest.raises(Killed):
            written(pretrained, photos, tmp_path / "f.npz", batch_size=5)
    monkeypatch.setattr(module.SkippedImages, "__call__", no)
    assert len(read_file(written(pretrained, photos, tmp_path / "f.npz", batch_size=5)).ids) == 12


@pytest.mark.parametrize("parts", [1, 2])
def test_unreadable_images_are_left_out_and_remembered(
    tmp_path, pretrained, some_bad, monkeypatch, parts: int, capsys
) -> None:
    whole = read_file(written(pretrained, some_bad, tmp_path / "whole.npz", max_bad_images=0.5))
    assert whole.ids.tolist() == [0, 2, 3, 8, 9, 10, 11] and whole.about["images"] == 12
    with monkeypatch.context() as stopped:
        stop_after(stopped, parts)
        with pytest.raises(Killed):
            written(pretrained, some_bad, tmp_path / "f.npz", max_bad_images=0.5)
    capsys.readouterr()
    with pytest.raises(DataFault, match="of 12 images .* can't be read"):
        written(pretrained, some_bad, tmp_path / "f.npz", max_bad_images=0)
    assert (tmp_path / "f.npz.parts").exists(), "what was computed is kept"
    written(pretrained, some_bad, tmp_path / "f.npz", max_bad_images=0.5)
    assert "01.png': not an image" in capsys.readouterr().err, "with the reason that the part has"
    assert (tmp_path / "f.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_parts_of_another_command_are_not_mixed_in(tmp_path, pretrained, photos, monkeypatch) -> None:
    with monkeypatch.context() as stopped:
        stop_after(stopped, 1)
        with pytest.raises(Killed):
            written(pretrained, photos, tmp_path / "f.npz")
    with pytest.raises(ValueError, match=r"made with another token, batch_size; use the same, .* --overwrite") as fault:
        written(pretrained, photos, tmp_path / "f.npz", batch_size=4, kind=FeatureKind("cls"))
    assert "\n" not in str(fault.value)
    found = read_file(written(pretrained, photos, tmp_path / "f.npz", kind=FeatureKind("cls"), overwrite=True))
    np.testing.assert_array_equal(found.vectors, in_memory(pretrained, photos, FeatureKind("cls")))


def test_parts_of_another_size_are_not_mixed_in(tmp_path, pretrained, photos, monkeypatch) -> None:
    with monkeypatch.context() as stopped:
        stop_after(stopped, 1)
        with pytest.raises(Killed):
            written(pretrained, photos, tmp_path / "f.npz")
    monkeypatch.setattr(module, "LEAST_PARTS", 6)
    with pytest.raises(ValueError, match=r"made with another part size; use the same, .* --overwrite"):
        written(pretrained, photos, tmp_path / "f.npz")
    found = read_file(written(pretrained, photos, tmp_path / "f.npz", overwrite=True))
    assert found.ids.tolist() == list(range(12))


def test_a_damaged_part_is_named(tmp_path, pretrained, photos, monkeypatch) -> None:
    with monkeypatch.context() as stopped:
        stop_after(stopped, 2)
        with pytest.raises(Killed):
            written(pretrained, photos, tmp_path / "f.npz")
    part = tmp_path / "f.npz.parts" / "00000001.npz"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ValueError, match="00000001.npz is damaged; delete it, and the same command makes it again"):
        written(pretrained, photos, tmp_path / "f.npz")
    part.unlink()
    written(pretrained, photos, tmp_path / "f.npz")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("f.csv", r"a file that ends in .parquet or .npz; got .*f.csv"),
        ("there.npz", r"there.npz exists already; add --overwrite"),
        ("taken.npz", r"taken.npz.parts holds something other than parts of features"),
    ],
)
def test_mistakes_get_one_line(tmp_path, pretrained, photos, paddlemae, out: str, message: str) -> None:
    (tmp_path / "there.npz").write_bytes(b"")
    (tmp_path / "taken.npz.parts").mkdir()
    (tmp_path / "taken.npz.parts" / "mine.txt").write_text("mine")
    done = paddlemae("embed", pretrained, "--data", photos, "--out", tmp_path / out)
    assert done.status == 2 and done.err.count("\n") == 1
    with pytest.raises(ValueError, match=message):
        written(pretrained, photos, tmp_path / out)
    assert (tmp_path / "taken.npz.parts" / "mine.txt").exists()


def test_without_pyarrow_parquet_says_what_to_install(tmp_path, pretrained, photos, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'paddlemae\[tables\]', or use a file that ends in .npz"):
        written(pretrained, photos, tmp_path / "f.parquet")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_query_finds_itself_and_then_its_like(tmp_path, pretrained, colours, paddlemae, ending: str) -> None:
    features = tmp_path / f"f{ending}"
    done = paddlemae("embed", pretrained, "--data", colours / "train", "--out", features, "--quiet")
    assert (done.status, done.out) == (0, f"wrote {features}: 24 images x 16 features\n"), done.err
    query = colours / "train" / "green" / "3.png"
    done = paddlemae("search", features, query, "--run", pretrained, "--k", 3, "--out", tmp_path / "near.png")
    assert done.status == 0, done.err
    name, *lines = done.out.splitlines()
    assert name == "3.png" and len(lines) == 4 and lines[-1] == f"wrote {tmp_path / 'near.png'}"
    assert lines[0].split() == ["1", "1.0000", "green", str(query)]
    cosines = [float(line.split()[1]) for line in lines[:3]]
    assert cosines == sorted(cosines, reverse=True)
    with Image.open(tmp_path / "near.png") as picture:
        assert picture.size[0] > 600, "a query and three neighbours"


def test_neighbours_are_those_of_all_pairs(tmp_path, pretrained, photos) -> None:
    for norm in ("layer", "batch"):
        features = written(pretrained, photos, tmp_path / f"{norm}.npz", kind=FeatureKind(norm=norm))
        vectors = read_file(features).vectors
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        found = search(features, [str(photos)], run=str(pretrained), k=12, limit=12, threads=1)
        for one, row in zip(found, unit @ unit.T, strict=True):
            cosines = [near.similarity for near in one.neighbours]
            np.testing.assert_allclose(cosines, np.sort(row)[::-1], atol=2e-5)
            np.testing.assert_allclose(cosines, row[[near.id for near in one.neighbours]], atol=2e-5)


def test_a_search_refuses_what_does_not_belong_together(tmp_path, pretrained, photos, colours, tiny) -> None:
    from paddlemae.recipe import load_recipe
    from paddlemae.tasks.pretrain import pretrain
    from paddlemae.tasks.training.run_start import Start

    features = written(pretrained, photos, tmp_path / "f.npz")
    query = str(next(photos.rglob("*.png")))
    chosen = [*tiny, f"data={photos}", "seed=1", "steps=1"]
    other = pretrain(load_recipe("pretrain", None, chosen), Start(tmp_path / "other", quiet=True))
    (tmp_path / "broken.npz").write_bytes(features.read_bytes()[:500])
    np.savez(tmp_path / "strange.npz", ids=np.arange(3))
    np.savez(tmp_path / "bare.npz", paddlemae='{"format": 1}')
    np.save(tmp_path / "array.npy", np.arange(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    damaged = bytearray(features.read_bytes())
    damaged[1200:1600] = bytes(400)
    (tmp_path / "damaged.npz").write_bytes(damaged)
    for wrong, settings, message in [
        (features, dict(run=str(other)), "computed with other weights than those of .*other"),
        (features, dict(k=13), r"--k must be in 1..12, the images of .*f.npz; got 13"),
        (features, dict(out=tmp_path / "a.txt"), "must be a picture's name"),
        (features, dict(out=tmp_path / "a.png", data=str(colours)), "has 36 images, and had 12"),
        (features, dict(out=tmp_path / "a.png", data="unmade"), "name the images of .*f.npz with --data"),
        (tmp_path / "none.npz", {}, "none.npz does not exist"),
        (tmp_path / "broken.npz", {}, "broken.npz is damaged, or not a feature file"),
        *(
            (tmp_path / f"{name}.npz", {}, f"{name}.npz is damaged, or not a feature file")
            for name in ("strange", "bare", "array", "damaged")
        ),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=message) as fault:
            search(wrong, [query], **{"run": str(pretrained), "threads": 1, **settings})
        assert "\n" not in str(fault.value)


def test_what_a_file_says_of_itself_is_plain_json(tmp_path, pretrained, photos) -> None:
    with np.load(written(pretrained, photos, tmp_path / "f.npz"), allow_pickle=False) as arrays:
        about = json.loads(str(arrays["paddlemae"]))
    assert about["images"] == 12 and about["data"] == str(photos) and about["norm"] == "layer"
    assert str(pretrained) in about["model"]
