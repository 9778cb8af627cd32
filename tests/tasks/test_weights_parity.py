"""`paddlemae weights` against the originals: PyTorch's own files and transformers' own classes."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from paddlemae.tasks.models.read_model import Reading, read_checkpoint
from paddlemae.tasks.weights_convert import convert
from paddlemae.tasks.weights_verify import verify
from paddlemae.weights.formats.torch_file import read_torch
from paddlemae.weights.formats.torch_write import write_torch
from tests.support.layout_cases import CASES
from tests.support.weights_commands import MAE, TOLERANCE, command, reading

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = dict(
    image_size=16, patch_size=4, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
)
DECODER = dict(
    decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=64
)


def saved(name: str, folder: Path) -> Path:
    """A model of transformers as it saves it itself, with weights that are not small."""
    config = transformers.ViTMAEConfig(**SMALL, **DECODER) if "MAE" in name else transformers.ViTConfig(**SMALL)
    torch.manual_seed(0)
    model = getattr(transformers, name)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) / 10)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["ViTMAEForPreTraining", "ViTMAEModel", "ViTModel", "ViTForImageClassification"])
def test_a_folder_of_transformers_is_verified_against_itself(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    folder = saved(name, tmp_path / "theirs")
    found = verify(folder, Reading())
    assert found.against.startswith("transformers ") and found.holds and max(found.differences.values()) > 0
    status, out, _ = command(monkeypatch, capsys, "weights", "verify", folder)
    assert status == 0 and "apart from transformers" in out


def test_other_layouts_are_verified_with_transformers(tmp_path: Path) -> None:
    theirs = saved("ViTMAEForPreTraining", tmp_path / "theirs")
    for to, name in (("paddlemae", "own"), ("official", "official.pth"), ("paddle", "paddle.pdparams")):
        convert(theirs, tmp_path / name, to, Reading())
        options = Reading() if to == "paddlemae" else Reading(heads=4, decoder_heads=2)
        assert verify(tmp_path / name, options).against.startswith("transformers ")


def test_other_models_are_compared_with_their_definition(tmp_path: Path) -> None:
    name = "mae-pytorch: pretrained"
    write_torch(tmp_path / "theirs.pth", CASES[name].tensors, "model")
    found = verify(tmp_path / "theirs.pth", reading(CASES[name]))
    assert found.against == "the definition in NumPy" and found.holds


def test_files_of_torch_save_with_other_content_of_trainers(tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(array.copy()) for name, array in CASES[MAE].tensors.items()}
    settings = argparse.Namespace(norm_pix_loss=True, input_size=8, mask_ratio=0.75)
    torch.save({"model": tensors, "optimizer": {}, "epoch": 799, "args": settings}, tmp_path / "theirs.pth")
    checkpoint = read_checkpoint(tmp_path / "theirs.pth", reading(CASES[MAE]))
    assert checkpoint.description.target == "normalised"
    for name, array in CASES[MAE].tensors.items():
        assert np.array_equal(checkpoint.tensors[name], array)


@pytest.mark.parametrize("mapped", [False, True])
def test_torch_loads_what_is_written_for_it(mapped: bool, tmp_path: Path) -> None:
    tensors = {
        **CASES[MAE].tensors,
        "scalar": np.float32(2).reshape(()),
        "empty": np.zeros((0, 3), np.float32),
        "long": np.arange(3),
        "half": np.ones((2, 3), np.float16).T,
        "double": np.linspace(0, 1, 5),
    }
    write_torch(tmp_path / "ours.pth", tensors, "model")
    loaded = torch.load(tmp_path / "ours.pth", weights_only=True, mmap=mapped)["model"]
    read = read_torch(tmp_path / "ours.pth")["model"]
    for name, array in tensors.items():
        assert loaded[name].numpy().dtype == array.dtype and np.array_equal(loaded[name].numpy(), array), name
        assert np.array_equal(read[name], array), name
    for one in loaded.values():
        assert one.data_ptr() % 16 == 0 or not one.numel()


def test_the_tolerance_is_the_commands() -> None:
    from paddlemae.tasks import weights_verify as task

    assert task.LARGEST == TOLERANCE
