"""safetensors files, mapped and not copied, after their header is checked.

The layout: the header's length in 8 bytes, the header as JSON (name -> dtype, shape and where its bytes lie, and
`__metadata__`), the tensors' bytes in a row without holes. Described by safetensors' own README; the package's NumPy
reader copies and knows no bfloat16.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.system.display_names import display_name
from paddlemae.system.documents import MAX_BYTES, parse_object
from paddlemae.weights.formats.file_kind import read_as
from paddlemae.weights.formats.mapped_file import view_array
from paddlemae.weights.formats.pickle_calls import is_shape
from paddlemae.weights.formats.state_dict import BFloat16

METADATA = "__metadata__"
BFLOAT16 = "BF16"
DTYPES: dict[str, np.dtype] = {
    **{f"F{bits}": np.dtype(f"float{bits}").newbyteorder("<") for bits in (64, 32, 16)},
    **{f"I{bits}": np.dtype(f"int{bits}").newbyteorder("<") for bits in (64, 32, 16, 8)},
    **{f"U{bits}": np.dtype(f"uint{bits}").newbyteorder("<") for bits in (64, 32, 16, 8)},
    "C64": np.dtype("<c8"),
    "BOOL": np.dtype(bool),
    BFLOAT16: np.dtype("<u2"),  # its bits
}


def read_safetensors(path: str | Path, most: int = MAX_BYTES) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a safetensors file.

    Args:
        path: its content decides what it is, not its name.
        most: bytes of its header.
    Returns:
        (name -> read-only array or `BFloat16`, each a view of the mapped file; the metadata).
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, damaged, or holds a type that is not read, such as float8.
    """
    return read_as(Path(path), {"safetensors": lambda data: _read(data, most)})


def _read(data: memoryview, most: int) -> tuple[dict[str, Any], dict[str, str]]:
    length = int.from_bytes(data[:8], "little")
    if length > most:
        raise ValueError(f"its header claims {length:,} bytes; no weights file needs more than {most:,}")
    if 8 + length > len(data):
        raise ValueError("it is cut off; download or copy the file again")
    header = parse_object(bytes(data[8 : 8 + length]), most)
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is no object of texts")
    places = {name: _place(name, entry) for name, entry in header.items()}
    _check_row([place[2:] for place in places.values()], len(data) - 8 - length)
    tensors: dict[str, Any] = {}
    for name, (dtype, shape, start, _) in places.items():
        array = view_array(data, DTYPES[dtype], shape, 8 + length + start)
        tensors[name] = BFloat16(array) if dtype == BFLOAT16 else array
    return tensors, metadata


def _place(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Return (dtype, shape, first byte, last byte + 1) of one tensor, each value checked."""
    keys = ("dtype", "shape", "data_offsets")
    if not isinstance(entry, dict) or not all(key in entry for key in keys):
        raise ValueError(f"tensor {display_name(name)} lacks one of {', '.join(keys)}")
    dtype, shape, offsets = (entry[key] for key in keys)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(
            f"tensor {display_name(name)} is of the unsupported type {display_name(dtype, 20)}; save it as float32"
        )
    if not isinstance(shape, list) or not is_shape(tuple(shape)):
        raise ValueError(f"tensor {display_name(name)} has an impossible shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not is_shape(tuple(offsets)):
        raise ValueError(f"tensor {display_name(name)} has impossible offsets")
    start, end = offsets
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if end - start != size:
        raise ValueError(f"tensor {display_name(name)} of {display_name(size, 30)} bytes is given {end - start}")
    return dtype, tuple(shape), start, end


def _check_row(spans: list[tuple[int, int]], size: int) -> None:
    """Check that the tensors cover the data from the first byte to the last without gap or overlap."""
    place = 0
    for start, end in sorted(spans):
        if start != place:
            raise ValueError("its tensors overlap or leave holes; no writer makes such a file")
        place = end
    if place != size:
        raise ValueError(f"its tensors take {place:,} bytes and the file has {size:,}; download or copy it again")
