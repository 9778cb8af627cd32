"""Other people's weights by command: looked into, converted, proven equal, and taken wherever a run is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from paddlemae.recipe import load_recipe
from paddlemae.tasks import weights_verify as verifying
from paddlemae.tasks.models.read_model import Reading, adapt, is_own, read_checkpoint
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.training.run_start import Start
from paddlemae.tasks.weights_convert import convert, inspect, inspection
from paddlemae.weights.formats.torch_write import write_torch
from paddlemae.weights.model_folder import read_tensors, write_tensor_file
from paddlemae.weights.open import open_weights
from tests.support.layout_cases import CASES, Case, images_of, rows_of
from tests.support.layout_models import run
from tests.support.weights_commands import MAE, TOLERANCE, command, reading

SHAPE = ["image_size=8", "patch_size=4", "channels=3", "embed_dim=16", "depth=2", "num_heads=4", "mlp_ratio=2"]
DECODER = ["decoder_embed_dim=8", "decoder_depth=1", "decoder_num_heads=2"]


@pytest.fixture(autouse=True)
def no_transformers(monkeypatch) -> None:
    """These tests mean the same with and without PyTorch; test_weights_parity has it."""
    monkeypatch.setattr(verifying, "has_originals", lambda: False)


def written(case: Case, folder: Path) -> Path:
    """The case as a file of the kind that its layout's people have."""
    if case.config is not None:
        folder.mkdir(exist_ok=True)
        write_tensor_file(folder / "model.safetensors", case.tensors)
        (folder / "config.json").write_text(json.dumps(case.config))
        for name, content in (case.extras or {}).items():
            (folder / name).write_text(json.dumps(content))
        return folder
    if case.layout.startswith("paddle"):
        import paddle

        path = folder.with_suffix(".pdparams")
        paddle.save({name: paddle.to_tensor(array) for name, array in case.tensors.items()}, str(path))
    else:
        path = folder.with_suffix(".pth")
        write_torch(path, case.tensors, "model")
    return path


