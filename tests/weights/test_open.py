"""Whatever weights people name is opened: files by content, folders by their files, with the files next to them."""

import json
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from paddlemae.weights.formats.safetensors_file import read_safetensors
from paddlemae.weights.formats.state_dict import BFloat16
from paddlemae.weights.open import INDEX, open_weights
from tests.support.weight_files import Call, Global, numpy_array, pickled, row, storage, tensor, torch_legacy, torch_zip

FLOATS = np.arange(24, dtype=np.float32)
RAW = FLOATS.tobytes()
NAMESPACE = Call(Global("argparse", "Namespace"), (), {"lr": 0.1})
FILES = {
    "zip": torch_zip({"model": {"w": row(24)}, "args": NAMESPACE, "epoch": 3}, {"0": RAW}),
    "legacy": torch_legacy({"model": {"w": row(24, legacy=True)}, "args": NAMESPACE, "epoch": 3}, {"0": FLOATS}),
    "pickle": pickled({"model": {"w": numpy_array(FLOATS)}, "args": NAMESPACE, "epoch": 3}),
    "safetensors": save({"w": FLOATS}, {"format": "pt"}),
}


def folder_of(folder: Path, **files: bytes | dict) -> Path:
    folder.mkdir()
    for name, content in files.items():
        path = folder / name.replace("__", ".").replace("model_0", "model-0")
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


# Files


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("name", ["weights", "model.safetensors", "model.pth", "model.pdparams", "pytorch_model.bin"])
def test_a_file_is_opened_by_its_content_whatever_its_name(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[kind])
    found = open_weights(str(path))
    assert (found.path, found.kind, found.config, found.preprocessor) == (path, kind, None, None)
    np.testing.assert_array_equal(found.state.tensors["w"], FLOATS)
    assert found.state.dtypes == {"w": "float32"} and not found.state.tensors["w"].flags.writeable
    if kind == "safetensors":
        assert found.extras == {"format": "pt"} and found.state.place == ""
    else:
        assert found.state.place == "model" and set(found.extras) == {"args", "epoch"}
        assert found.extras["args"].state == {"lr": 0.1} and found.extras["epoch"] == 3


def test_a_wrapper_is_chosen_by_name_and_the_rest_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    tree = {"teacher": {"net": {"w": row(24)}}, "student": {"w": row(12)}, "epoch": 3}
    path.write_bytes(torch_zip(tree, {"0": RAW}))
    found = open_weights(path, "teacher.net")
    assert found.state.tensors["w"].shape == (24,) and set(found.extras) == {"student", "epoch"}
    with pytest.raises(ValueError, match=r"weights: no weights under .*name where they are: teacher, student"):
        open_weights(path)
    path.write_bytes(torch_zip({"w": row(24), "epoch": 3}, {"0": RAW}))
    assert open_weights(path).extras == {"epoch": 3}


def test_what_is_no_weights_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="model.safetensors is a Git LFS pointer, .*git lfs pull"):
        open_weights(path)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        open_weights(tmp_path / "nowhere")


# safetensors


def test_every_type_of_safetensors_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    types = (
        "float64",
        "float32",
        "float16",
        "complex64",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint64",
        "uint32",
        "uint16",
    )
    arrays = {name: np.arange(6).reshape(2, 3).astype(name) for name in (*types, "uint8", "bool")}
    arrays["empty"] = np.zeros((0, 4), np.float32)
    arrays["one"] = np.array(7.0)
    path.write_bytes(save(arrays))
    tensors, metadata = read_safetensors(path)
    assert metadata == {} and set(tensors) == set(arrays)
    for name, array in arrays.items():
        assert tensors[name].dtype == array.dtype and not tensors[name].flags.writeable
        np.testing.assert_array_equal(tensors[name], array)


def test_bfloat16_is_widened_and_float8_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    bits = (FLOATS.view(np.uint32) >> 16).astype(np.uint16)
    for dtype, shape in (("BF16", [24]), ("F8_E4M3", [48])):
        header = json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, 48]}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bits.tobytes())
        if dtype == "BF16":
            assert isinstance(read_safetensors(path)[0]["w"], BFloat16)
            state = open_weights(path).state
            np.testing.assert_array_equal(state.tensors["w"], FLOATS)
            assert state.dtypes == {"w": "bfloat16"}
        else:
            with pytest.raises(ValueError, match="tensor w is of the unsupported type F8_E4M3; save it as float32"):
                open_weights(path)


# Folders


def test_a_folder_of_hugging_face_or_timm_is_opened(tmp_path: Path) -> None:
    config, view = {"model_type": "vit_mae"}, {"image_mean": [0.5]}
    folder = folder_of(
        tmp_path / "a",
        model__safetensors=FILES["safetensors"],
        pytorch_model__bin=b"never looked at",
        config__json=config,
        preprocessor_config__json=view,
    )
    found = open_weights(folder)
    assert (found.path, found.kind, found.config, found.preprocessor) == (folder, "safetensors", config, view)
    assert open_weights(folder_of(tmp_path / "b", pytorch_model__bin=FILES["zip"])).kind == "zip"
    assert open_weights(folder_of(tmp_path / "c", pytorch_model__bin=FILES["legacy"])).config is None


