"""Paddle's files: read as Paddle wrote them, and never run."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlemae.weights.formats.paddle_file import read_paddle
from paddlemae.weights.formats.state_dict import BFloat16, Opaque, tensors_of
from tests.support.weight_files import (
    Call,
    Global,
    Persistent,
    attacks,
    numpy_array,
    pickled,
    row,
    torch_legacy,
    torch_zip,
    writer,
)

WEIGHTS = {
    "fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fc.bias": np.ones(3, np.float16),
    "steps": np.array(7, np.int64),
    "mask": np.array([True, False]),
}


@pytest.fixture
def write(tmp_path: Path):
    return writer(tmp_path, "file.pdparams")


def same(one: np.ndarray, other: np.ndarray) -> None:
    assert one.dtype == other.dtype and one.shape == other.shape
    np.testing.assert_array_equal(one, other)


def small_model() -> nn.Layer:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv2D(3, 4, 2))


# What Paddle writes


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_state_dict_of_paddle_is_read_exactly(protocol: int, tmp_path: Path) -> None:
    model = small_model()
    path = tmp_path / "model.pdparams"
    paddle.save(model.state_dict(), str(path), protocol=protocol)
    found = tensors_of(read_paddle(path))
    wanted = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert list(found.tensors) == list(wanted) and found.place == "" and not found.skipped
    for name, array in wanted.items():
        same(found.tensors[name], array)


@pytest.mark.parametrize(
    "dtype", ["float64", "float16", "int8", "int16", "int32", "int64", "uint8", "bool", "complex64"]
)
def test_every_type_is_read_exactly(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    tensor = paddle.to_tensor([0, 1, 1]).astype(dtype)
    paddle.save({"w": tensor}, str(path))
    same(read_paddle(path)["w"], tensor.numpy())


def test_bfloat16_is_distinguished_and_widened_exactly(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    tensor = paddle.randn([5, 3]).astype("bfloat16")
    paddle.save({"w": tensor}, str(path))
    tree = read_paddle(path)
    assert isinstance(tree["w"], BFloat16)
    found = tensors_of(tree)
    assert found.dtypes == {"w": "bfloat16"}
    same(found.tensors["w"], tensor.astype("float32").numpy())


@pytest.mark.parametrize("protocol", [2, 4])
def test_an_optimizers_state_is_read(protocol: int, tmp_path: Path) -> None:
    model = small_model()
    rate = paddle.optimizer.lr.CosineAnnealingDecay(0.1, 10)
    optimizer = paddle.optimizer.AdamW(rate, parameters=model.parameters())
    model[0](paddle.ones([2, 3])).sum().backward()
    optimizer.step()
    path = tmp_path / "model.pdopt"
    paddle.save(optimizer.state_dict(), str(path), protocol=protocol)
    tree = read_paddle(path)
    wanted = optimizer.state_dict()
    assert set(tree) == set(wanted)
    assert tree["LR_Scheduler"] == wanted["LR_Scheduler"]
    for name, value in wanted.items():
        if name not in ("LR_Scheduler", "master_weights"):
            same(tree[name], value.numpy())


def test_tensors_outside_of_state_dicts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mixed.pdparams"
    layer = nn.Linear(2, 2)
    saved = {"epoch": 3, "list": [layer.weight, {"b": layer.bias}], "pair": ("name", 1), "model": layer.state_dict()}
    paddle.save(saved, str(path))
    tree = read_paddle(path)
    same(tree["list"][0], layer.weight.numpy())
    same(tree["list"][1]["b"], layer.bias.numpy())
    assert tree["pair"] == ("name", 1)
    found = tensors_of(tree)
    assert found.place == "model" and set(found.tensors) == {"weight", "bias"}
    assert found.others == {"epoch": "int", "list": "list of 2", "pair": "tuple of 2"}


def test_one_tensor_alone_is_read(tmp_path: Path) -> None:
    path = tmp_path / "one.pdtensor"
    paddle.save(paddle.ones([2]), str(path))
    same(read_paddle(path), np.ones(2, np.float32))


def test_a_static_graphs_tensor_is_recognised_and_not_evaluated(write, tmp_path: Path) -> None:
    array = numpy_array(WEIGHTS["fc.weight"])
    for module in ("builtins", "__builtin__"):
        tree = read_paddle(write(pickled({"w": Call(Global(module, "eval"), ("data", {"data": array}))})))
        same(tree["w"], WEIGHTS["fc.weight"])
    witness = tmp_path / "witness"
    code = f"open({str(witness)!r}, 'w')"
    for args in ((code,), (code, {"data": array}), ("data", {"data": array}, {}), ("data", {"data": 1}), ("data",)):
        tree = read_paddle(write(pickled({"w": Call(Global("builtins", "eval"), args)})))
        assert isinstance(tree["w"], Opaque) and tree["w"].name == "builtins.eval"
    assert not witness.exists()


def test_large_arrays_that_old_protocols_cut_are_put_together(write) -> None:
    """As paddle.save does beyond 1 GB with protocols 2 and 3."""
    whole = np.arange(10, dtype=np.float32)
    saved = {"a": numpy_array(np.ones(2, np.float32)), "w@@.0": numpy_array(whole[:6]), "w@@.1": numpy_array(whole[6:])}
    table = {"w": {"OriginShape": (2, 5), "slices": ["w@@.0", "w@@.1"]}}
    tree = read_paddle(write(pickled({**saved, "UnpackBigParamInfor@@": table})))
    assert set(tree) == {"a", "w"}
    same(tree["w"], whole.reshape(2, 5))
    assert not tree["w"].flags.writeable
    shared = Call(Global("builtins", "set"), ([1],))
    for bad in (
        7,
        {"w": 7},
        {"w": {"slices": ["w@@.0"]}},
        {"w": {"OriginShape": (2, 5), "slices": ["w@@.0"]}},
        {"w": {"OriginShape": (2, 5), "slices": ["w@@.0", "w@@.0"]}},
        {"w": {"OriginShape": (2, 5), "slices": ["w@@.0", "nowhere"]}},
        {"w": {"OriginShape": (2, 5), "slices": shared}},
        {"w": {"OriginShape": "x", "slices": ["w@@.0", "w@@.1"]}},
    ):
        with pytest.raises(ValueError, match="the slices of its large arrays do not fit together"):
            read_paddle(write(pickled({**saved, "UnpackBigParamInfor@@": bad})))


def test_a_bomb_of_slices_is_stopped(write) -> None:
    """Many slices that are all the same bytes."""
    raw = pickle.dumps({str(i): i for i in range(3)})
    assert read_paddle(write(raw)) == {"0": 0, "1": 1, "2": 2}
    array = np.zeros(1_000_000, np.float32)
    saved: dict = {f"w@@.{i}": array for i in range(10)}
    saved["UnpackBigParamInfor@@"] = {"w": {"OriginShape": (10_000_000,), "slices": list(saved)}}
    with pytest.raises(ValueError, match="do not fit together"):
        read_paddle(write(pickle.dumps(saved, 4)))


def test_the_table_of_names_is_left_out(write) -> None:
    table = {"fc.weight": "linear_0.w_0"}
    saved = {"fc.weight": numpy_array(WEIGHTS["fc.weight"]), "StructuredToParameterName@@": table}
    assert set(read_paddle(write(pickled(saved)))) == {"fc.weight"}
    assert set(read_paddle(write(pickled({"model": saved})))["model"]) == {"fc.weight"}


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("latin", [False, True])
def test_files_of_either_numpy_are_read(core: str, latin: bool, write) -> None:
    saved = {name: numpy_array(array, core=core, latin=latin) for name, array in WEIGHTS.items()}
    tree = read_paddle(write(pickled(saved)))
    for name, array in WEIGHTS.items():
        same(tree[name], array)


def test_arrays_are_views_of_the_file(write) -> None:
    array = np.arange(100_000, dtype=np.float32)
    path = write(pickle.dumps(OrderedDict(w=array), 4))
    got = read_paddle(path)["w"]
    same(got, array)
    assert not got.flags.writeable and not got.flags.owndata


# What is refused


def test_nothing_runs(write, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    array = numpy_array(WEIGHTS["fc.weight"])
    for name, value in attacks(witness).items():
        for tree in ({"w": array, "x": value}, value):
            try:
                read = read_paddle(write(pickled(tree)))
                if isinstance(read, dict) and "w" in read:
                    same(read["w"], WEIGHTS["fc.weight"])
            except ValueError as fault:
                assert "\n" not in str(fault), name
            assert not witness.exists(), name


def test_paddle_itself_would_run_them(write, tmp_path: Path) -> None:
    """The reason for this reader: `paddle.load` executes, with `return_numpy` too."""
    witness = tmp_path / "witness"
    path = write(pickled(attacks(witness)["os.system"]))
    paddle.load(str(path), return_numpy=True)
    assert witness.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; download or copy it again"),
        (b"<!DOCTYPE html><html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (torch_zip({"w": row(2)}, {"0": bytes(8)}), "is a zip archive, as PyTorch writes them; another kind"),
        (torch_legacy({}, {}), "is a PyTorch file of the legacy format"),
        (pickled({"w": 1})[:-1], "cut off"),
        (pickled({"w": 1}) + b"x", "1 bytes follow the pickle"),
        (pickled({"w": Persistent(("storage",))}), "refers to data outside the file"),
    ],
)
def test_other_files_are_named(content: bytes, message: str, write) -> None:
    with pytest.raises(ValueError, match=message) as fault:
        read_paddle(write(content))
    assert str(fault.value).count("\n") == 0 and "file.pdparams" in str(fault.value)


def test_models_for_inference_are_named(write) -> None:
    with pytest.raises(ValueError, match="is a model for inference; name the .pdparams file"):
        read_paddle(write(bytes(100), "model.pdiparams"))
    with pytest.raises(ValueError, match="is not a weights file"):
        read_paddle(write(bytes(100)))