@pytest.mark.parametrize("name", CASES)
def test_our_model_computes_what_the_layout_defines(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = written(case, tmp_path / "theirs")
    keep, removed = rows_of(case)
    theirs = run(case.layout, case.tensors, images_of(case), keep, removed)
    checkpoint = read_checkpoint(path, reading(case))
    assert checkpoint.description.kind == case.kind
    found = verifying.verify(path, reading(case))
    assert found.against == "the definition in NumPy" and found.holds, found
    # and the definition in NumPy is the layout's own, written apart from it
    shape = checkpoint.description.architecture
    own = verifying.numpy_reference.outputs(case.kind, shape, checkpoint.tensors, images_of(case), keep)
    if theirs.features is not None:
        assert np.allclose(own["features"], theirs.features, rtol=TOLERANCE, atol=1e-5)
    if theirs.prediction is not None:
        predicted = np.take_along_axis(own["prediction"], removed[..., None], axis=1)
        assert np.allclose(predicted, theirs.prediction, rtol=TOLERANCE, atol=1e-5)
    if theirs.logits is not None:
        assert np.allclose(own["logits"], theirs.logits, rtol=TOLERANCE, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_each_file_is_reported_tensor_by_tensor(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    content = inspect(written(case, tmp_path / "theirs"), reading(case))
    text = inspection(content)
    assert content["layout"] == case.layout and f"model:       {case.kind}" in text
    assert json.loads(json.dumps(content)) == content
    assert len(content["loaded"]) == len(read_checkpoint(written(case, tmp_path / "theirs"), reading(case)).tensors)
    assert all(word in text for word in ("parameters:", "0 missing", "left over", "encoder:"))


@pytest.mark.parametrize("to", ["paddlemae", "official", "timm", "transformers", "mae-pytorch", "paddle", "paddlevit"])
def test_there_and_back_is_bitwise(to: str, tmp_path: Path) -> None:
    name = "mae-pytorch: pretrained" if to == "mae-pytorch" else "official: encoder" if to == "timm" else MAE
    path = written(CASES[name], tmp_path / "theirs")
    ending = {"official": ".pth", "mae-pytorch": ".pth", "paddle": ".pdparams", "paddlevit": ".pdparams"}.get(to, "")
    there = tmp_path / f"there{ending}"
    convert(path, there, to, reading(CASES[name]))
    back = Reading() if to in ("paddlemae", "timm", "transformers") else reading(CASES[name])
    convert(there, tmp_path / "back", "paddlemae", back)
    before = read_checkpoint(path, reading(CASES[name]))
    after = read_tensors(tmp_path / "back")
    assert after.keys() == before.tensors.keys()
    for key, array in before.tensors.items():
        assert np.array_equal(after[key], array), key
    saved = read_checkpoint(tmp_path / "back").description
    assert saved.architecture == before.description.architecture and saved.kind == before.description.kind


@pytest.mark.parametrize("key", [None, "model_ema"])
def test_the_key_in_the_file_is_found_or_named(key: str | None, tmp_path: Path) -> None:
    path = tmp_path / "theirs.pth"
    write_torch(path, CASES[MAE].tensors, key or "model")
    if key:
        with pytest.raises(ValueError, match="model_ema"):
            read_checkpoint(path, reading(CASES[MAE]))
    assert inspect(path, reading(CASES[MAE], key=key))["key"] == (key or "model")


@pytest.mark.usefixtures("rendered_figures")
def test_weights_stand_wherever_a_run_does(tmp_path: Path, monkeypatch, capsys) -> None:
    """A folder of transformers' as it is, since it needs no options."""
    mae = written(CASES["transformers: ViTMAEForPreTraining"], tmp_path / "mae")
    classifier = written(CASES["transformers: ViTForImageClassification"], tmp_path / "vit")
    said = f"{mae}: weights of the layout transformers, a masked autoencoder"
    drawn = [str(mae), "digits", "--out", str(tmp_path / "drawn.png")]
    status, out, err = command(monkeypatch, capsys, "reconstruct", *drawn)
    assert status == 0 and said in err and (tmp_path / "drawn.png").stat().st_size > 5000
    status, out, err = command(monkeypatch, capsys, "knn", mae, "--data", "digits", "--k", "5", "--labels", "50")
    assert status == 0 and said in err and "accuracy" in out
    settings = ["steps=2", "batch_size=20", "threads=1", "labels=50", "drop_path=0"]
    for task, more in (("finetune", []), ("probe", ["cached=true"])):
        words = [task, "--init", mae, "--data", "digits", "--out", tmp_path / task, "--quiet", *settings, *more]
        if task == "probe":
            words.remove("drop_path=0")
        status, out, err = command(monkeypatch, capsys, *words)
        assert status == 0 and said in err, err
    status, out, err = command(monkeypatch, capsys, "evaluate", classifier, "--data", "digits")
    assert status == 2 and "classes" in err  # it has 5, digits 10
    status, out, err = command(monkeypatch, capsys, "reconstruct", classifier, *drawn[1:])
    assert status == 2 and "a classifier, which has no decoder" in err


def test_pretraining_continues_from_weights(tmp_path: Path, capsys) -> None:
    path = written(CASES["transformers: ViTMAEForPreTraining"], tmp_path / "mae")
    theirs = read_checkpoint(path)
    target = f"norm_pix_loss={str(theirs.description.architecture['norm_pix_loss']).lower()}"
    settings = [f"init={json.dumps(str(path))}", "data=digits", "steps=1", "base_lr=1e-12", "warmup_epochs=0"]
    settings += ["threads=1", "batch_size=8", "weight_decay=0", *SHAPE, *DECODER, target]
    run_folder = pretrain(load_recipe("pretrain", None, settings), Start(tmp_path / "run", quiet=True))
    after = read_checkpoint(run_folder)
    for name, array in theirs.tensors.items():
        assert np.allclose(after.tensors[name], array, atol=1e-6), name
    assert after.description.provenance["init"] == str(path)
    assert "new weights for" not in capsys.readouterr().err
    other = [*settings[:-1], "decoder_depth=2"]
    again = read_checkpoint(pretrain(load_recipe("pretrain", None, other), Start(tmp_path / "other", quiet=True)))
    assert "new weights for the decoder (decoder_depth" in capsys.readouterr().err
    assert np.allclose(again.tensors["blocks.0.attn.qkv.weight"], theirs.tensors["blocks.0.attn.qkv.weight"], atol=1e-6)
    with pytest.raises(ValueError, match="depth is 2 in the checkpoint and 3 in the recipe"):
        pretrain(load_recipe("pretrain", None, [*settings, "depth=3"]), Start(tmp_path / "no", quiet=True))


def test_a_resumed_pretraining_does_not_need_what_it_started_from(tmp_path: Path) -> None:
    path = written(CASES["transformers: ViTMAEForPreTraining"], tmp_path / "mae")
    settings = [f"init={json.dumps(str(path))}", "data=digits", "steps=2", "max_hours=1e-9", "threads=1", *SHAPE]
    settings += ["batch_size=8", *DECODER, "log_every=1"]
    with pytest.raises(BaseException, match="stopped after step 0"):
        pretrain(load_recipe("pretrain", None, settings), Start(tmp_path / "run", quiet=True))
    path.rename(tmp_path / "gone")
    recipe = load_recipe("pretrain", None, [*settings, "max_hours=null"])
    assert (
        read_checkpoint(pretrain(recipe, Start(tmp_path / "run", resume=True, quiet=True))).folder.name
        == "step_00000002"
    )


@pytest.mark.parametrize(
    "wanted", [{"channels": 1}, {"channels": 5}, {"patch_size": (2, 4), "image_size": (6, 12)}, {"image_size": 16}]
)
def test_weights_are_brought_to_other_images(wanted: dict, tmp_path: Path, capsys) -> None:
    checkpoint = adapt(read_checkpoint(written(CASES[MAE], tmp_path / "theirs"), reading(CASES[MAE])), **wanted)
    shape = checkpoint.description.architecture
    assert shape["channels"] == wanted.get("channels", 3) == len(checkpoint.description.mean)
    assert len(verifying.our_outputs(checkpoint)["features"]) == 2
    assert capsys.readouterr().err.count(" -> ") >= len(wanted)


def test_mistakes_are_one_clear_line(tmp_path: Path, monkeypatch, capsys) -> None:
    path = written(CASES[MAE], tmp_path / "theirs")
    own = tmp_path / "own"
    convert(path, own, "paddlemae", reading(CASES[MAE]))
    (tmp_path / "note.txt").write_text("hello\n")
    other = tmp_path / "other.pth"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    cases = [
        (["inspect", tmp_path / "nothing"], "does not exist; expected a run folder, a checkpoint, or MAE or ViT"),
        (["inspect", tmp_path / "note.txt"], "is a text file, not weights"),
        (["inspect", own, "--heads", "3"], "no options for foreign files"),
        (["convert", path, "--out", own], "exists; choose another --out"),
        (["convert", path, "--out", tmp_path / "a.bin", "--to", "official"], "a file that ends in .pth"),
        (["convert", path, "--out", tmp_path / "a.pth", "--to", "timm"], "are a folder"),
        (["convert", path, "--out", tmp_path / "a", "--to", "keras"], "--to must be one of"),
        (["convert", path, "--out", tmp_path, "--overwrite"], "would delete"),
        (["convert", path, "--out", other, "--overwrite"], "holds more than weights (thesis.txt); move that"),
        (["convert", path, "--out", other, "--to", "official", "--overwrite"], "is a folder, and weights of"),
        (["inspect", path, "--image-size", "big"], "--image-size must be pixels"),
        (["inspect", path, "--layout", "caffe"], "layout must be one of"),
        (["inspect", path, "--target", "hog"], "target must be"),
        (["verify", own, "--heads", "3"], "no options for foreign files"),
        (["verify", path, "--golden", tmp_path / "note.txt"], "holds no recorded outputs"),
    ]
    for words, message in cases:
        words += ["--heads", "4"] * (path in words) + ["--decoder-heads", "2"] * (path in words)
        status, _, err = command(monkeypatch, capsys, "weights", *words)
        assert status == 2 and message in err and len(err.strip().splitlines()[-1]) < 400, (words, err)
        assert "Traceback" not in err
    assert (other / "thesis.txt").read_text() == "years of work"
    assert not (tmp_path / "a").exists() and not list(tmp_path.glob(".*")), "nothing is written"


def test_a_golden_stands_for_the_other_implementation(tmp_path: Path, monkeypatch, capsys) -> None:
    folder, golden = tmp_path / "own", tmp_path / "golden.npz"
    convert(written(CASES[MAE], tmp_path / "theirs"), folder, "paddlemae", reading(CASES[MAE]))
    for against in ("the definition in NumPy", f"the outputs in {golden}"):
        status, out, _ = command(monkeypatch, capsys, "weights", "verify", folder, "--golden", golden)
        assert status == 0 and out.count(f"apart from {against}") == 2
    tensors = read_tensors(folder)
    tensors["blocks.0.mlp.fc1.bias"][0] += 1
    write_tensor_file(folder / "model.safetensors", tensors)
    status, _, err = command(monkeypatch, capsys, "weights", "verify", folder, "--golden", golden)
    assert status == 2 and "holds the outputs of other weights" in err
    with np.load(golden) as arrays:
        false = {name: arrays[name] for name in arrays.files}
    false["prediction"] = false["prediction"] * 1.001
    false["digest"] = np.frombuffer(verifying.tensors_digest(read_checkpoint(folder)), np.uint8)
    np.savez(golden, **false)
    status, _, err = command(monkeypatch, capsys, "weights", "verify", folder, "--golden", golden)
    assert status == 1 and "does not give the same outputs" in err


def test_what_is_ours_is_distinguished_from_the_rest(tmp_path: Path) -> None:
    path = written(CASES[MAE], tmp_path / "theirs")
    convert(path, tmp_path / "own", "paddlemae", reading(CASES[MAE]))
    ours, theirs = inspect(tmp_path / "own", Reading()), inspect(path, reading(CASES[MAE]))
    assert ours["layout"] == "paddlemae" and "parameters:" in inspection(ours)
    assert all(ours[name] == theirs[name] for name in ("architecture", "parameters", "loaded", "kind", "target"))
    assert is_own(tmp_path / "own") and is_own(tmp_path / "own" / "model.safetensors")
    alone = tmp_path / "alone.safetensors"
    (tmp_path / "own" / "model.safetensors").rename(alone)
    assert not is_own(alone) and not is_own(path) and not is_own(tmp_path)
    assert open_weights(alone).kind == "safetensors"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, "share a width of 16; name --heads (an option of 'paddlemae weights convert')"),
        ({"heads": 3}, "name another --heads (an option"),
    ],
)
def test_what_to_name_is_named_as_the_command_line_has_it(words: dict, expected: str, tmp_path: Path) -> None:
    path = written(CASES[MAE], tmp_path / "theirs")
    with pytest.raises(ValueError) as fault:
        read_checkpoint(path, Reading(**words))
    assert expected in str(fault.value) and str(path) in str(fault.value)
