"""Write PyTorch's files (`torch.save`'s zip format), without PyTorch.

From the same description as `torch_file`: a zip archive, uncompressed, of a pickle that names storages and of one entry
a storage. The pickle is written opcode by opcode: Python's pickler would want to import the functions that it names.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage", "int64": "LongStorage"}
ROOT = "archive"
ALIGNMENT = 64  # of a storage in the file, as torch.save has it: so a mapped file's arrays are aligned
PADDING = 0x4246  # torch.save's kind of an extra field that is there for its length
LOCAL_HEADER = 30  # bytes, before an entry's name
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # a zip's earliest time: the same tensors give the same file


def write_torch(path: Path, tensors: Mapping[str, np.ndarray], wrapper: str | None = None) -> None:
    """Write a state dict as `torch.save` would.

    Args:
        tensors: name -> float32, float16, float64 or int64 array; of any strides.
        wrapper: the key that holds it, such as "model"; None: the file is the state dict itself.
    Raises:
        ValueError: an array of another type.
        OSError: no space or no permission.
    """
    for name, array in tensors.items():
        if array.dtype.name not in STORAGES:
            raise ValueError(f"{name} is {array.dtype.name}; PyTorch files are written of {', '.join(STORAGES)}")
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, file, "data.pkl", _pickle(tensors, wrapper))
        _add(archive, file, "byteorder", b"little")
        for number, array in enumerate(tensors.values()):
            stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            _add(archive, file, f"data/{number}", stored.data.cast("B") if stored.size else b"")
        _add(archive, file, "version", b"3\n")


def _add(archive: zipfile.ZipFile, file: IO[bytes], name: str, content: bytes | memoryview) -> None:
    entry = zipfile.ZipInfo(f"{ROOT}/{name}", LONG_AGO)
    start = file.tell() + LOCAL_HEADER + len(entry.filename) + 4  # an extra field begins with four bytes
    entry.extra = struct.pack("<2H", PADDING, -start % ALIGNMENT) + bytes(-start % ALIGNMENT)
    archive.writestr(entry, content)  # any buffer will do


def _pickle(tensors: Mapping[str, np.ndarray], wrapper: str | None) -> bytes:
    parts = b"".join(_text(name) + _tensor(number, array) for number, (name, array) in enumerate(tensors.items()))
    state = b"ccollections\nOrderedDict\n)R(" + parts + b"u"
    return b"\x80\x02" + (state if wrapper is None else b"}" + _text(wrapper) + state + b"s") + b"."


def _tensor(number: int, array: np.ndarray) -> bytes:
    """Write the call of PyTorch's function that rebuilds a contiguous tensor from a storage."""
    storage = f"ctorch\n{STORAGES[array.dtype.name]}\n".encode()
    reference = b"(" + _text("storage") + storage + _text(str(number)) + _text("cpu") + _number(array.size) + b"tQ"
    strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
    sizes = b"".join(b"(" + b"".join(map(_number, one)) + b"t" for one in (array.shape, strides))
    no_hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + _number(0) + sizes + b"\x89" + no_hooks + b"tR"


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw
