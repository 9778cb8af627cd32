"""Exported models: what they compute in their engines, what is written of them, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle as paddle_engine
import pytest
from PIL import Image

from paddlemae import __version__
from paddlemae.data.views.augment import View, eval_view
from paddlemae.export import check, graph, write
from paddlemae.export.check import LIMIT, largest_difference
from paddlemae.export.interface import interface_of
from paddlemae.export.paddle_program import FILES, load_program, save_program
from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.segmenter import Segmenter
from paddlemae.tasks.models.build import describe
from paddlemae.tasks.models.preprocess import to_input
from paddlemae.tasks.models.windows import windowed_logits
from paddlemae.weights.model_folder import write_model
from paddlemae.weights.transfer import to_official
from tests.support.paths import EXAMPLES

ENCODER = dict(image_size=[8, 12], patch_size=[4, 3], embed_dim=16, depth=2, num_heads=2)
DECODER = dict(decoder_embed_dim=8, decoder_depth=2, decoder_num_heads=2)
MEAN, STD = [0.3, 0.5, 0.4], [0.2, 0.25, 0.3]


def model_of(kind: type, channels: int = 1, **shape):
    """A model whose every weight matters: those that start at zero or one are moved."""
    paddle_engine.seed(0)
    model = kind(**{**ENCODER, "channels": channels, **shape})
    for parameter in model.parameters():
        parameter.set_value(parameter + 0.3 * paddle_engine.randn(parameter.shape))
    model.eval()
    return model


def classifier(**shape):
    return model_of(VisionTransformer, num_classes=5, **shape)


def autoencoder(**shape):
    return model_of(MaskedAutoencoder, **{**DECODER, **shape})


def segmenter(head: str, **shape):
    shape = dict(num_classes=5, head=head, patch_size=[4, 4], **shape)
    model = model_of(Segmenter, **shape)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):  # of batch norm, which have values of a training
            buffer.set_value(paddle_engine.rand(buffer.shape) + 0.5)
    return model


def description_of(model):
    channels = model.encoder.channels
    named = isinstance(model, VisionTransformer | Segmenter)
    classes = [f"class {number}" for number in range(5)] if named else []
    return describe(model, (MEAN[:channels], STD[:channels]), eval_crop_ratio=0.8, classes=classes)


def saved(model, folder: Path) -> Path:
    """A checkpoint that stands alone."""
    folder.mkdir()
    write_model(folder, to_official(model), description_of(model))
    return folder


def images_of(model, count: int = 5) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, model.encoder.channels, 8, 12), np.uint8)


CASES = {
    "classifier, fc_norm": ("classifier", None, lambda: classifier()),
    "classifier, mean and deviation": ("classifier", None, lambda: classifier(pool="mean+std")),
    "encoder, half of mean and deviation": ("encoder", "mean", lambda: classifier(pool="mean+std")),
    "classifier, norm, 3 channels": ("classifier", None, lambda: classifier(pool="cls", channels=3)),
    "classifier without cls token": ("classifier", None, lambda: classifier(cls_token=False)),
    "mean of a classifier with fc_norm": ("encoder", "mean", lambda: classifier()),
    "cls of a classifier with fc_norm": ("encoder", "cls", lambda: classifier()),
    "mean of an autoencoder": ("encoder", "mean", lambda: autoencoder()),
    "cls of an autoencoder, learned positions": ("encoder", "cls", lambda: autoencoder(positions="learned")),
    "cls of an encoder without blocks": ("encoder", "cls", lambda: classifier(depth=0)),
    "no cls token": ("encoder", "mean", lambda: autoencoder(cls_token=False)),
    "raw pixels": ("reconstructor", None, lambda: autoencoder()),
    "normalised pixels, 3 channels": ("reconstructor", None, lambda: autoencoder(norm_pix_loss=True, channels=3)),
    "a floor of deviations": ("reconstructor", None, lambda: autoencoder(norm_pix_loss=True, norm_pix_floor=0.5)),
    "reconstructor without cls token": ("reconstructor", None, lambda: autoencoder(cls_token=False)),
    "cross decoder": ("reconstructor", None, lambda: autoencoder(decoder="cross", norm_pix_loss=True)),
    "linear segmenter": ("segmenter", None, lambda: segmenter("linear")),
    "linear segmenter without cls token, relative positions": (
        "segmenter",
        None,
        lambda: segmenter("linear", cls_token=False, relative_positions=True, channels=3),
    ),
    "encoder of a segmenter": ("encoder", "mean", lambda: segmenter("linear")),
    "conv segmenter": ("segmenter", None, lambda: segmenter("conv", positions="learned")),
    "upernet segmenter, relative positions": (
        "segmenter",
        None,
        lambda: segmenter("upernet", depth=4, relative_positions=True),
    ),
    "cross decoder that sees the last map": (
        "reconstructor",
        None,
        lambda: autoencoder(decoder="cross", inter_block_attention=False, cls_token=False),
    ),
}


def engine(to: str, model, interface, folder: Path) -> check.Run:
    mean, std = MEAN[: model.encoder.channels], STD[: model.encoder.channels]
    if to != "onnx":
        save_program(model, interface, mean, std, folder)
        return load_program(folder, threads=1, onednn=to == "oneDNN")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from paddlemae.export.onnx_graph import onnx_model

    onnx.save_model(onnx_model(model, interface, mean, std), str(folder / "m.onnx"))
    onnx.checker.check_model(str(folder / "m.onnx"), full_check=True)
    return check.onnx_runtime(folder / "m.onnx")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("to", ["onnx", "paddle", "oneDNN"])  # the last is Paddle's default
def test_engines_compute_what_the_model_does_for_any_batch(to: str, name: str, tmp_path: Path) -> None:
    what, token, build = CASES[name]
    if to == "oneDNN" and what == "segmenter":
        pytest.skip("Paddle's engine with oneDNN can't load graphs for images of any size (docs/export.md)")
    model = build()
    interface = interface_of(model, what, token)
    run = engine(to, model, interface, tmp_path)
    assert largest_difference(run, model, description_of(model), interface, images_of(model)) < 1e-5


def test_what_a_program_adds_and_multiplies(tmp_path: Path) -> None:
    model = classifier(pool="cls")
    engine("paddle", model, interface_of(model, "classifier"), tmp_path)
    operations = json.loads((tmp_path / FILES[0]).read_text())["program"]["regions"][0]["blocks"][0]["ops"]
    counts = Counter(one["#"].rpartition(".")[2] for one in operations)
    # patches, head and 6 of each block are products with a bias; the last block has none of keys and values, and one
    # sum for its values' bias; each block has two residual sums, pixels and positions one
    assert counts["fc"] == 2 + 6 * 2 - 2
    assert counts["add"] == 2 + 2 * 2 + 1


def test_a_difference_is_seen_whatever_output_and_batch_it_is_in() -> None:
    model = autoencoder()
    interface, description, images = interface_of(model, "reconstructor"), description_of(model), images_of(model)
    _, wanted = check._inputs_and_outputs(model, description, interface, images)
    calls = []

    def spoilt(output: int, call: int, by: float):
        def run(*arrays):
            calls.append(len(arrays[0]))
            found = [one[: len(arrays[0])].copy() for one in wanted]
            if len(calls) - 1 == call:
                found[output].flat[-1] += by
            return found

        calls.clear()
        return largest_difference(run, model, description, interface, images)

    assert spoilt(0, -1, 1) == 0 and calls == [5, 1, 3, 1, 5]
    assert all(spoilt(output, call, 0.01) > LIMIT for output in (0, 1) for call in range(5))
    assert np.isnan(spoilt(1, 4, float("nan")))


def test_a_difference_at_another_size_is_seen() -> None:
    """A graph that is right for the model's own size alone is not right."""
    model = segmenter("linear")
    interface, description, images = interface_of(model, "segmenter"), description_of(model), images_of(model)
    shapes = []

    def spoilt(height: int, width: int):
        def run(array: np.ndarray):
            shapes.append(array.shape)
            (found,) = check._inputs_and_outputs(model, description, interface, array)[1]
            return [found + 0.01 * (array.shape[2:] == (height, width))]

        return largest_difference(run, model, description, interface, images)

    assert spoilt(0, 0) < 1e-6
    assert {shape[2:] for shape in shapes} == {(8, 12), (12, 12), (12, 24)}
    assert all(spoilt(*size) > LIMIT for size in [(8, 12), (12, 12), (12, 24)])


