"""`paddlemae predict` with a segmenter: masks, what is written next to them, and what a stop leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import paddlemae as package
from paddlemae.data.decode.images import read_image
from paddlemae.data.sources import open_source
from paddlemae.system.atomic import append_text
from paddlemae.tasks.models.build import load_segmenter
from paddlemae.tasks.models.inference import LOGITS, forward_function
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.models.windows import windowed_logits
from paddlemae.tasks.predict_masks import predict_masks
from paddlemae.tasks.predictions import mask_outputs
from paddlemae.tasks.predictions.join_masks import Segmented
from paddlemae.tasks.predictions.mask_outputs import MaskOutputs
from paddlemae.tasks.predictions.window_choice import WindowChoice
from tests.support.embed_files import Killed
from tests.support.segmenters import CLASSES, PALETTE, write_segmenter

SIZES = [(16, 16), (40, 23), (9, 30)]
NAMES = ["a", "b/c", "b/d"]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> Path:
    return write_segmenter(tmp_path_factory.mktemp("models") / "segmenter")


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    for number, (name, size) in enumerate(zip(NAMES, SIZES)):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
    return folder


def predicted(run: Path, images: Path | str, out: Path, *, settings: Any = None, **outputs: Any) -> Segmented:
    known: dict[str, Any] = {"threads": 1, "quiet": True}
    return predict_masks(str(run), [str(images)], MaskOutputs(out, **outputs), **{**known, **(settings or {})})


def logits_of(run: Path, image: Path, **windows: Any) -> np.ndarray:
    checkpoint = read_checkpoint(run)
    forward = forward_function(load_segmenter(checkpoint), checkpoint.description, LOGITS, threads=1)
    pixels = read_image(image, 3).transpose(2, 0, 1)
    return windowed_logits(forward, pixels, 16, **windows)


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "images.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_masks_have_the_names_of_the_images_and_the_likeliest_classes(tmp_path, segmenter, pictures) -> None:
    out = tmp_path / "out"
    found = predicted(segmenter, pictures, out)
    assert files_in(out) == sorted(
        ["classes.json", "images.csv", "predict.json", *(f"masks/{name}.png" for name in NAMES)]
    )
    totals = np.zeros(3)
    for name, row in zip(NAMES, rows_of(out), strict=True):
        logits = logits_of(segmenter, pictures / f"{name}.png")
        with Image.open(out / "masks" / f"{name}.png") as mask:
            np.testing.assert_array_equal(np.asarray(mask), logits.argmax(axis=0))
            colours = np.asarray(mask.convert("RGB"))
        np.testing.assert_array_equal(colours, np.array(PALETTE)[logits.argmax(axis=0)])
        confidence = np.exp(logits - np.logaddexp.reduce(logits)).max(axis=0).mean()
        assert float(row["confidence"]) == pytest.approx(confidence, rel=1e-4)
        assert row["path"] == str(pictures / f"{name}.png") and row["mask"] == f"masks/{name}.png"
        totals += np.bincount(logits.argmax(axis=0).ravel(), minlength=3)
    assert (totals > 0).sum() >= 2, "else the comparison says little"
    assert found.shares == pytest.approx(dict(zip(CLASSES, totals / totals.sum()))) and found.images == 3
    listed = json.loads((out / "classes.json").read_text())
    assert [(one["name"], one["id"], one["color"]) for one in listed] == list(zip(CLASSES, range(3), PALETTE))


def test_windows_are_as_chosen(tmp_path, segmenter, pictures) -> None:
    windows = WindowChoice(overlap=0.5, blend="mean", flips="both", scales=(0.5, 1.0), batch_size=3)
    predicted(segmenter, pictures, tmp_path / "out", settings={"windows": windows}, probabilities=True)
    logits = logits_of(
        segmenter, pictures / "b/c.png", overlap=0.5, blend="mean", flips="both", scales=(0.5, 1.0), batch_size=3
    )
    expected = np.exp(logits - np.logaddexp.reduce(logits))
    probabilities = np.load(tmp_path / "out" / "probabilities" / "b" / "c.npy")
    assert probabilities.dtype == np.float16
    np.testing.assert_allclose(probabilities, expected, atol=1e-3)


def test_overlays_show_the_image_below_the_colours(tmp_path, segmenter, pictures) -> None:
    out = tmp_path / "out"
    predicted(segmenter, pictures, out, overlays=True)
    for name in NAMES:
        image = read_image(pictures / f"{name}.png", 3).astype(int)
        mask = np.asarray(Image.open(out / "masks" / f"{name}.png"))
        overlay = np.asarray(Image.open(out / "overlays" / f"{name}.png")).astype(int)
        mixed = (image + np.array(PALETTE)[mask]) / 2
        expected = np.where(mask[..., None] == 0, image, mixed)  # black is left out
        np.testing.assert_allclose(overlay, expected, atol=1)


@pytest.mark.parametrize("kind", ["coco", "geojson"])
def test_polygons_cover_the_masks(tmp_path, segmenter, pictures, kind) -> None:
    out = tmp_path / "out"
    found = predicted(segmenter, pictures, out, polygons=kind, polygon_classes=("road", "tree"))
    areas = dict.fromkeys(CLASSES, 0)
    if kind == "coco":
        content = json.loads((out / "polygons.json").read_text())
        names = {one["id"]: one["name"] for one in content["categories"]}
        for one in content["annotations"]:
            areas[names[one["category_id"]]] += one["area"]
        assert [one["file_name"] for one in content["images"]] == [f"{name}.png" for name in NAMES]
        assert {one["image_id"] for one in content["annotations"]} <= {one["id"] for one in content["images"]}
        assert found.polygons == len(content["annotations"])
    else:
        for name in NAMES:
            content = json.loads((out / "polygons" / f"{name}.geojson").read_text())
            for one in content["features"]:
                assert all(ring[0] == ring[-1] for ring in one["geometry"]["coordinates"])
                areas[one["properties"]["class"]] += one["properties"]["pixels"]
    masks = np.concatenate([np.asarray(Image.open(out / "masks" / f"{name}.png")).ravel() for name in NAMES])
    counts = np.bincount(masks, minlength=3).tolist()
    assert areas == {"sky": 0, "road": counts[1], "tree": counts[2]}


def test_unsure_pixels_are_ignored_and_the_folder_is_data_to_train_on(tmp_path, segmenter, pictures) -> None:
    out = tmp_path / "out"
    found = predicted(segmenter, pictures, out, min_confidence=0.7, link_images=True)
    assert 0 < found.ignored < 1
    for name in NAMES:
        logits = logits_of(segmenter, pictures / f"{name}.png")
        unsure = np.exp(logits - np.logaddexp.reduce(logits)).max(axis=0) < 0.7
        mask = np.asarray(Image.open(out / "masks" / f"{name}.png"))
        np.testing.assert_array_equal(mask == 255, unsure)
        assert (out / "images" / f"{name}.png").is_symlink()
    source = open_source(str(out), masks=True)
    assert source.classes == tuple(CLASSES) and len(source) == 3
    assert source.targets is not None
    read = source.targets.read(0)
    mask = np.asarray(Image.open(out / "masks" / "a.png")).astype(np.int16)
    np.testing.assert_array_equal(read, np.where(mask == 255, -1, mask))
    np.testing.assert_array_equal(source.targets.palette, PALETTE)


def test_images_without_files_and_of_one_name_have_masks_too(tmp_path, segmenter, pictures) -> None:
    np.save(tmp_path / "some.npy", np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), np.uint8))
    predicted(segmenter, tmp_path / "some.npy", tmp_path / "arrays", link_images=True)
    assert len(files_in(tmp_path / "arrays" / "masks")) == 2
    assert len(open_source(str(tmp_path / "arrays"), masks=True)) == 2
    Image.open(pictures / "a.png").save(pictures / "a.bmp")
    predicted(segmenter, pictures, tmp_path / "out", link_images=True)
    assert {"masks/a.png", "masks/a-2.png", "images/a-2.png"} <= set(files_in(tmp_path / "out")), (
        "bmp comes first and keeps the name"
    )


def test_unreadable_images_are_listed_and_stop_nothing(tmp_path, segmenter, pictures, capsys) -> None:
    (pictures / "b" / "c.png").write_bytes(b"no image")
    out = tmp_path / "out"
    found = predicted(segmenter, pictures, out, polygons="coco", overlays=True)
    assert found.unreadable == 1 and found.images == 3
    errors = [row["error"] for row in rows_of(out)]
    assert errors[0] == errors[2] == "" and errors[1]
    assert "b/c.png" in capsys.readouterr().err
    assert not (out / "masks" / "b" / "c.png").exists()
    for path in pictures.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="no image of"):
        predicted(segmenter, pictures, tmp_path / "none")


def test_a_stopped_command_is_resumed(tmp_path, segmenter, pictures, monkeypatch) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    outputs = dict(overlays=True, polygons="coco", probabilities=True)
    predicted(segmenter, pictures, whole, **outputs)
    lines = []

    def once(path: Path, text: str) -> None:
        if lines:
            raise Killed
        lines.append(text)
        append_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(mask_outputs, "append_text", once)
        with pytest.raises(Killed):
            predicted(segmenter, pictures, out, **outputs)
    assert not (out / "predict.json").exists()
    before = (out / "masks" / "a.png").stat().st_mtime_ns
    predicted(segmenter, pictures, out, **outputs)
    assert (out / "masks" / "a.png").stat().st_mtime_ns == before
    assert files_in(out) == files_in(whole)
    for name in files_in(out):
        assert name == "predict.json" or (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_finished_folder_is_replaced_only_if_asked(tmp_path, segmenter, pictures) -> None:
    out = tmp_path / "out"
    predicted(segmenter, pictures, out, overlays=True)
    with pytest.raises(ValueError, match="--overwrite"):
        predicted(segmenter, pictures, out)
    (out / "mine.txt").write_text("kept")
    predicted(segmenter, pictures, out, settings={"overwrite": True})
    assert (out / "mine.txt").exists() and not (out / "overlays").exists()


def test_other_peoples_folders_are_left_alone(tmp_path, segmenter, pictures) -> None:
    (tmp_path / "out" / "masks").mkdir(parents=True)
    (tmp_path / "out" / "masks" / "truth.png").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="predict did not write"):
            predicted(segmenter, pictures, tmp_path / "out", settings={"overwrite": overwrite})
    assert (tmp_path / "out" / "masks" / "truth.png").read_bytes() == b"precious"
    with pytest.raises(ValueError, match="in the folder of the images"):
        predicted(segmenter, pictures, pictures / "out")


def test_other_settings_start_over_after_a_stop(tmp_path, segmenter, pictures, monkeypatch, capsys) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(mask_outputs.Record, "remove", lambda self: (_ for _ in ()).throw(Killed))
        patch.setattr("paddlemae.tasks.predictions.join_masks.replace_text", lambda *_: None)
        with pytest.raises(Killed):
            predicted(segmenter, pictures, out, overlays=True)
    predicted(segmenter, pictures, out)
    assert "starting over" in capsys.readouterr().err and not (out / "overlays").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_confidence": 1.5},
        {"polygons": "shapefile"},
        {"polygon_classes": ("road",)},
        {"polygons": "coco", "polygon_classes": ("rode",)},
    ],
    ids=str,
)
def test_wrong_outputs_are_one_line(tmp_path, segmenter, pictures, wrong) -> None:
    with pytest.raises(ValueError) as fault:
        predicted(segmenter, pictures, tmp_path / "out", **wrong)
    assert "\n" not in str(fault.value)
    assert not (tmp_path / "out").exists()


def test_windows_that_patches_do_not_divide_are_refused(tmp_path, segmenter, pictures) -> None:
    with pytest.raises(ValueError, match="patch size, 4 x 4; got 18 x 18"):
        predicted(segmenter, pictures, tmp_path / "out", settings={"windows": WindowChoice(size=18)})


def test_several_ranks_share_the_images(tmp_path, segmenter, pictures, together) -> None:
    alone, out = tmp_path / "alone", tmp_path / "out"
    predicted(segmenter, pictures, alone, polygons="coco")
    found = together(2, lambda ranks: predicted(segmenter, pictures, out, settings={"ranks": ranks}, polygons="coco"))
    assert found[0] == found[1] and found[0].images == 3
    for name in files_in(alone):
        assert name == "predict.json" or (out / name).read_bytes() == (alone / name).read_bytes(), name


def test_python_gives_the_masks_of_the_command(tmp_path, segmenter, pictures) -> None:
    predicted(segmenter, pictures, tmp_path / "out", min_confidence=0.6)
    found = package.load(segmenter, threads=1).segment(str(pictures), min_confidence=0.6, probabilities=True)
    assert found.classes == tuple(CLASSES) and len(found) == 3
    for name, size, mask, confidence, probabilities in zip(
        NAMES, SIZES, found, found.confidence, found.probabilities, strict=True
    ):
        assert mask.shape == size and probabilities.shape == (3, *size)
        np.testing.assert_array_equal(mask, np.asarray(Image.open(tmp_path / "out" / "masks" / f"{name}.png")))
        np.testing.assert_array_equal(confidence, probabilities.max(axis=0))
        np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-5)
    assert found.overlay(1).shape == (*SIZES[1], 3) and found.overlay(1).dtype == np.uint8
    path = found.save(tmp_path / "masks.png")
    assert path.read_bytes()[:4] == found._repr_png_()[:4] == b"\x89PNG"


def test_python_segments_one_array(segmenter) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (21, 33, 3), np.uint8)
    (mask,) = package.load(segmenter, threads=1).segment(pixels)
    assert mask.shape == (21, 33)


def test_other_models_do_not_segment_and_segmenters_do_not_classify(tuned, segmenter, pretrained, pictures) -> None:
    for run in (tuned, pretrained):
        with pytest.raises(ValueError, match="no classes of pixels"):
            package.load(run, threads=1).segment(str(pictures))
    with pytest.raises(ValueError, match="a segmenter"):
        package.load(segmenter, threads=1).predict(str(pictures))


def test_the_command_line_writes_what_is_asked_for(tmp_path, segmenter, pictures, paddlemae) -> None:
    out = tmp_path / "out"
    words = ["--overlays", "--polygons", "coco", "--polygon-classes", "tree, road", "--min-confidence", "0.5"]
    words += [
        "--window",
        "8",
        "--overlap",
        "0.25",
        "--blend",
        "centre",
        "--flips",
        "horizontal",
        "--scale",
        "1",
        "--scale",
        "2",
    ]
    done = paddlemae("predict", segmenter, pictures, "--out", out, *words, "--link-images", "--probabilities")
    assert done.status == 0, done.err
    assert "masks of 3 images" in done.out and "regions" in done.out
    assert {"masks/a.png", "overlays/a.png", "probabilities/a.npy", "polygons.json"} <= set(files_in(out))
    windows = json.loads((out / "predict.json").read_text())["windows"]
    assert windows["size"] == [8, 8] and windows["scales"] == [1, 2] and windows["blend"] == "centre"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("segmenter", ["--out", "masks.csv"]),
        ("segmenter", ["--out", "masks", "--top", "2"]),
        ("segmenter", ["--out", "masks", "--sheet", "a.png"]),
        ("segmenter", ["--out", "masks", "--scale", "0"]),
        ("segmenter", ["--out", "masks", "--flips", "all"]),
        ("segmenter", ["--out", "masks", "--window", "6"]),
        ("tuned", ["--out", "table.csv", "--overlays"]),
        ("tuned", ["--out", "masks"]),
        ("pretrained", ["--out", "masks"]),
    ],
    ids=str,
)
def test_options_of_another_kind_of_model_are_one_line(
    tmp_path, monkeypatch, request, pictures, paddlemae, model, words
) -> None:
    monkeypatch.chdir(tmp_path)
    done = paddlemae("predict", request.getfixturevalue(model), pictures, *words)
    assert done.status == 2 and done.err.count("\n") == 1 and not done.out, done.err
    assert not any(Path(name).exists() for name in ("masks", "masks.csv", "table.csv"))


@pytest.mark.slow
def test_processes_share_the_images(tmp_path, segmenter, pictures, paddlemae) -> None:
    out = tmp_path / "out"
    words = ["--procs", "2", "--threads", "1", "--quiet", "--scale", "1", "--scale", "2"]
    done = paddlemae("predict", segmenter, pictures, "--out", out, *words)
    assert done.status == 0, done.err
    assert len(files_in(out / "masks")) == 3
