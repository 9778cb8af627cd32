"""Safetensors files of the hostile corpus: headers that lie, and headers that cost."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RAW = np.arange(24, dtype=np.float32).tobytes()
GOOD: dict[str, Any] = {"dtype": "F32", "shape": [24], "data_offsets": [0, 96]}


def written(header: Any, raw: bytes = RAW) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw


def files() -> Iterator[tuple[str, Any, str]]:
    entries: dict[str, Any] = {
        "offsets beyond the file": {"data_offsets": [0, 97]},
        "offsets of 2^62": {"data_offsets": [2**62, 2**62 + 96]},
        "negative offsets": {"data_offsets": [-96, 0]},
        "offsets the wrong way": {"data_offsets": [96, 0]},
        "one offset": {"data_offsets": [0]},
        "offsets that are text": {"data_offsets": ["0", "96"]},
        "fractional offsets": {"data_offsets": [0.0, 96.0]},
        "no offsets": {"data_offsets": None},
        "a shape that is too large": {"shape": [25]},
        "a shape of 2^62 x 4": {"shape": [2**62, 4]},
        "a negative shape": {"shape": [-24]},
        "a shape with true": {"shape": [True, 24]},
        "a fractional shape": {"shape": [24.0]},
        "a shape of text": {"shape": "24"},
        "a shape of 100 dimensions": {"shape": [24] + [1] * 99},
        "a shape of 500,000 dimensions": {"shape": [1] * 300_000},
        "a nested shape": {"shape": [[24]]},
        "an empty shape of 2^62 x 0": {"shape": [2**62, 2**62, 0], "data_offsets": [0, 0]},
        "a number of 3,000 digits": {"shape": [10**3000]},
        "float8": {"dtype": "F8_E4M3", "shape": [96]},
        "float4": {"dtype": "F4", "shape": [192]},
        "an unknown type": {"dtype": "OBJECT"},
        "a type that is a number": {"dtype": 7},
        "a type that is a list": {"dtype": ["F32"]},
    }
    for name, change in entries.items():
        yield name, written({"w": {**GOOD, **change}}), "refused"
    whole = dict(GOOD)
    yield "overlapping tensors", written({"w": GOOD, "v": GOOD}), "refused"
    yield (
        "tensors that overlap in part",
        written({"w": GOOD, "v": {**GOOD, "shape": [12], "data_offsets": [24, 72]}}),
        "refused",
    )
    yield "a hole", written({"w": {**GOOD, "data_offsets": [4, 100]}}, b"    " + RAW), "refused"
    yield "bytes after the last tensor", written({"w": GOOD}, RAW + b"x"), "refused"
    yield "a key twice", written(b'{"w": %b, "w": %b}' % ((json.dumps(whole).encode(),) * 2)), "refused"
    yield (
        "a field twice",
        written(b'{"w": {"dtype": "F32", "dtype": "F32", "shape": [24], "data_offsets": [0, 96]}}'),
        "refused",
    )
    yield "an entry that is a list", written({"w": [1, 2]}), "refused"
    yield "an entry that is nothing", written({"w": None}), "refused"
    yield "metadata that is a list", written({"__metadata__": [1], "w": GOOD}), "refused"
    yield "metadata of numbers", written({"__metadata__": {"format": 1}, "w": GOOD}), "refused"
    yield "no tensors", written({}, b""), "refused"
    yield "only metadata", written({"__metadata__": {"a": "b"}}, b""), "refused"
    yield (
        "names of control letters",
        written({"w": GOOD, "\x1b[31m\n": {**GOOD, "shape": [0], "data_offsets": [96, 96]}}),
        "loaded",
    )
    yield (
        "a name of a lone surrogate",
        written(b'{"\\ud800": {"dtype": "F9", "shape": [24], "data_offsets": [0, 96]}}'),
        "refused",
    )
    for name, text in {
        "a list": b'["w"]',
        "NaN": b'{"w": NaN}',
        "Infinity": b'{"w": -Infinity}',
        "1e999": b'{"w": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 96]}}',
        "cut JSON": b'{"w": {"dtype"',
        "no UTF-8": b'{"\xff": 1}',
        "a comment": b"{/* */}",
        "nothing after": b"{} {}",
        "UTF-16": "{}".encode("utf-16-le"),
        "lists 100,000 deep": b'{"w": ' + b"[" * 100_000,
        "objects 100,000 deep": b'{"a":' * 100_000,
        "900 KB of small objects": b'{"w": [' + b'{"":0},' * 120_000 + b"0]}",
        "900 KB of empty lists": b'{"w": [' + b"[]," * 300_000 + b"0]}",
        "a number of 900,000 digits": b'{"w": ' + b"9" * 900_000 + b"}",
        "20,000 bad entries": json.dumps({f"w{n}": None for n in range(20_000)}).encode(),
        "900 KB of keys that are one": b"{" + b'"a":1,' * 140_000 + b'"a":1}',
    }.items():
        yield f"header: {name}", written(text), "refused"
    tensors = {f"w{n}": {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n in range(12_000)}
    yield "12,000 tensors", written(tensors, bytes(12_000)), "loaded"
    for length in (0, 1, 2**63, 2**64 - 1, 100_000_000):
        yield (
            f"a header of {length} bytes claimed",
            struct.pack("<Q", length) + json.dumps({"w": GOOD}).encode() + RAW,
            "refused",
        )
    yield "a header of 100 MB", sparse(100_000_000), "refused"
    yield "a file of 4 TB, mostly hole", sparse(2**42, claim=2**20), "refused"


def sparse(size: int, claim: int | None = None) -> Any:
    """Write a file whose header claims to be (nearly) all of it; it takes no space on the disk."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(struct.pack("<Q", claim or size) + b"{")
            file.truncate(size + 8)

    return write
