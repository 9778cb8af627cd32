"""PyTorch's files, written by hand from their description: read exactly, and never run."""

import mmap
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from paddlemae.weights.formats import zip_directory
from paddlemae.weights.formats.file_kind import ADVICE, kind_of
from paddlemae.weights.formats.state_dict import BFloat16, Opaque, tensors_of
from paddlemae.weights.formats.torch_file import read_torch
from tests.support.weight_files import (
    FLOATS,
    LAUGHS,
    ORDERED,
    STORED,
    Call,
    Global,
    Persistent,
    Raw,
    attacks,
    opcodes,
    pickled,
    row,
    storage,
    tensor,
    torch_file,
    torch_legacy,
    torch_zip,
    writer,
    zip_bytes,
)

DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}
NAMESPACE = Call(Global("argparse", "Namespace"), (), {"lr": 0.1, "data_path": "/data"})


@pytest.fixture
def write(tmp_path: Path):
    return writer(tmp_path, "file.pth")


@pytest.fixture(params=["zip", "legacy"])
def saved(request, write):
    """Write a value whose storages are given as arrays; storages are named in the format's own way."""

    def save(value, **arrays: np.ndarray) -> Path:
        return write(torch_file(value, arrays, legacy=save.legacy))

    save.legacy = request.param == "legacy"
    return save


def same(one: np.ndarray, other: np.ndarray) -> None:
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


# What is read


def test_every_type_is_read_exactly(saved) -> None:
    for kind in DTYPES:
        values = np.random.default_rng(0).integers(0, 2 if kind == "BoolStorage" else 100, 7).astype(DTYPES[kind])
        got = read_torch(saved({"w": row(7, kind, legacy=saved.legacy)}, **{"0": values}))
        same(got["w"], values)
        assert not got["w"].flags.writeable


def test_bfloat16_is_kept_as_it_is_and_widened_exactly(saved) -> None:
    bits = np.array([0x3F80, 0xC000, 0x7F80, 0x0001, 0x7FC1, 0x0000, 0x8000], np.uint16)
    tree = read_torch(saved({"w": row(7, "BFloat16Storage", legacy=saved.legacy)}, **{"0": bits}))
    assert isinstance(tree["w"], BFloat16) and tree["w"].shape == (7,)
    same(tree["w"].bits, bits)
    found = tensors_of(tree)
    assert found.dtypes == {"w": "bfloat16"} and found.tensors["w"].dtype == np.float32
    same(found.tensors["w"].view(np.uint32), bits.astype(np.uint32) << 16)


def test_views_are_read_with_their_offsets_and_strides(saved) -> None:
    whole = storage("FloatStorage", "0", 24, legacy=saved.legacy)
    cases = {
        "plain": (((4, 6), (6, 1), 0), FLOATS.reshape(4, 6)),
        "transposed": (((6, 4), (1, 6), 0), FLOATS.reshape(4, 6).T),
        "part": (((2, 3), (6, 2), 6), FLOATS.reshape(4, 6)[1:3, ::2]),
        "scalar": (((), (), 5), FLOATS[5]),
        "expanded": (((3, 2), (0, 1), 22), np.broadcast_to(FLOATS[22:], (3, 2))),
        "last": (((1, 1), (99, 99), 23), FLOATS[23:].reshape(1, 1)),
        "empty": (((0, 3), (3, 1), 0), np.zeros((0, 3), np.float32)),
        "empty at the end": (((2, 0), (1, 1), 24), np.zeros((2, 0), np.float32)),
    }
    value = {name: tensor(whole, size, stride, offset) for name, ((size, stride, offset), _) in cases.items()}
    got = read_torch(saved(value, **{"0": FLOATS}))
    for name, (_, wanted) in cases.items():
        assert got[name].shape == wanted.shape, name
        np.testing.assert_array_equal(got[name], wanted, err_msg=name)
        assert not got[name].flags.writeable
    assert np.shares_memory(got["plain"], got["transposed"]) and np.shares_memory(got["plain"], got["part"])


