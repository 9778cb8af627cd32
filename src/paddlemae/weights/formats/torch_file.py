"""PyTorch's files (.pth, .pt, .bin; zip and legacy format) without PyTorch, and without running what they hold.

The zip format keeps a pickle, `<root>/data.pkl`, and each storage as an entry `<root>/data/<key>`. The legacy format is
a row of pickles (a magic number, a version, the sender's byte order, the object, the storages' keys) and then the
storages, each after its number of elements. In both, a tensor is a call of a rebuilding function with a storage (a
persistent id), an offset, a size and strides. Described by PyTorch's `torch/serialization.py` and `torch/_utils.py`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.system.display_names import display_name
from paddlemae.weights.formats.file_kind import LEGACY_MAGIC, read_as
from paddlemae.weights.formats.mapped_file import view_array
from paddlemae.weights.formats.pickle_calls import PLAIN, Functions, is_shape
from paddlemae.weights.formats.pickles import read_pickle
from paddlemae.weights.formats.state_dict import BFloat16, Opaque
from paddlemae.weights.formats.zip_directory import locate_all, read_directory, verify

LEGACY_VERSION = 1001
BFLOAT16 = "bfloat16"
DTYPES: dict[str, np.dtype] = {
    **{name: np.dtype(name).newbyteorder("<") for name in ("float64", "float32", "float16", "complex64", "complex128")},
    **{f"int{bits}": np.dtype(f"int{bits}").newbyteorder("<") for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": np.dtype(f"uint{bits}").newbyteorder("<") for bits in (8, 16, 32, 64)},
    "bool": np.dtype(bool),
    BFLOAT16: np.dtype("<u2"),  # its bits
}
STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": BFLOAT16,
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    # bytes, to which the tensor says what they are
    "torch.storage.UntypedStorage": "uint8",
    "torch.storage._UntypedStorage": "uint8",
    "torch.UntypedStorage": "uint8",
}
# Storages whose tensors are not read, but which the legacy format must be able to skip: bytes an element.
SKIPPED_STORAGES = {
    "torch.QInt8Storage": 1,
    "torch.QUInt8Storage": 1,
    "torch.QUInt4x2Storage": 1,
    "torch.QUInt2x4Storage": 1,
    "torch.QInt32Storage": 4,
}
# Views may overlap or repeat (tied weights, expanded buffers), but not without end. Those of bfloat16 are copied when
# they are widened, to twice their size.
MAX_EXPANSION = 8
FREE_BYTES = 64 * 2**20
FREE_BFLOAT16_BYTES = 16 * 2**20


def read_torch(path: str | Path) -> Any:
    """Read a file of torch.save as `torch.load` would, but into plain values.

    Args:
        path: a file; its content decides its kind, not its name.
    Returns:
        Dicts (whatever mapping they were), lists, tuples, plain values, read-only NumPy arrays, `BFloat16` arrays, and
        `Opaque` for everything else. Arrays and byte strings over 64 KB are views of the file, which is mapped: it is
        read when they are, must not be changed meanwhile, and arrays of the legacy format may be unaligned.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or damaged, or built to harm.
    """
    return read_as(Path(path), {"zip": _read_zip, "legacy": _read_legacy})


@dataclass(frozen=True, eq=False)
class _Storage:
    """A contiguous row of elements in the file."""

    dtype: np.dtype
    name: str
    offset: int
    nbytes: int


class _Tensors:
    """Creates arrays from the storages of a mapped file, within limits."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.to_give = MAX_EXPANSION * len(data) + FREE_BYTES
        self.to_widen = len(data) + FREE_BFLOAT16_BYTES

    def functions(self) -> Functions:
        """Return the replacements for the calls in a PyTorch pickle."""
        return {
            **PLAIN,
            "torch._utils._rebuild_tensor": self.rebuild,
            "torch._utils._rebuild_tensor_v2": self.rebuild_v2,
            "torch._utils._rebuild_tensor_v3": self.rebuild_v3,
            "torch._utils._rebuild_parameter": lambda data, *rest: data,
            "torch._utils._rebuild_parameter_with_state": lambda data, *rest: data,
            "torch.nn.parameter.Parameter": lambda data, *rest: data,
            "torch._tensor._rebuild_from_type_v2": self.rebuild_from_type,
            "torch.Size": _size,
        }

    def rebuild(self, storage: Any, offset: Any, size: Any, stride: Any) -> Any:
        if not isinstance(storage, Opaque):
            raise TypeError("no storage")
        if not isinstance(storage.state, _Storage):
            return Opaque(f"torch._utils._rebuild_tensor_v2 of {storage.name}", (storage,))
        return self.view(storage.state, storage.state.dtype, storage.state.name, offset, size, stride)

    def rebuild_v2(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any = None, hooks: Any = None, flags: Any = None
    ) -> Any:
        if flags:  # the values are to be conjugated or negated on reading
            return Opaque("torch._utils._rebuild_tensor_v2 of a conjugate or negative view", (storage, flags))
        return self.rebuild(storage, offset, size, stride)

    def rebuild_v3(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, flags: Any = None
    ) -> Any:
        """Rebuild a tensor whose type has no storage class: its storage is bytes."""
        if not isinstance(dtype, Opaque) or not isinstance(storage, Opaque):
            raise TypeError("no type or no storage")
        name = dtype.name.removeprefix("torch.")
        if flags or name not in DTYPES or not isinstance(storage.state, _Storage):
            return Opaque(f"torch._utils._rebuild_tensor_v3 of {dtype.name}", (storage, dtype, flags))
        return self.view(storage.state, DTYPES[name], name, offset, size, stride)

    def rebuild_from_type(self, function: Any, kind: Any, args: Any, state: Any = None) -> Any:
        """Rebuild a tensor with Python attributes, which are dropped; a subclass becomes `Opaque`."""
        functions: Functions = {
            "torch._utils._rebuild_tensor_v2": self.rebuild_v2,
            "torch._utils._rebuild_tensor_v3": self.rebuild_v3,
            "torch._utils._rebuild_parameter": lambda data, *rest: data,
        }
        rebuild = functions.get(function.name)
        if not isinstance(args, tuple):
            raise TypeError("arguments that are no tuple")
        if rebuild is None or kind.name not in ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter"):
            return Opaque(f"torch._tensor._rebuild_from_type_v2 of {kind.name}", args)
        return rebuild(*args)

    def view(self, storage: _Storage, dtype: np.dtype, name: str, offset: Any, size: Any, stride: Any) -> Any:
        """Return a tensor's array: a view of its storage that does not reach outside it."""
        if not (is_shape((offset,)) and is_shape(size) and is_shape(stride)) or len(size) != len(stride):
            raise ValueError("a tensor with an invalid offset, size or stride")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        if 0 not in size and (last + 1) * dtype.itemsize > storage.nbytes:
            raise ValueError(f"a tensor reaches to element {last} of a storage of {storage.nbytes} bytes")
        nbytes = math.prod(size) * dtype.itemsize
        self.to_give -= nbytes
        self.to_widen -= nbytes if name == BFLOAT16 else 0
        if self.to_give < 0:
            raise ValueError(f"its tensors expand to more than {MAX_EXPANSION} times the file; no weights file does")
        if self.to_widen < 0:
            raise ValueError("its bfloat16 tensors repeat until they outgrow the file; no weights file's do")
        start = storage.offset + offset * dtype.itemsize
        array = view_array(self.data, dtype, size, start, [step * dtype.itemsize for step in stride])
        return BFloat16(array) if name == BFLOAT16 else array