def test_a_segmenters_file_states_its_classes_and_colours(tmp_path: Path) -> None:
    model = segmenter("linear")
    colours = [[number, 0, 255 - number] for number in range(5)]
    (tmp_path / "model").mkdir()
    write_model(tmp_path / "model", to_official(model), replace(description_of(model), palette=colours))
    done = write.export(tmp_path / "model", "paddle", tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert done.what == facts["what"] == "segmenter" and facts["palette"] == colours
    assert facts["labels"] == description_of(model).classes and facts["image_size"] == [8, 12]
    assert facts["inputs"][0]["shape"] == ["batch", 1, "height", "width"]
    assert facts["outputs"][0]["shape"] == ["batch", 5, "height", "width"]


@pytest.mark.parametrize(
    ("build", "what", "message"),
    [
        (lambda: segmenter("upernet", depth=4), "encoder", "no norm after its last block; export --what segmenter"),
        (
            lambda: segmenter("linear", relative_positions=True),
            "encoder",
            "relative positions; export --what segmenter",
        ),
        (lambda: segmenter("linear"), "reconstructor", "a segmenter has no decoder"),
        (lambda: classifier(), "segmenter", "no classes of pixels; export a run of segment"),
    ],
)
def test_parts_that_a_segmenter_does_not_have_are_refused(build, what: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interface_of(build(), what)


@pytest.mark.parametrize("to", ["onnx", "paddle"])
def test_any_mask_will_do_but_one_that_keeps_different_numbers(to: str, tmp_path: Path) -> None:
    model = autoencoder()
    run = engine(to, model, interface_of(model, "reconstructor"), tmp_path)
    images = images_of(model, 2)
    nothing = np.zeros((2, 2, 4), np.uint8)
    completed, _ = run(images, nothing)
    np.testing.assert_allclose(completed, images / 255, atol=1e-6)
    uneven = nothing.copy()
    uneven[0, 0, :2] = 1  # 6 and 8 are kept, which two images could share
    assert all(np.isnan(output).all() for output in run(images, uneven)[1:])


@pytest.fixture
def classifier_run(tmp_path: Path) -> Path:
    return saved(classifier(channels=3), tmp_path / "tuned")


def test_the_command_writes_an_onnx_file_that_says_what_it_is(paddlemae, classifier_run, tmp_path, monkeypatch) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "new" / "tuned.onnx"
    done = paddlemae("export", classifier_run, "--to", "onnx", "--out", out)
    assert done.status == 0, done.err
    assert "classifier: differs from the model by" in done.out and "random pixels" in done.out
    assert [path.name for path in out.parent.iterdir()] == ["tuned.onnx"]
    session = onnxruntime.InferenceSession(str(out))
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert facts["labels"] == [f"class {number}" for number in range(5)]
    assert (facts["mean"], facts["std"], facts["image_size"], facts["channels"]) == (MEAN, STD, [8, 12], 3)
    assert facts["what"] == "classifier" and facts["made_by"] == f"PaddleMAE {__version__}"
    assert facts["inputs"][0]["shape"] == session.get_inputs()[0].shape == ["batch", 3, 8, 12]
    assert facts["outputs"][0]["name"] == session.get_outputs()[0].name == "logits"

    before = out.read_bytes()
    again = paddlemae("export", classifier_run, "--to", "onnx", "--out", out)
    assert again.status == 2 and again.err.count("\n") == 1 and "--overwrite" in again.err
    done = paddlemae("export", classifier_run, "--to", "onnx", "--out", out, "--what", "encoder", "--overwrite")
    assert done.status == 0 and out.read_bytes() != before

    monkeypatch.setattr(write, "MOST_BYTES", 1000)  # as if it had ViT-Huge's weights
    done = paddlemae("export", classifier_run, "--to", "onnx", "--out", tmp_path / "large.onnx")
    assert done.status == 0 and (tmp_path / "large.onnx.data").stat().st_size > 1000


def test_a_program_is_written_with_its_metadata(paddlemae, pretrained, tmp_path) -> None:
    out = tmp_path / "exported"
    with pytest.warns(UserWarning, match="--token has no effect on a reconstructor"):
        done = write.export(pretrained, "paddle", out, what="reconstructor", token="cls")
    assert done.images.startswith("8 images of") and "photos" in done.images  # those that the run was trained on
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "metadata.json"])
    facts = json.loads((out / "metadata.json").read_text())
    assert (facts["target"], facts["patch_size"]) == ("normalised", [4, 4])
    assert [one["name"] for one in facts["inputs"]] == ["images", "mask"]
    assert facts["inputs"][1]["shape"] == ["batch", 2, 2]
    done = paddlemae("export", pretrained, "--to", "paddle", "--out", out, "--token", "cls")
    assert done.status == 2 and "exists already" in done.err
    assert json.loads((out / "metadata.json").read_text()) == facts


