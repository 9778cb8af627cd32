"""Write PyTorch's and Paddle's files from the description of their formats: valid ones and hostile ones."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C


def writer(folder: Path, usual_name: str) -> Callable[..., Path]:
    """Return a function that writes bytes to a file of the folder and returns its path."""

    def write(content: bytes, name: str = usual_name) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return write


class Global(NamedTuple):
    """A class or function, by name."""

    module: str
    name: str


class Call(NamedTuple):
    """What a function returns, and the state that is set on the result."""

    function: Any
    args: Any
    state: Any = None


class Persistent(NamedTuple):
    """A reference to data outside of the pickle."""

    value: Any


class Raw(NamedTuple):
    """Opcodes as they are."""

    code: bytes


class Put(NamedTuple):
    """A value that is kept in the memo."""

    key: int
    value: Any


class Get(NamedTuple):
    """A value from the memo."""

    key: int


def pickled(value: Any) -> bytes:
    """Return a pickle of protocol 2."""
    return b"\x80\x02" + opcodes(value) + b"."


def opcodes(value: Any) -> bytes:  # one line a kind
    simple = {id(None): b"N", id(True): b"\x88", id(False): b"\x89"}
    if id(value) in simple:
        return simple[id(value)]
    if isinstance(value, Raw):
        return value.code
    if isinstance(value, Put):
        return opcodes(value.value) + b"r" + struct.pack("<I", value.key)
    if isinstance(value, Get):
        return b"j" + struct.pack("<I", value.key)
    if isinstance(value, Global):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        state = b"" if value.state is None else opcodes(value.state) + b"b"
        return opcodes(value.function) + opcodes(value.args) + b"R" + state
    if isinstance(value, Persistent):
        return opcodes(value.value) + b"Q"
    if isinstance(value, int):
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, bytes):  # protocol 3 and later
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(opcodes, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(opcodes, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(opcodes(key) + opcodes(part) for key, part in value.items()) + b"u"
    raise TypeError(type(value))


# PyTorch


ORDERED = Global("collections", "OrderedDict")


def storage(kind: str, key: str, count: int, *, legacy: bool = False, module: str = "torch") -> Persistent:
    extra = (None,) if legacy else ()
    return Persistent(("storage", Global(module, kind), key, "cpu", count, *extra))


def tensor(stored: Any, size: tuple, stride: tuple, offset: int = 0) -> Call:
    args = (stored, offset, size, stride, False, Call(ORDERED, ()))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), args)


def row(count: int, kind: str = "FloatStorage", key: str = "0", *, legacy: bool = False) -> Call:
    """Return a tensor that is its whole storage."""
    return tensor(storage(kind, key, count, legacy=legacy), (count,), (1,))


def zip_bytes(entries: Mapping[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries.items() if isinstance(entries, Mapping) else entries:
            archive.writestr(name, content)
    return file.getvalue()


def torch_zip(value: Any, storages: Mapping[str, bytes] = {}, **more: bytes) -> bytes:
    pickle = value if isinstance(value, bytes) else pickled(value)
    entries = {"archive/data.pkl": pickle, "archive/byteorder": b"little", "archive/version": b"3\n"}
    entries |= {f"archive/data/{key}": raw for key, raw in storages.items()}
    return zip_bytes(entries | {f"archive/{name}": content for name, content in more.items()})


def torch_file(value: Any, arrays: Mapping[str, np.ndarray], *, legacy: bool) -> bytes:
    """Return a file of either format; storages are named in the format's own way, see `row`."""
    if legacy:
        return torch_legacy(value, arrays)
    return torch_zip(value, {key: array.tobytes() for key, array in arrays.items()})


def torch_legacy(
    value: Any,
    storages: Mapping[str, np.ndarray] = {},
    *,
    keys: list[str] | None = None,
    version: int = 1001,
    little: bool = True,
) -> bytes:
    sender = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = pickled(MAGIC) + pickled(version) + pickled(sender) + pickled(value)
    rows = [struct.pack("<q", len(array)) + array.tobytes() for array in storages.values()]
    return head + pickled(list(storages) if keys is None else keys) + b"".join(rows)


