"""A model's two files: what is in them, and what is said about files that are not ours."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from paddlemae.weights import store
from paddlemae.weights.store import Description, read_description, read_tensors, write_model, write_tensor_file

TENSORS = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "head.bias": np.zeros(2, np.float32)}
DESCRIPTION = Description(
    kind="mae",
    architecture={"image_size": [8, 8], "norm_pix_loss": True},
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
    np.testing.assert_array_equal(load_file(folder / "model.safetensors")["head.weight"], TENSORS["head.weight"])
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_description_is_plain_json(folder: Path) -> None:
    assert json.loads((folder / "model.json").read_text()) == {
        "format": 1,
        "kind": "mae",
        "architecture": {"image_size": [8, 8], "norm_pix_loss": True},
        "target": "normalised",
        "mean": [0.1],
        "std": [0.2],
        "eval_crop_ratio": 0.9,
        "classes": [],
        "provenance": {"data": "digits"},
    }


def test_a_classifier_names_its_classes_and_has_no_target(tmp_path) -> None:
    description = Description("classifier", {"num_classes": 2}, [0.1], [0.2], 0.9, ["cat", "dog"])
    write_model(tmp_path, TENSORS, description)
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
        store.write_tensor_file(path, TENSORS)
    assert fault.value.errno == errno.ENOENT and fault.value.filename == str(path)


def test_a_full_disk_is_an_oserror(tmp_path, monkeypatch) -> None:
    def full(*arguments, **named):
        raise store.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as fault:
        write_model(tmp_path, TENSORS, DESCRIPTION)
    assert fault.value.errno == errno.ENOSPC


def test_arrays_of_any_strides_are_written_as_they_read(tmp_path) -> None:
    tensors = {"turned": np.arange(6, dtype=np.float32).reshape(2, 3).T, "scalar": np.float32(2).reshape(())}
    write_tensor_file(tmp_path / "model.safetensors", tensors)
    for name, array in read_tensors(tmp_path).items():
        assert array.shape == tensors[name].shape and np.array_equal(array, tensors[name])