def shards(folder: Path, kind: str) -> Path:
    end = {"safetensors": "model.safetensors", "zip": "pytorch_model.bin"}[kind]
    parts = {"w": FLOATS, "v": FLOATS[:6]}
    folder.mkdir()
    for number, (name, array) in enumerate(parts.items()):
        raw = torch_zip({name: row(array.size)}, {"0": array.tobytes()})
        (folder / f"part{number}").write_bytes(save({name: array}) if kind == "safetensors" else raw)
    index = {"metadata": {"total_size": 120}, "weight_map": {"w": "part0", "v": "part1"}}
    (folder / f"{end}{INDEX}").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("kind", ["safetensors", "zip"])
def test_shards_are_put_together(kind: str, tmp_path: Path) -> None:
    found = open_weights(shards(tmp_path / "a", kind))
    assert found.kind == kind and set(found.state.tensors) == {"w", "v"}
    np.testing.assert_array_equal(found.state.tensors["v"], FLOATS[:6])
    assert found.extras == {"total_size": 120} and found.state.skipped == {}


def test_a_shard_that_lacks_or_has_more_is_reported(tmp_path: Path) -> None:
    folder = shards(tmp_path / "a", "safetensors")
    (folder / "part1").write_bytes(save({"v": FLOATS, "extra": FLOATS}))
    assert open_weights(folder).state.skipped == {"extra": "float32 [24], not in model.safetensors.index.json"}
    (folder / "part1").write_bytes(save({"other": FLOATS}))
    with pytest.raises(ValueError, match="part1 lacks v, which model.safetensors.index.json says is in it"):
        open_weights(folder)
    (folder / "part1").unlink()
    with pytest.raises(FileNotFoundError, match="part1 does not exist; the index names it as a shard"):
        open_weights(folder)


def test_shards_lie_in_the_folder_or_in_the_caches_blobs(tmp_path: Path) -> None:
    """Hugging Face's cache keeps links in snapshots/<revision> to files in blobs."""
    secret = tmp_path / "secret"
    secret.write_bytes(save({"v": FLOATS}))
    folder = shards(tmp_path / "a", "safetensors")
    (folder / "part1").unlink()
    (folder / "part1").symlink_to(secret)
    with pytest.raises(ValueError, match="part1 is a link that leads out of the folder; copy the shard into it"):
        open_weights(folder)
    (tmp_path / "hub" / "snapshots").mkdir(parents=True)
    (tmp_path / "hub" / "blobs").mkdir()
    cached = shards(tmp_path / "hub" / "snapshots" / "abc", "safetensors")
    for name in ("part0", "part1"):
        os.rename(cached / name, tmp_path / "hub" / "blobs" / name)
        (cached / name).symlink_to(f"../../blobs/{name}")
    assert set(open_weights(cached).state.tensors) == {"w", "v"}


def test_a_folder_with_one_weights_file_is_opened(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", notes__txt=b"read me", vit__pdparams=FILES["pickle"], vit__pdopt=FILES["pickle"])
    assert open_weights(folder).kind == "pickle"
    (folder / "other.pth").write_bytes(FILES["zip"])
    with pytest.raises(
        ValueError, match=r"a holds 2 weights files; .*holds notes.txt, other.pth, vit.pdopt, vit.pdparams"
    ):
        open_weights(folder)
    with pytest.raises(ValueError, match="b holds no weights; name the file itself; the folder holds notes.txt"):
        open_weights(folder_of(tmp_path / "b", notes__txt=b"read me"))


# Checksums


def test_damage_within_an_archive_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    whole = FILES["zip"]
    for place in (whole.index(RAW) + 50, whole.index(b"lr"), whole.index(b"little")):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="is damaged .its checksum differs.|big-endian"):
            open_weights(path)


def test_an_archive_without_checksums_is_read_with_a_warning(tmp_path: Path) -> None:
    """PyTorch 2.13's set_crc32_options(False) writes zeros (measured)."""
    path = tmp_path / "file.pth"
    content = bytearray(FILES["zip"])
    place = content.find(b"PK\x01\x02")
    while place >= 0:
        content[place + 16 : place + 20] = bytes(4)
        place = content.find(b"PK\x01\x02", place + 1)
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="saved without checksums: damage to its tensors goes unnoticed"):
        np.testing.assert_array_equal(open_weights(path).state.tensors["w"], FLOATS)
    path.write_bytes(FILES["zip"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_weights(path)


def test_repeated_bfloat16_storages_are_widened_within_limits(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    shared = storage("BFloat16Storage", "0", 2**20)
    for count, ends in ((8, "read"), (40, "refused")):
        tree = {f"w{n}": tensor(shared, (2**20,), (1,)) for n in range(count)}
        path.write_bytes(torch_zip(tree, {"0": bytes(2**21)}))
        if ends == "read":
            assert len(open_weights(path).state.tensors) == count
        else:
            with pytest.raises(ValueError, match="its bfloat16 tensors repeat until they outgrow the file"):
                open_weights(path)