def _size(lengths: Any = ()) -> tuple[int, ...]:
    if not isinstance(lengths, (list, tuple)):
        raise TypeError("no list of lengths")
    return tuple(lengths)


def _storage_id(value: Any, length: int) -> tuple[Opaque, str, int]:
    """Return (type, key, number of elements) of a persistent id."""
    if not isinstance(value, tuple) or len(value) != length or value[0] != "storage":
        raise ValueError("a reference to data that is no storage; PyTorch writes no other")
    _, kind, key, _device, count = value[:5]
    if not isinstance(kind, Opaque) or kind.args is not None or type(key) is not str or type(count) is not int:
        raise ValueError("a reference to a storage of an unknown form")
    return kind, key, count


# Zip


def _read_zip(data: memoryview) -> Any:
    directory = read_directory(data)
    root = _root(list(directory))  # first: other archives are recognised by names before their entries are read
    entries = locate_all(data, directory)
    order = entries.get(f"{root}/byteorder")
    if order and bytes(data[order.offset : order.offset + min(order.size, 16)]) != b"little":
        raise ValueError("it was written on a big-endian machine; save it again on a usual one")
    verify(data, entries)
    tensors = _Tensors(data)

    def storage(value: Any) -> Opaque:
        kind, key, count = _storage_id(value, 5)
        entry = entries.get(f"{root}/data/{key}")
        if entry is None:
            raise ValueError(f"storage {display_name(key)} is not in the archive; download or copy the file again")
        name = STORAGES.get(kind.name)
        if name is None:
            return Opaque(kind.name, (key,))
        nbytes = count * DTYPES[name].itemsize
        if not 0 <= nbytes <= entry.size:
            raise ValueError(f"storage {display_name(key)} claims {nbytes} bytes and has {entry.size}")
        return Opaque(kind.name, (key,), _Storage(DTYPES[name], name, entry.offset, nbytes))

    place = entries[f"{root}/data.pkl"]
    pickle = data[place.offset : place.offset + place.size]
    return read_pickle(pickle, functions=tensors.functions(), persistent=storage)[0]