def test_arrays_are_views_of_the_file_not_copies(saved) -> None:
    got = read_torch(saved({"w": row(24, legacy=saved.legacy)}, **{"0": FLOATS}))
    base = got["w"]
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)


def test_a_training_checkpoint_is_read_with_its_settings(saved) -> None:
    weights = Call(ORDERED, (), {"_metadata": Call(ORDERED, ())})
    model = Raw(b"".join(_with_items(weights, {"w": row(24, legacy=saved.legacy)})))
    step = row(2, "LongStorage", "1", legacy=saved.legacy)
    optimizer = {"state": {0: {"step": step}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.95)}]}
    value = {"model": model, "optimizer": optimizer, "epoch": 3, "scaler": None, "args": NAMESPACE}
    tree = read_torch(saved(value, **{"0": FLOATS, "1": np.array([1, 2])}))
    assert isinstance(tree["args"], Opaque)
    assert (tree["args"].name, tree["args"].state) == ("argparse.Namespace", {"lr": 0.1, "data_path": "/data"})
    assert tree["optimizer"]["param_groups"] == [{"lr": 0.1, "betas": (0.9, 0.95)}]
    same(tree["optimizer"]["state"][0]["step"], np.array([1, 2]))
    found = tensors_of(tree)
    assert (found.place, found.dtypes) == ("model", {"w": "float32"})
    assert found.others == {
        "optimizer": "dict of 2",
        "epoch": "int",
        "scaler": "NoneType",
        "args": "argparse.Namespace",
    }
    same(found.tensors["w"], FLOATS)


def _with_items(made: Call, items: dict) -> list[bytes]:
    """PyTorch sets a state dict's items first and its attributes afterwards."""
    pairs = b"".join(opcodes(key) + opcodes(value) for key, value in items.items())
    return [opcodes(made._replace(state=None)), b"(", pairs, b"u", opcodes(made.state), b"b"]


def test_parameters_and_old_tensors_are_tensors(saved) -> None:
    plain = row(24, legacy=saved.legacy)
    whole = storage("FloatStorage", "0", 24, legacy=saved.legacy)
    from_type = Call(
        Global("torch._tensor", "_rebuild_from_type_v2"),
        (plain.function, Global("torch.nn.parameter", "Parameter"), plain.args, {"tag": 1}),
    )
    value = {
        "parameter": Call(Global("torch._utils", "_rebuild_parameter"), (plain, True, Call(ORDERED, ()))),
        "with state": Call(Global("torch._utils", "_rebuild_parameter_with_state"), (plain, True, {}, {"a": 1})),
        "old": Call(Global("torch._utils", "_rebuild_tensor"), (whole, 0, (24,), (1,))),
        "old parameter": Call(Global("torch.nn.parameter", "Parameter"), (plain, True)),
        "with attributes": from_type,
        "size": Call(Global("torch", "Size"), ((2, 3),)),
    }
    tree = read_torch(saved(value, **{"0": FLOATS}))
    assert tree.pop("size") == (2, 3)
    assert len(tree) == 5
    for array in tree.values():
        same(array, FLOATS)


