"""PaddleMAE from Python: images in every form, features that don't change, pictures, trainings."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import paddlemae
from paddlemae.data.sources import as_source
from paddlemae.data.sources.source import Source
from paddlemae.recipe import parse_overrides
from paddlemae.runs.runlog import read_metrics
from paddlemae.tasks.evaluate import evaluate


@pytest.fixture(scope="module")
def model(pretrained):
    return paddlemae.load(pretrained, device="cpu", threads=1)


@pytest.fixture
def files(photos) -> list[Path]:
    return sorted(photos.rglob("*.png"))


def test_images_have_the_same_features_in_every_form(model, files, photos) -> None:
    features = model.encode([str(file) for file in files])
    assert features.shape == (12, 16) and features.dtype == np.float32
    pictures = [Image.open(file) for file in files]
    arrays = [np.asarray(picture) for picture in pictures]
    mixed = [files[0], pictures[1], *arrays[2:]]
    first = [np.moveaxis(array, -1, 0) for array in arrays]
    for same in (files, pictures, arrays, mixed, first, np.stack(arrays), tuple(pictures)):
        np.testing.assert_array_equal(model.encode(same), features)
    assert len(np.unique(features, axis=0)) == 12
    source = paddlemae.open_source(str(photos))
    order = [files.index(Path(source.describe(i))) for i in range(12)]
    for whole in (source, str(photos), photos):
        np.testing.assert_array_equal(model.encode(whole), features[order])


def test_what_is_kept_of_an_image_is_its_file_or_its_values(files) -> None:
    picture = Image.open(files[0])
    source = as_source([files[0], picture, np.asarray(picture)])
    assert source.stored(0) == files[0].read_bytes()
    for i in (1, 2):
        np.testing.assert_array_equal(source.stored(i), np.asarray(picture))
    assert len({source.stamp(i) for i in range(3)}) == 3


def test_one_image_is_one_row(model, files) -> None:
    picture = Image.open(files[0])
    for one in (files[0], str(files[0]), picture, np.asarray(picture)):
        assert model.encode(one).shape == (1, 16)


def test_other_features_are_other_numbers(model, files) -> None:
    default = model.encode(files)
    for settings in (dict(token="cls"), dict(norm="none")):
        assert np.abs(model.encode(files, **settings) - default).max() > 1e-3
    np.testing.assert_array_equal(model.encode(files, layer=1), default)


def test_arrays_in_a_file_are_images_too(model, files, tmp_path) -> None:
    arrays = np.stack([np.asarray(Image.open(file)) for file in files])
    np.save(tmp_path / "one.npy", arrays[0])
    np.save(tmp_path / "many.npy", arrays)
    np.testing.assert_array_equal(model.encode(tmp_path / "one.npy"), model.encode(files[0]))
    np.testing.assert_array_equal(model.encode(tmp_path / "many.npy"), model.encode(files))


def test_a_picture_of_pillow_is_read_as_its_file_is(tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
    pictures = {"a.png": Image.fromarray(pixels), "b.png": Image.fromarray(pixels[..., :3]).convert("P")}
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., :3]).save(tmp_path / "c.png", exif=exif)
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    for name in (*pictures, "c.png"):
        with Image.open(tmp_path / name) as opened:
            for channels in (1, 3):
                sources: list[Source] = [as_source(opened), as_source(tmp_path / name)]
                in_memory, in_file = (source.read(0, channels) for source in sources)
                np.testing.assert_array_equal(in_memory, in_file)


def test_wrong_images_are_one_line(model) -> None:
    for images, message in [
        (3, "expected a path, a picture of Pillow, .*; got int"),
        ([], "expected a path, .*; got none in a list"),
        (["a.png", 3.5], "expected a path, .*; got float in a list"),
        (["unmade.png"], "cannot read image 'unmade.png': No such file"),
        ("unmade", "'unmade' does not exist"),
        (np.zeros((8, 8, 3), np.float32), "cannot read image 'image 0': floating-point pixels"),
        (np.zeros((8, 8, 5), np.uint8), "cannot read image 'image 0': 5 channels, expected 3"),
        ([np.zeros((8, 8), np.uint8), np.zeros(8, np.uint8)], "cannot read image 'image 1': an array of shape"),
    ]:
        for use in (model.encode, model.reconstruct):
            with pytest.raises((ValueError, FileNotFoundError), match=message) as fault:
                use(images)
            assert "\n" not in str(fault.value)


def test_a_model_says_what_it_is_and_what_it_cannot(model, tuned, files) -> None:
    classifier = paddlemae.load(tuned, threads=1)
    assert repr(classifier).startswith("<a classifier of 1 blocks x 16, images of 8 x 8 x 3, 3 classes, from ")
    assert (model.kind, model.image_size, model.channels, model.classes) == ("mae", (8, 8), 3, ())
    with pytest.raises(ValueError, match="holds a masked autoencoder, which has no classes"):
        model.predict(files)
    with pytest.raises(ValueError, match="holds a classifier, which has no decoder"):
        classifier.reconstruct(files)
    with pytest.raises(ValueError, match="norm 'batch' makes features depend"):
        model.encode(files, norm="batch")
    with pytest.raises(FileNotFoundError, match="unmade does not exist"):
        paddlemae.load("unmade")


def test_a_classifier_s_labels_are_those_that_evaluation_counts(tuned, colours) -> None:
    classifier = paddlemae.load(tuned, threads=1)
    source = paddlemae.open_source(str(colours), "test", labelled=True)
    found = classifier.predict(source)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    right = [found.labels[i] == source.classes[source.labels[i]] for i in range(len(source))]
    assert np.mean(right) == pytest.approx(evaluate(str(tuned), str(colours), threads=1)["top1"])
    for best, label, row in zip(found.top(2), found.labels, found.probabilities):
        assert best[0] == (label, row.max()) and len(best) == 2 and best[0][1] >= best[1][1]


def test_reconstructions_are_arrays_and_a_figure(model, files, tmp_path) -> None:
    pictures = model.reconstruct(files, mask_ratio=0.5, seed=3)
    for stage in (pictures.original, pictures.masked, pictures.prediction, pictures.completed, pictures.plain):
        assert stage.shape == (12, 8, 8, 3) and stage.dtype == np.uint8
    assert pictures.removed.shape == (12, 2, 2) and (pictures.removed.sum(axis=(1, 2)) == 2).all()
    assert "2 of 4 patches removed" in pictures.caption
    hidden = np.kron(pictures.removed, np.ones((4, 4), bool))
    assert np.abs(pictures.completed[~hidden].astype(int) - pictures.original[~hidden]).max() <= 1
    np.testing.assert_array_equal(pictures.completed[hidden], pictures.prediction[hidden])
    with Image.open(io.BytesIO(pictures._repr_png_())) as figure:
        assert figure.format == "PNG"
    assert pictures.save(tmp_path / "new" / "a.png").is_file()


def test_a_reconstruction_repeats_and_follows_its_seed(model, files, monkeypatch) -> None:
    pictures = model.reconstruct(files, seed=1)
    monkeypatch.setattr("paddlemae.api.models.AT_ONCE", 5)
    again = model.reconstruct(files, seed=1)
    np.testing.assert_array_equal(again.removed, pictures.removed)
    assert np.abs(again.prediction.astype(int) - pictures.prediction).max() <= 1
    assert (model.reconstruct(files, seed=2).removed != pictures.removed).any()


def test_the_mask_is_given_as_words_a_file_or_a_map(model, files, tmp_path) -> None:
    left = np.array([[1, 0], [1, 0]])
    np.savetxt(tmp_path / "m.txt", left, fmt="%d")
    for mask in (left, left.astype(bool), np.stack([left] * 12), tmp_path / "m.txt", "boxes:0,0,4,8"):
        assert (model.reconstruct(files, mask=mask).removed == left).all()
    assert not model.reconstruct(files, mask="none").removed.any()
    with pytest.raises(ValueError, match="the map is of 3 images, and there are 12"):
        model.reconstruct(files, mask=np.stack([left] * 3))
    with pytest.raises(ValueError, match="mask must be random"):
        model.reconstruct(files, mask="holes")


def test_pretraining_is_the_command_s(tmp_path, photos, pretrained, tiny) -> None:
    settings = dict(pair.split("=") for pair in tiny) | {"model.depth": 1, "augment.crop_scale": [0.2, 1.0]}
    run = paddlemae.pretrain(data=photos, out=tmp_path / "run", quiet=True, **settings)
    weights = "checkpoints/step_00000003/model.safetensors"
    assert (run / weights).read_bytes() == (pretrained / weights).read_bytes()
    with pytest.raises(ValueError, match="unknown.*stepz"):
        paddlemae.pretrain("digits", out=tmp_path / "other", stepz=3)
    assert not (tmp_path / "other").exists()


def test_notebooks_complete_the_names_that_there_are() -> None:
    assert {"load", "pretrain", "finetune", "reconstruct", "__version__"} <= set(dir(paddlemae))


@pytest.mark.slow
def test_several_processes_train_as_one(tmp_path, tiny, encoder, colours, capfd) -> None:
    settings = {**parse_overrides([*tiny, "steps=2", "batch_size=4"]), "threads": 1}
    out = paddlemae.pretrain(data=colours, out=tmp_path / "run", procs=2, quiet=True, **settings)
    assert len(list(read_metrics(out))) > 0 and paddlemae.load(out).kind == "mae"
    tuning = {**parse_overrides(encoder), "steps": 2, "batch_size": 4, "threads": 1}
    result = paddlemae.finetune(init="scratch", data=colours, out=tmp_path / "tuned", procs=2, quiet=True, **tuning)
    assert result == json.loads((tmp_path / "tuned" / "result.json").read_text())
    with pytest.raises(ValueError, match="3 processes can't share a batch_size of 4 evenly"):
        paddlemae.pretrain(data=colours, out=tmp_path / "other", procs=3, **settings)
    with pytest.raises(RuntimeError, match="the 2 processes of this training ended with status 2"):
        paddlemae.pretrain(data=tmp_path / "nowhere", out=tmp_path / "other", procs=2, **settings)
    assert "nowhere" in capfd.readouterr().err and not (tmp_path / "other").exists()
