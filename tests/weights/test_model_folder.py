"""A model's two files: what they hold, and the errors for files that are not ours."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from paddlemae.model.shape import tensor_shapes
from paddlemae.weights import model_folder
from paddlemae.weights.model_folder import Description, read_description, read_tensors, write_model, write_tensor_file

ENCODER = dict(image_size=[8, 8], patch_size=[4, 4], channels=1, embed_dim=4, depth=1, num_heads=2, mlp_ratio=2.0)
ENCODER |= dict(cls_token=True, positions="learned")
DECODER = dict(decoder_embed_dim=2, decoder_depth=1, decoder_num_heads=1, norm_pix_loss=True)
TENSORS = {
    name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for name, shape in tensor_shapes("mae", ENCODER | DECODER).items()
}
DESCRIPTION = Description(
    kind="mae",
    architecture=ENCODER | DECODER,
    mean=[0.1],
    std=[0.2],
    eval_crop_ratio=0.9,
    provenance={"data": "digits"},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path, TENSORS, DESCRIPTION)
    return tmp_path


def test_both_files_come_back(folder: Path) -> None:
    assert read_description(folder) == DESCRIPTION
    tensors = read_tensors(folder)
    assert set(tensors) == set(TENSORS)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, TENSORS[name])


def test_the_weights_read_with_plain_safetensors_as_pytorchs(folder: Path) -> None:
    np.testing.assert_array_equal(load_file(folder / "model.safetensors")["norm.bias"], TENSORS["norm.bias"])
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_description_is_plain_json(folder: Path) -> None:
    assert json.loads((folder / "model.json").read_text()) == {
        "format": 1,
        "kind": "mae",
        "architecture": ENCODER | DECODER,
        "target": "normalised",
        "mean": [0.1],
        "std": [0.2],
        "eval_crop_ratio": 0.9,
        "classes": [],
        "provenance": {"data": "digits"},
    }


def test_a_classifier_names_its_classes_and_has_no_target(tmp_path) -> None:
    architecture = ENCODER | dict(num_classes=2, pool="mean")
    description = Description("classifier", architecture, [0.1], [0.2], 0.9, ["cat", "dog"])
    shapes = tensor_shapes("classifier", architecture)
    write_model(tmp_path, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, description)
    content = json.loads((tmp_path / "model.json").read_text())
    assert content["classes"] == ["cat", "dog"] and "target" not in content
    assert read_description(tmp_path) == description


def test_the_target_follows_the_architecture() -> None:
    assert Description("mae", {"norm_pix_loss": False}, [], [], 1.0).target == "raw"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1, 2]", "7", "null", '"text"', '{"model_type": "vit_mae"}', '{"format": 1, "kind": "mae"}', "\x00\xff"],
)
def test_a_foreign_description_is_named(folder: Path, text: str) -> None:
    (folder / "model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="model.json is not a model description of PaddleMAE") as fault:
        read_description(folder)
    assert "\n" not in str(fault.value)


def test_a_later_format_is_refused(folder: Path) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(ValueError, match="is of format 2; this PaddleMAE reads format 1"):
        read_description(folder)


DAMAGES = {
    "empty": (lambda whole: b"", "is empty; download or copy it again"),
    "garbage": (lambda whole: b"\xff" * 200, "is damaged or no safetensors file"),
    "truncated": (lambda whole: whole[:-5], "is damaged or no safetensors file"),
    "zip": (lambda whole: b"PK\x03\x04" * 9, "is a zip archive, as PyTorch writes them; another kind"),
    "pointer": (lambda whole: b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, .* git lfs pull"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_named(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    change, message = DAMAGES[damage]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"model.safetensors {message}"):
        read_tensors(folder)


def test_missing_files_are_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no PaddleMAE model"):
        read_description(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model.safetensors does not exist; the checkpoint is incomplete"):
        read_tensors(tmp_path)


def test_a_failed_write_is_an_oserror_with_its_path(tmp_path) -> None:
    """safetensors has an exception of its own for a full disk, which nobody would catch."""
    path = tmp_path / "missing" / "model.safetensors"
    with pytest.raises(FileNotFoundError) as fault:
        model_folder.write_tensor_file(path, TENSORS)
    assert fault.value.errno == errno.ENOENT and fault.value.filename == str(path)


def test_a_full_disk_is_an_oserror(tmp_path, monkeypatch) -> None:
    def full(*arguments, **named):
        raise model_folder.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(model_folder, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as fault:
        write_model(tmp_path, TENSORS, DESCRIPTION)
    assert fault.value.errno == errno.ENOSPC


def test_arrays_of_any_strides_are_written_as_they_read(tmp_path) -> None:
    tensors = {"turned": np.arange(6, dtype=np.float32).reshape(2, 3).T, "scalar": np.float32(2).reshape(())}
    write_tensor_file(tmp_path / "model.safetensors", tensors)
    for name, array in read_tensors(tmp_path).items():
        assert array.shape == tensors[name].shape and np.array_equal(array, tensors[name])


WRONG_ARCHITECTURES: dict[str, Any] = {
    "depth": [0, 100_000, -1, 1.0, "1", None, True, 2**70, [1]],
    "image_size": [28_000, [28_000, 28_000], [8], [8, 9], "8", 0],
    "patch_size": [2, [8, 8], 0],
    "mlp_ratio": [1e5, 0, -2.0, "2", None],
    "num_heads": [0, 3, 2**40],
    "embed_dim": [8, 2**31],
    "channels": [3, 0],
    "cls_token": [False, 1],
    "positions": ["evil", None, ["learned"]],
    "decoder_depth": [2, 100_000],
    "decoder_embed_dim": [4],
    "decoder": ["cross", "evil"],
    "norm_pix_loss": [None, 1],
    "norm_pix_floor": [None, -0.1, 2.0, "0.1"],
    "evil": [1],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG_ARCHITECTURES.items() for value in values], ids=str
)
def test_a_wrong_architecture_is_refused_before_building(folder, name, value) -> None:
    rewrite(folder, architecture={**DESCRIPTION.architecture, name: value})
    with pytest.raises(ValueError, match=r"model\.json") as fault:
        read_description(folder)
    assert "\n" not in str(fault.value) and len(str(fault.value)) < 1500


@pytest.mark.parametrize(
    "change",
    [
        dict(kind="evil"),
        dict(kind=["mae"]),
        dict(classes=5),
        dict(classes=["a"]),
        dict(mean=[float("nan")]),
        dict(mean=[float("inf")]),
        dict(mean=[0.1, 0.2, 0.3]),
        dict(mean=[]),
        dict(std=[0.0]),
        dict(std=[-1.0]),
        dict(std=[1e-300]),
        dict(std=[float("nan")]),
        dict(std="x"),
        dict(eval_crop_ratio=0),
        dict(eval_crop_ratio=float("nan")),
        dict(architecture=[1]),
        dict(architecture={}),
        dict(provenance=[1]),
        dict(bits=12),
    ],
    ids=str,
)
def test_a_description_of_no_sense_is_refused(folder: Path, change: dict[str, Any]) -> None:
    rewrite(folder, **change)
    with pytest.raises(ValueError, match=r"model\.json is not a model description.*use another checkpoint") as fault:
        read_description(folder)
    assert "\n" not in str(fault.value)


def test_a_description_nested_deep_is_refused(folder: Path) -> None:
    (folder / "model.json").write_text('{"format": 1, "architecture": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ValueError, match=r"model\.json .*nested too deep"):
        read_description(folder)


def test_weights_of_whole_numbers_are_refused(folder: Path) -> None:
    write_tensor_file(folder / "model.safetensors", {name: one.astype(np.int32) for name, one in TENSORS.items()})
    with pytest.raises(ValueError, match="is of int32"):
        read_description(folder)


def test_a_header_that_claims_much_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        read_tensors(folder)


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