def test_types_without_a_storage_class_are_read_from_bytes(write) -> None:
    def typed(name: str, count: int, nbytes: int):
        stored = storage("UntypedStorage", "0", nbytes, module="torch.storage")
        args = (stored, 0, (count,), (1,), False, Call(ORDERED, ()), Global("torch", name))
        return Call(Global("torch._utils", "_rebuild_tensor_v3"), args)

    raw = np.arange(8, dtype=np.uint8).tobytes()
    tree = read_torch(write(torch_zip({name: typed(name, 8 // n, 8) for name, n in SIZES.items()}, {"0": raw})))
    for name in ("uint16", "uint32", "uint64"):
        same(tree[name], np.frombuffer(raw, name))
    with pytest.raises(ValueError, match="float8_e4m3fn was saved as .*_v3 of torch.float8_e4m3fn, which is not"):
        tensors_of(tree)


SIZES = {"uint16": 2, "uint32": 4, "uint64": 8, "float8_e4m3fn": 1}


@pytest.mark.parametrize(
    ("function", "kind"),
    [("_rebuild_sparse_tensor", None), ("_rebuild_qtensor", "QInt8Storage"), ("_rebuild_nested_tensor", None)],
)
def test_other_kinds_of_tensors_are_refused_only_when_read(function: str, kind, saved) -> None:
    part = storage(kind or "FloatStorage", "0", 24, legacy=saved.legacy)
    strange = Call(Global("torch._utils", function), (part, 0, (24,), (1,)))
    content = {"0": FLOATS.astype(np.int8) if kind else FLOATS, "1": FLOATS}
    value = {"model": {"w": row(24, key="1", legacy=saved.legacy)}, "model_ema": {"w": strange}}
    tree = read_torch(saved(value, **content))
    same(tensors_of(tree).tensors["w"], FLOATS)
    with pytest.raises(ValueError, match=f"^w was saved as torch._utils.{function}, which is not supported"):
        tensors_of(tree, "model_ema")


def test_a_quantized_storage_in_a_plain_tensor_is_refused_by_name(saved) -> None:
    value = {"w": row(24, "QInt8Storage", legacy=saved.legacy)}
    tree = read_torch(saved(value, **{"0": FLOATS.astype(np.int8)}))
    with pytest.raises(ValueError, match="of torch.QInt8Storage, which is not supported"):
        tensors_of(tree)


def test_a_conjugate_view_is_refused_by_name(saved) -> None:
    plain = row(24, "ComplexFloatStorage", legacy=saved.legacy)
    values = np.arange(24, dtype=np.complex64) * 1j
    same(read_torch(saved([plain._replace(args=(*plain.args, {}))], **{"0": values}))[0], values)
    tree = read_torch(saved({"w": plain._replace(args=(*plain.args, {"conj": True}))}, **{"0": values}))
    with pytest.raises(ValueError, match="of a conjugate or negative view, which is not supported"):
        tensors_of(tree)


def test_a_whole_model_is_refused_by_name(saved) -> None:
    module = Call(
        Global("timm.models.vit", "VisionTransformer"), (), {"_parameters": {"w": row(24, legacy=saved.legacy)}}
    )
    with pytest.raises(ValueError, match=r"whole model object \(timm.models.vit.VisionTransformer\); save its state_"):
        tensors_of(read_torch(saved(module, **{"0": FLOATS})))
    with pytest.raises(ValueError, match=r"model \(timm.models.vit.VisionTransformer\) is a whole model object"):
        tensors_of(read_torch(saved({"model": module, "epoch": 1}, **{"0": FLOATS})))


def test_views_of_storages_and_module_sources_of_old_files(write) -> None:
    part = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 24, ("view", 4, 6)))
    module = Persistent(("module", Global("models", "Net"), "net.py", "class Net: ..."))
    path = write(torch_legacy({"w": tensor(part, (5,), (1,), 1), "net": Call(module, ())}, {"0": FLOATS}))
    tree = read_torch(path)
    same(tree["w"], FLOATS[5:10])
    assert tree["net"].name == "models.Net"
    beyond = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 24, ("view", 20, 6)))
    with pytest.raises(ValueError, match="a view of a storage that reaches outside"):
        read_torch(write(torch_legacy(tensor(beyond, (5,), (1,)), {"0": FLOATS})))


def test_the_name_of_the_file_does_not_matter(write) -> None:
    for name in ("pytorch_model.bin", "model.pt", "weights.safetensors", "noname"):
        same(read_torch(str(write(torch_zip({"w": row(24)}, {"0": FLOATS.tobytes()}), name)))["w"], FLOATS)


# What is refused


def test_nothing_runs(saved, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for name, value in attacks(witness).items():
        hostile = {"model": {"w": row(24, legacy=saved.legacy)}, "x": value}
        try:
            found = tensors_of(read_torch(saved(hostile, **{"0": FLOATS})))
            same(found.tensors["w"], FLOATS)
        except ValueError as fault:
            assert "\n" not in str(fault), name
        assert not witness.exists(), name


def test_an_attack_in_place_of_a_tensor_is_refused_or_left_out(saved, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    plain = row(24, legacy=saved.legacy)
    for name, value in attacks(witness).items():
        for made in (plain._replace(args=(value, *plain.args[1:])), plain._replace(args=(*plain.args[:2], value, ()))):
            with pytest.raises(ValueError):
                tensors_of(read_torch(saved({"w": made, "v": plain}, **{"0": FLOATS})))
            assert not witness.exists(), name


def test_a_tensor_outside_of_its_storage_is_refused(saved) -> None:
    for size, stride, offset, message in [
        ((25,), (1,), 0, "reaches to element 24 of a storage of 96 bytes"),
        ((24,), (1,), 1, "reaches to element 24"),
        ((2,), (24,), 0, "reaches to element 24"),
        ((1,), (1,), 24, "reaches to element 24"),
        ((), (), 24, "reaches to element 24"),
        ((2,), (2**62,), 2**62, "reaches to element"),
        ((2**62, 2**62), (2**62, 1), 0, "reaches to element"),
        ((24,), (-1,), 23, "a tensor with an invalid offset, size or stride"),
        ((-24,), (1,), 0, "a tensor with an invalid offset, size or stride"),
        ((24,), (1,), -1, "a tensor with an invalid offset, size or stride"),
        ((24,), (1, 1), 0, "a tensor with an invalid offset, size or stride"),
        ((2.0,), (1,), 0, "a tensor with an invalid offset, size or stride"),
        ((True,), (1,), 0, "a tensor with an invalid offset, size or stride"),
        ((2**64,), (0,), 0, "a tensor with an invalid offset, size or stride"),
        ((2**40,), (0,), 0, "expand to more than 8 times the file"),
        ((2**40, 2**40, 2**40), (0, 0, 0), 0, "expand to more than 8 times the file"),
        ((0, 2**62, 2**62), (0, 0, 0), 0, "cannot be read"),
        ((1,) * 70, (1,) * 70, 0, "a tensor with an invalid offset, size or stride"),
        ((2**62,) * 1000, (0,) * 1000, 0, "a tensor with an invalid offset, size or stride"),
        (LAUGHS, LAUGHS, 0, "a tensor with an invalid offset, size or stride"),
        (None, None, 0, "a tensor with an invalid offset, size or stride"),
        (("x",), ("y",), 0, "a tensor with an invalid offset, size or stride"),
    ]:
        made = tensor(storage("FloatStorage", "0", 24, legacy=saved.legacy), size, stride, offset)
        with pytest.raises(ValueError, match=message) as fault:
            read_torch(saved({"w": made}, **{"0": FLOATS}))
        assert "file.pth cannot be read: " in str(fault.value) and "\n" not in str(fault.value)


def test_many_expanded_tensors_are_refused_together(saved) -> None:
    whole = storage("FloatStorage", "0", 24, legacy=saved.legacy)
    value = [tensor(whole, (2**22,), (0,)) for _ in range(5)]
    with pytest.raises(ValueError, match="expand to more than 8 times the file"):
        read_torch(saved(value, **{"0": FLOATS}))


def test_a_nonsensical_reference_is_refused(write) -> None:
    for reference, message in [
        ("storage", "no storage"),
        (7, "no storage"),
        ((), "no storage"),
        (("module", 1, 2, 3, 4), "no storage"),
        (("storage",), "no storage"),
        (("storage", "FloatStorage", "0", "cpu", 24), "of an unknown form"),
        (("storage", Call(Global("torch", "FloatStorage"), ()), "0", "cpu", 24), "of an unknown form"),
        (("storage", Global("torch", "FloatStorage"), 0, "cpu", 24), "of an unknown form"),
        (("storage", Global("torch", "FloatStorage"), "0", "cpu", 24.0), "of an unknown form"),
        (("storage", Global("torch", "FloatStorage"), "0", "cpu", 25), "claims 100 bytes and has 96"),
        (("storage", Global("torch", "FloatStorage"), "0", "cpu", 2**62), "claims"),
        (("storage", Global("torch", "FloatStorage"), "0", "cpu", -1), "claims -4 bytes"),
        (("storage", Global("torch", "FloatStorage"), "1", "cpu", 24), "storage 1 is not in the archive"),
        (("storage", Global("torch", "FloatStorage"), "../data.pkl", "cpu", 4), "is not in the archive"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_torch(write(torch_zip({"w": tensor(Persistent(reference), (24,), (1,))}, {"0": FLOATS.tobytes()})))


def test_a_strange_legacy_header_is_refused(write) -> None:
    for change, message in [
        (dict(version=1000), "of another version than 1001"),
        (dict(version=LAUGHS), "of another version than 1001"),
        (dict(little=False), "big-endian"),
        (dict(keys=[]), "does not match what the file refers to"),
        (dict(keys=["0", "1"]), "does not match"),
        (dict(keys={"0": 1}), "does not match"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_torch(write(torch_legacy({"w": row(24, legacy=True)}, {"0": FLOATS}, **change)))


def test_legacy_storages_of_absurd_sizes_are_refused(write) -> None:
    for count, message in ((2**60, "is written as 24"), (-1, "is written as 24"), (25, "is written as 24")):
        value = {"w": tensor(storage("FloatStorage", "0", count, legacy=True), (24,), (1,))}
        with pytest.raises(ValueError, match=message):
            read_torch(write(torch_legacy(value, {"0": FLOATS})))
    whole = torch_legacy({"w": tensor(storage("FloatStorage", "0", 2**60, legacy=True), (24,), (1,))}, {"0": FLOATS})
    grown = whole[: -8 - FLOATS.nbytes] + struct.pack("<q", 2**60) + whole[-FLOATS.nbytes :]
    with pytest.raises(ValueError, match="cut off before its storages end"):
        read_torch(write(grown))
    both = [row(24, legacy=True), row(24, "IntStorage", legacy=True)]
    with pytest.raises(ValueError, match="storage 0 is of two types or sizes"):
        read_torch(write(torch_legacy(both, {"0": FLOATS})))
    with pytest.raises(ValueError, match="a storage of an unknown type, torch.OddStorage"):
        read_torch(write(torch_legacy(row(24, "OddStorage", legacy=True), {"0": FLOATS})))


def test_every_cut_is_found(saved) -> None:
    path = saved({"w": row(24, legacy=saved.legacy), "args": NAMESPACE}, **{"0": FLOATS})
    whole = path.read_bytes()
    for end in range(1, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError) as fault:
            read_torch(path)
        assert "\n" not in str(fault.value)
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="cut off"):
        read_torch(path)


def test_every_flipped_byte_is_refused_or_read(saved) -> None:
    """No damage ends in another exception, or in an array outside of the file."""
    path = saved({"w": row(24, legacy=saved.legacy), "args": NAMESPACE}, **{"0": FLOATS})
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    for place in range(0, len(whole), 1 if saved.legacy else 3):
        path.write_bytes(whole[:place] + bytes([draw.integers(256)]) + whole[place + 1 :])
        try:
            found = tensors_of(read_torch(path))
        except ValueError as fault:
            assert "\n" not in str(fault)
        else:
            assert all(tensor.sum() is not None for tensor in found.tensors.values())


# Archives


def test_compressed_archives_are_refused_not_inflated(write) -> None:
    bomb = zip_bytes({**STORED, "archive/data/1": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    with pytest.raises(ValueError, match=r"is compressed \(archive/data.pkl\), which torch.save never does"):
        read_torch(write(bomb))


def test_names_outside_and_names_twice_are_refused(write) -> None:
    for name in ("../evil", "archive/../../evil", "/etc/evil", "archive\\..\\evil"):
        with pytest.raises(ValueError, match="an entry outside of itself"):
            read_torch(write(zip_bytes({**STORED, name: b""})))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile says so too
        twice = zip_bytes([*STORED.items(), ("archive/data.pkl", pickled({}))])
    with pytest.raises(ValueError, match="two entries archive/data.pkl"):
        read_torch(write(twice))


def test_encrypted_archives_are_refused(write) -> None:
    content = bytearray(zip_bytes(STORED))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ValueError, match="is encrypted"):
        read_torch(write(bytes(content)))


def test_entries_that_reach_outside_of_the_file_are_refused(write) -> None:
    whole = zip_bytes(STORED)
    header = whole.rindex(b"PK\x01\x02")
    for place, value in ((20, 2**31), (24, 2**31), (42, 2**31), (42, 5)):
        changed = bytearray(whole)
        struct.pack_into("<I", changed, header + place, value)
        if place in (20, 24):
            struct.pack_into("<II", changed, header + 20, value, value)
        with pytest.raises(ValueError, match="cut off or damaged"):
            read_torch(write(bytes(changed)))


def test_a_directory_of_absurd_length_is_refused(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_directory, "MAX_ENTRIES", 10)
    with pytest.raises(ValueError, match="the archive has 22 entries"):
        read_torch(write(zip_bytes({**STORED, **{f"archive/x{i}": b"" for i in range(20)}})))


def test_64_bit_archives_are_read(tmp_path: Path) -> None:
    """A storage beyond 4 GB, in a file with a hole: sizes and places need the zip64 records."""
    path = tmp_path / "huge.pth"
    raw, nothing = FLOATS.tobytes(), 4 * 2**30
    pickle = pickled({"w": row(24)})
    with path.open("wb") as file:
        places: dict[str, tuple[int, int, int]] = {}
        for name, content in (("archive/data.pkl", pickle), ("archive/data/0", raw)):
            checksum = zlib.crc32(content)
            places[name] = file.tell(), len(content), checksum
            file.write(
                struct.pack("<4s5H3I2H", b"PK\x03\x04", 0, 0, 0, 0, 0, checksum, *[len(content)] * 2, len(name), 0)
            )
            file.write(name.encode() + content)
            if name.endswith("pkl"):
                file.seek(nothing)
        start = file.tell()
        for name, (place, size, checksum) in places.items():
            wide = struct.pack("<HHQ", 1, 8, place) if place >= nothing else b""
            short = 0xFFFFFFFF if wide else place
            sizes = (checksum, size, size, len(name), len(wide), 0, 0, 0, 0, short)
            file.write(struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 0, 0, 0, 0, 0, 0, *sizes))
            file.write(name.encode() + wide)
        end = file.tell()
        file.write(struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, end - start, start))
        file.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2, 2, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    assert zipfile.ZipFile(path).read("archive/data/0") == raw  # the file is as it should be
    same(read_torch(path)["w"], FLOATS)


def test_other_archives_are_refused_by_name(write) -> None:
    for entries, message in [
        ({**STORED, "archive/constants.pkl": b""}, "a TorchScript archive, a program"),
        ({**STORED, "archive/code/__torch__.py": b""}, "a TorchScript archive, a program"),
        ({"weights.npy": b"\x93NUMPY"}, "a NumPy archive"),
        ({"word/document.xml": b"", "mimetype": b""}, "not from torch.save; it holds word/document.xml, mimetype"),
        ({}, "not from torch.save; it holds nothing"),
        ({**STORED, "other/data.pkl": b""}, "without one data.pkl"),
        ({**STORED, "archive/byteorder": b"big"}, "big-endian"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_torch(write(zip_bytes(entries)))


# Other files


OTHERS = {
    "empty": b"",
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "web-page": b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>",
    "text": b"Access denied: your quota is used up\nsecond line\n",
    "tar": b"pytorch_model/".ljust(257, b"\0") + b"ustar\x0000" + bytes(600),
    "compressed": b"\x1f\x8b\x08\x00" + bytes(20),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "safetensors": save({"w": FLOATS}),
    "pickle": pickled({"w": 1}),
    "unknown": b"\x00\x01\x02\x03" * 10,
}


def test_a_file_that_is_something_else_is_named(write) -> None:
    for kind in OTHERS:
        path = write(OTHERS[kind])
        assert kind_of(path) == kind
        with pytest.raises(ValueError) as fault:
            read_torch(path)
        assert str(fault.value).startswith(f"{path} {ADVICE[kind]}") and "\n" not in str(fault.value)


def test_texts_are_quoted_and_pages_in_any_dress_are_known(write) -> None:
    with pytest.raises(ValueError, match="it begins with 'Access denied: your quota is used up'$"):
        read_torch(write(OTHERS["text"]))
    assert kind_of(write(b"12345678{}")) == "text"
    assert kind_of(write(bytes(8) + b"{}")) == "unknown"
    for page in (b"<html>", b"\xef\xbb\xbf<?xml version='1.0'?><Error>", b"<!doctype HTML>"):
        assert kind_of(write(page)) == "web-page"


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.pth does not exist"):
        read_torch(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="is not a file"):
        read_torch(tmp_path)


def test_reading_needs_neither_torch_nor_paddle(write) -> None:
    path = write(torch_zip({"w": row(24)}, {"0": FLOATS.tobytes()}))
    code = (
        "import sys\nfrom paddlemae.weights.formats.torch_file import read_torch\n"
        "import paddlemae.weights.formats.paddle_file\n"
        "print(read_torch(sys.argv[1])['w'].sum(), {'torch', 'paddle', 'pickle'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
    assert done.stdout == "276.0 set()\n" or done.stdout == "276.0 {'pickle'}\n", done.stderr  # NumPy's own


# Memory


MEASURED = """
import re, sys, time
from paddlemae.weights.formats.torch_file import read_torch
from paddlemae.weights.formats.state_dict import tensors_of
def peak():  # not getrusage's, which a process takes over from the one that started it
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
start, before = time.perf_counter(), peak()
tensors = tensors_of(read_torch(sys.argv[1])).tensors
opened = peak() - before
total = sum(float(tensor.sum(dtype="float64")) for tensor in tensors.values())
print(total, time.perf_counter() - start, opened, peak())
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


def measured(path: Path) -> tuple[float, float, int, int]:
    """(sum of all weights, seconds, bytes to open, peak bytes) in a process of its own."""
    done = subprocess.run([sys.executable, "-c", MEASURED, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    total, seconds, opened, peak = done.stdout.split()
    return float(total), float(seconds), int(opened), int(peak)


def write_large(path: Path, shapes: list[tuple[int, ...]], legacy: bool) -> float:
    """Random weights, a storage each, without holding them all; returns their sum."""
    draw = np.random.default_rng(0)
    counts = {str(i): int(np.prod(shape)) for i, shape in enumerate(shapes)}
    value = {"model": {f"w{key}": row(count, key=key, legacy=legacy) for key, count in counts.items()}}
    total = 0.0
    with path.open("wb") as file:
        if legacy:
            file.write(torch_legacy(value, keys=list(counts)))
        archive_ = None if legacy else zipfile.ZipFile(file, "w")
        if archive_:
            archive_.writestr("archive/data.pkl", pickled(value))
        for key, count in counts.items():
            array = draw.random(count, np.float32)
            total += float(array.sum(dtype="float64"))
            if archive_:
                archive_.writestr(f"archive/data/{key}", array.data.cast("B"))
            else:
                file.write(struct.pack("<q", count) + array.tobytes())
        if archive_:
            archive_.close()
    return total


@needs_proc
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_opening_a_file_costs_next_to_nothing(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    total = write_large(path, [(1000, 1000)] * 10, legacy)
    got, _, opened, peak = measured(path)
    assert got == pytest.approx(total, rel=1e-12)
    assert opened < 0.25 * path.stat().st_size < peak


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_of_vit_large_loads_in_seconds_and_its_own_size(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    block = [(3072, 1024), (1024, 1024), (4096, 1024), (1024, 4096), *[(1024,)] * 6, (3072,), (4096,)]
    total = write_large(path, block * 26, legacy)
    size = path.stat().st_size
    assert 1.3e9 < size < 1.4e9
    got, seconds, _, peak = measured(path)
    print(f"\n{size / 1e9:.2f} GB: {seconds:.2f} s, peak {peak / size:.2f} x the file")
    assert got == pytest.approx(total, rel=1e-12)
    assert seconds < 15 and peak < 1.5 * size