# NumPy, as in Paddle's files


def numpy_dtype(code: str, order: str = "<") -> Call:
    return Call(Global("numpy", "dtype"), (code, False, True), (3, order, None, None, None, -1, -1, 0))


def numpy_array(array: np.ndarray, *, core: str = "numpy.core", latin: bool = False) -> Call:
    raw: Any = array.tobytes()
    if latin:  # protocol 2 has no bytes
        raw = Call(Global("_codecs", "encode"), (raw.decode("latin-1"), "latin1"))
    order = "|" if array.dtype.itemsize == 1 else "<"
    state = (1, array.shape, numpy_dtype(array.dtype.str[1:], order), False, raw)
    make = Global(f"{core}.multiarray", "_reconstruct")
    return Call(make, (Global("numpy", "ndarray"), (0,), b"b"), state)


# Attacks: all would create the file `witness` if the pickle were run


def attacks(witness: Path) -> dict[str, Any]:
    """Return values whose unpickling runs code."""
    touch = f"open({str(witness)!r}, 'w').close()"
    shell = f"touch {witness}"
    system = Call(Global("posix", "system"), (shell,))
    hook = Call(Global("builtins", "eval"), (f"lambda *a: {touch}",))
    return {
        "os.system": Call(Global("os", "system"), (shell,)),
        "posix.system": system,
        "eval": Call(Global("builtins", "eval"), (touch,)),
        "exec of Python 2": Call(Global("__builtin__", "exec"), (touch,)),
        "subprocess": Call(Global("subprocess", "check_call"), (["touch", str(witness)],)),
        "runpy": Call(Global("runpy", "_run_code"), (touch, {})),
        "getattr": Call(Call(Global("builtins", "getattr"), (Global("os", "x"), "system")), (shell,)),
        "open": Call(Global("io", "open"), (str(witness), "w")),
        "dotted name": Call(Raw(b"\x8c\x02os\x8c\x06system\x93"), (shell,)),
        "torch's own": Call(Global("torch.serialization", "load"), (str(witness),)),
        "as a key": {system: 1},
        "in a list": [system],
        "setstate": Call(Global("builtins", "Exception"), (), {"__setstate__": hook}),
        "setstate by build": Call(Call(Global("argparse", "Namespace"), (), {"__setstate__": hook}), (), shell),
        "state of a class": Call(Global("argparse", "Namespace"), (), {"__reduce__": hook}),
        "INST": Raw(b"(" + opcodes(shell) + b"ios\nsystem\n"),
        "OBJ": Raw(b"(" + opcodes(Global("os", "system")) + opcodes(shell) + b"o"),
        "NEWOBJ": Raw(opcodes(Global("os", "system")) + opcodes((shell,)) + b"\x81"),
        "NEWOBJ_EX": Raw(opcodes(Global("os", "system")) + opcodes((shell,)) + opcodes({"a": 1}) + b"\x92"),
        "default factory": Call(Global("collections", "defaultdict"), (Global("os", "system"),)),
        "numpy loads": Call(Global("numpy", "load"), (str(witness), None, True)),
    }


# What most of the files hold


FLOATS = np.arange(24, dtype=np.float32)
RAW = FLOATS.tobytes()
WEIGHTS = numpy_array(FLOATS)
NUMPY = "numpy.core.multiarray"
MB = 2**20
# the least entries of an archive
STORED = {"archive/data.pkl": pickled({"w": row(24)}), "archive/data/0": RAW}
# a tuple of 51 tuples, each of which holds the one before ten times: whoever prints or hashes it never ends
LAUGHS = Raw(b"(" + opcodes(Put(0, ("x",))) + b"".join(opcodes(Put(i + 1, (Get(i),) * 10)) for i in range(50)) + b"t")