@pytest.mark.parametrize(
    "options, said",
    [
        (["--to", "torch", "--out", "out"], "--to must be one of onnx, paddle, got 'torch'"),
        (["--to", "onnx", "--out", "out"], "--out must be a file that ends in .onnx, got out"),
        (["--to", "paddle", "--out", "out.onnx"], "--out must be a folder"),
        (["--to", "paddle", "--out", "out", "--what", "classifier"], "a pretraining run has no classes"),
        (["--to", "paddle", "--out", "out", "--what", "decoder"], "must be one of encoder, classifier, reconstructor"),
        (["--to", "paddle", "--out", "out", "--token", "sum"], "--token must be one of cls, mean, got 'sum'"),
    ],
)
def test_what_can_t_be_exported_is_reported_in_a_line(
    options, said, paddlemae, pretrained, tmp_path, monkeypatch
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    done = paddlemae("export", pretrained, *options)
    assert done.status == 2 and done.err.count("\n") == 1 and said in done.err
    assert not list(tmp_path.iterdir())


def test_other_mistakes_are_reported_too(paddlemae, classifier_run, tmp_path, monkeypatch) -> None:
    done = paddlemae("export", tmp_path / "none", "--to", "paddle", "--out", tmp_path / "out")
    assert done.status == 2 and "does not exist" in done.err
    done = paddlemae("export", classifier_run, "--to", "paddle", "--out", tmp_path / "o", "--what", "reconstructor")
    assert done.status == 2 and "a classifier has no decoder" in done.err
    monkeypatch.setattr(write, "PACKAGES", ("no_such_package",))
    done = paddlemae("export", classifier_run, "--to", "onnx", "--out", tmp_path / "m.onnx")
    assert done.status == 2 and "pip install 'paddlemae[onnx]'" in done.err


@pytest.mark.parametrize("table, name", [("DECODERS", "mae"), ("PIXELS", "normalised")])
@pytest.mark.parametrize("to", ["onnx", "paddle"])
def test_a_decoder_or_target_without_an_export_is_named(to, table, name, paddlemae, pretrained, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setattr(graph, table, {key: each for key, each in getattr(graph, table).items() if key != name})
    out = tmp_path / ("model.onnx" if to == "onnx" else "out")
    done = paddlemae("export", pretrained, "--to", to, "--out", out, "--what", "reconstructor")
    assert done.status == 2 and done.err.count("\n") == 1
    assert f"and this model has {name}; " in done.err and "--what encoder" in done.err
    assert not list(tmp_path.iterdir())


def test_a_model_without_cls_token_has_no_features_of_it() -> None:
    with pytest.raises(ValueError, match="no cls token; use --token mean"):
        interface_of(autoencoder(cls_token=False), "encoder", "cls")


def test_what_does_not_agree_is_not_written(paddlemae, classifier_run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(write, "save_program", _with_another_mean(write.save_program))
    done = paddlemae("export", classifier_run, "--to", "paddle", "--out", tmp_path / "out")
    assert done.status == 2 and "nothing was written" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def _with_another_mean(save):
    return lambda model, interface, mean, std, folder: save(model, interface, [one + 0.01 for one in mean], std, folder)


@pytest.mark.parametrize("to", ["onnx", "paddle"])
@pytest.mark.parametrize("what", ["encoder", "classifier", "reconstructor"])
def test_the_example_runs_it_without_paddlemae(to: str, what: str, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    model = autoencoder(channels=3) if what == "reconstructor" else classifier(channels=3)
    name = "m.onnx" if to == "onnx" else "m"
    write.export(saved(model, tmp_path / "run"), to, tmp_path / name, what=what)
    views = photos(tmp_path)
    printed = run_example("run_exported.py", name, tmp_path)
    if what == "reconstructor":
        for number, view in enumerate(views):
            completed = np.asarray(Image.open(tmp_path / f"{number}-completed.png"))
            same = (completed == view.transpose(1, 2, 0)).all(axis=2).reshape(2, 4, 4, 3).transpose(0, 2, 1, 3)
            assert same.reshape(8, 12).all(axis=1).sum() == 2  # of 8 patches those that were kept
        return
    kind = check.FeatureKind("mean") if what == "encoder" else check.LOGITS
    wanted = check.forward_function(model, description_of(model), kind)(views)
    if what == "encoder":
        np.testing.assert_allclose(np.load(tmp_path / "features.npy"), wanted, atol=1e-5)
    else:
        assert printed == answers(wanted)


@pytest.mark.parametrize("to", ["onnx", "paddle"])
@pytest.mark.parametrize(("what", "channels"), [("encoder", 13), ("classifier", 1), ("reconstructor", 13)])
def test_images_of_16_bits(to: str, what: str, channels: int, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    model = autoencoder(channels=channels) if what == "reconstructor" else classifier(channels=channels)
    statistics = ([0.02 + 0.01 * band for band in range(channels)], [0.01 + 0.002 * band for band in range(channels)])
    classes = [f"class {number}" for number in range(5)] if isinstance(model, VisionTransformer) else []
    description = replace(describe(model, statistics, eval_crop_ratio=1.0, classes=classes), bits=16)
    (tmp_path / "run").mkdir()
    write_model(tmp_path / "run", to_official(model), description)
    name = "m.onnx" if to == "onnx" else "m"
    done = write.export(tmp_path / "run", to, tmp_path / name, what=what)
    assert done.difference < 1e-5 and done.images == "8 images of random pixels, since there are none of the run's"
    images = np.random.default_rng(0).integers(0, 9000, (3, channels, 8, 12), np.uint16)
    for number, image in enumerate(images):
        np.save(tmp_path / f"{number}.npy", image)
    printed = run_example("run_exported.py", name, tmp_path, ending="npy", one_core=True)
    if what == "reconstructor":
        completed = np.stack([np.load(tmp_path / f"{number}-completed.npy") for number in range(3)])
        same = np.isclose(completed, images / 65535, rtol=0, atol=1e-6).all(axis=1).reshape(3, 2, 4, 4, 3)
        assert same.all(axis=(2, 4)).sum() == 3 * 2  # of 8 patches those that were kept
        return
    kind = check.FeatureKind("mean") if what == "encoder" else check.LOGITS
    wanted = check.forward_function(model, description, kind)(images)
    if what == "encoder":
        np.testing.assert_allclose(np.load(tmp_path / "features.npy"), wanted, atol=1e-5)
    else:
        assert printed == [answer.replace("png", "npy") for answer in answers(wanted)]


def test_a_picture_for_a_model_of_bands_is_refused_in_a_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = classifier(channels=13)
    (tmp_path / "run").mkdir()
    description = describe(model, ([0.5] * 13, [0.2] * 13), eval_crop_ratio=1.0, classes=list("abcde"))
    write_model(tmp_path / "run", to_official(model), description)
    write.export(tmp_path / "run", "onnx", tmp_path / "m.onnx")
    photos(tmp_path)
    command = [sys.executable, EXAMPLES / "run_exported.py", "m.onnx", "0.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr == "0.png: expected a .npy array [13, 8, 12] of 16 bits a value, got a picture; save it as one\n"


@pytest.mark.parametrize(("height", "width"), [(37, 29), (10, 16), (3, 211)])
def test_twenty_lines_classify_without_paddlemae(height: int, width: int, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = classifier(channels=3)
    write.export(saved(model, tmp_path / "run"), "onnx", tmp_path / "m.onnx")
    wanted = check.forward_function(model, description_of(model), check.LOGITS)(photos(tmp_path, height, width))
    assert run_example("classify.py", "m.onnx", tmp_path) == answers(wanted)


@pytest.mark.parametrize("to", ["onnx", "paddle"])
@pytest.mark.parametrize(("height", "width"), [(19, 31), (5, 12)])
def test_the_example_segments_images_of_any_size(to: str, height: int, width: int, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    model = segmenter("linear", channels=3)
    colours = [[number, 0, 255 - number] for number in range(5)]
    description = replace(description_of(model), palette=colours)
    (tmp_path / "run").mkdir()
    write_model(tmp_path / "run", to_official(model), description)
    name = "m.onnx" if to == "onnx" else "m"
    write.export(tmp_path / "run", to, tmp_path / name)
    photos(tmp_path, height, width)
    printed = run_example("run_exported.py", name, tmp_path, one_core=True)
    model.eval()

    def forward(images: np.ndarray) -> np.ndarray:
        with paddle_engine.no_grad():
            return model(to_input(images, description)).numpy()

    for number in range(3):
        image = np.asarray(Image.open(tmp_path / f"{number}.png")).transpose(2, 0, 1)
        wanted = windowed_logits(forward, image, (8, 12)).argmax(axis=0)
        mask = Image.open(tmp_path / f"{number}-mask.png")
        assert mask.mode == "P" and (np.asarray(mask) == wanted).mean() > 0.99
        assert mask.getpalette()[:15] == np.ravel(colours).tolist()
        assert printed[number].startswith(f"{number}.png: class ")


def photos(folder: Path, height: int = 37, width: int = 29) -> np.ndarray:
    """Write 0.png, 1.png and 2.png; what a model should see of them, uint8 [3, C, H, W]."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), np.uint8)
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number}.png")
    return np.stack([eval_view(each, View(image_size=(8, 12), channels=3, eval_crop_ratio=0.8)) for each in pixels])


def run_example(script: str, exported: str, folder: Path, ending: str = "png", *, one_core: bool = False) -> list[str]:
    """Return the lines that it prints of the photos in a folder, where PaddleMAE can't be imported.

    With `one_core` it finds one core and so starts a single process, each of which imports Paddle.
    """
    environment = dict(os.environ)
    if one_core:
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text("import os\nos.cpu_count = lambda: 1\n")
        environment["PYTHONPATH"] = str(folder / "site")
    (folder / "paddlemae.py").write_text("raise ImportError('the example has need of PaddleMAE')")
    shutil.copy(EXAMPLES / script, folder)
    command = [sys.executable, "-W", "ignore", script, exported, *(f"{number}.{ending}" for number in range(3))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def answers(logits: np.ndarray) -> list[str]:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return [f"{number}.png: class {row.argmax()} ({row.max():.1%})" for number, row in enumerate(shares)]