def _root(names: list[str]) -> str:
    """Return the folder of the archive that holds all its entries."""
    if any(name.split("/")[1:2] in (["constants.pkl"], ["code"]) for name in names):
        raise ValueError("it is a TorchScript archive, a program; save the state_dict() of torch.jit.load's model")
    roots = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) == 1:
        return roots[0]
    if any(name.endswith(".npy") for name in names):
        raise ValueError("it is a NumPy archive; PyTorch, Paddle and safetensors files are read")
    held = ", ".join(display_name(name, 40) for name in names[:3]) or "nothing"
    raise ValueError(f"a zip archive without one data.pkl, so not from torch.save; it holds {held}")


# Legacy


def _read_legacy(data: memoryview) -> Any:
    place = 0
    header = []
    for _ in range(3):
        value, place = read_pickle(data, place, functions={})
        header.append(value)
    magic, version, sender = header
    if magic != LEGACY_MAGIC or version != LEGACY_VERSION:
        raise ValueError(f"a legacy file of another version than {LEGACY_VERSION}, which PyTorch has never written")
    if not isinstance(sender, dict) or sender.get("little_endian") is not True:
        raise ValueError("it was written on a big-endian machine; save it again on a usual one")
    # Where the storages lie is known only after the object that refers to them: it is read twice.
    counts: dict[str, tuple[Opaque, int]] = {}
    keys, storages_start = read_pickle(
        data, read_pickle(data, place, functions=PLAIN, persistent=_collector(counts))[1], functions={}
    )
    storages = _legacy_storages(data, storages_start, keys, counts)
    return read_pickle(data, place, functions=_Tensors(data).functions(), persistent=_giver(storages))[0]


def _collector(counts: dict[str, tuple[Opaque, int]]) -> Callable[[Any], Opaque]:
    def collect(value: Any) -> Opaque:
        if isinstance(value, tuple) and value[:1] == ("module",):
            return Opaque("torch.nn.Module source")
        kind, key, count = _storage_id(value, 6)
        known, known_count = counts.setdefault(key, (kind, count))
        if (known.name, known_count) != (kind.name, count):
            raise ValueError(f"storage {display_name(key)} is of two types or sizes")
        return Opaque(kind.name)

    return collect


def _giver(storages: dict[str, Opaque]) -> Callable[[Any], Any]:
    def give(value: Any) -> Any:
        if value[0] == "module":  # (_, class, source file, source): the class is all that is looked at
            return value[1]
        whole, window = storages[value[2]], value[5]
        if window is None or not isinstance(whole.state, _Storage):
            return whole
        _, start, count = window
        size = whole.state.dtype.itemsize
        if not all(type(n) is int and n >= 0 for n in (start, count)) or (start + count) * size > whole.state.nbytes:
            raise ValueError("a view of a storage that reaches outside of it")
        part = _Storage(whole.state.dtype, whole.state.name, whole.state.offset + start * size, count * size)
        return Opaque(whole.name, whole.args, part)

    return give


def _legacy_storages(
    data: memoryview, place: int, keys: Any, counts: dict[str, tuple[Opaque, int]]
) -> dict[str, Opaque]:
    """Find each storage: its number of elements in 8 bytes, then the elements."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(counts):
        raise ValueError("the list of storages does not match what the file refers to; download or copy it again")
    storages = {}
    for key in keys:
        kind, count = counts[key]
        name = STORAGES.get(kind.name)
        itemsize = DTYPES[name].itemsize if name else SKIPPED_STORAGES.get(kind.name)
        if itemsize is None:
            raise ValueError(f"a storage of an unknown type, {display_name(kind.name)}; save the tensor as float32")
        if place + 8 > len(data):
            raise ValueError("it is cut off before its storages end; download or copy it again")
        (written,) = struct.unpack_from("<q", data, place)
        if written != count or count < 0:
            raise ValueError(f"storage {display_name(key)} of {count} elements is written as {written}")
        if place + 8 + count * itemsize > len(data):
            raise ValueError("it is cut off before its storages end; download or copy it again")
        found = _Storage(DTYPES[name], name, place + 8, count * itemsize) if name else None
        storages[key] = Opaque(kind.name, (key,), found)
        place += 8 + count * itemsize
    return storages
