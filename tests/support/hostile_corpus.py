"""The hostile corpus: files and folders built to run code, to exhaust memory or time, to crash, or to lie.

`build(folder)` makes them all. Each case says how opening it must end: "refused", or "loaded" with the weights that are
in it (w = 0, 1, .. 23), untouched by what lies next to them.
"""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.support import hostile_folders, hostile_pickles, hostile_safetensors
from tests.support.weight_files import (
    FLOATS,
    LAUGHS,
    MB,
    RAW,
    STORED,
    Call,
    Global,
    Persistent,
    Raw,
    numpy_array,
    pickled,
    row,
    storage,
    tensor,
    torch_file,
    torch_legacy,
    torch_zip,
    zip_bytes,
)


class Case(NamedTuple):
    """One hostile file or folder, and how opening it must end."""

    group: str
    name: str
    path: Path
    ends: str


Made = tuple[str, "bytes | Callable[[Path], None]", str]  # name; content, or what makes it at a path; how it ends


def build(folder: Path) -> list[Case]:
    """Make the whole corpus in an empty folder. Files that would run code would leave `folder/witness`."""
    groups: dict[str, Iterator[Made]] = {
        "code in pickles": hostile_pickles.code(folder / "witness"),
        "pickle machine": hostile_pickles.machine(),
        "bombs in pickles": hostile_pickles.bombs(),
        "tensors and storages": tensors(),
        "zip archives": archives(),
        "legacy headers": legacy_headers(),
        "cut off": cuts(),
        "other files": others(),
        "safetensors": hostile_safetensors.files(),
        "folders": hostile_folders.folders(),
    }
    cases = []
    for group, made in groups.items():
        for name, content, ends in made:
            path = folder / f"{len(cases):03}"
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content(path)
            cases.append(Case(group, name, path, ends))
    return cases


# Tensors


def tensors() -> Iterator[Made]:
    tuples = Raw(b"(" + b"N" * 70_000 + b"t")
    forms: list[tuple[Any, Any, Any]] = [
        ((25,), (1,), 0),
        ((24,), (1,), 1),
        ((2,), (24,), 0),
        ((1,), (1,), 24),
        ((), (), 24),
        ((2,), (2**62,), 2**62),
        ((2**62, 2**62), (2**62, 1), 0),
        ((24,), (-1,), 23),
        ((-24,), (1,), 0),
        ((24,), (1,), -1),
        ((24,), (1, 1), 0),
        ((2.0,), (1,), 0),
        ((True,), (1,), 0),
        ((2**64,), (0,), 0),
        ((2**40,), (0,), 0),
        ((2**40, 2**40, 2**40), (0, 0, 0), 0),
        ((0, 2**62, 2**62), (0, 0, 0), 0),
        ((1,) * 70, (1,) * 70, 0),
        ((2**62,) * 1000, (0,) * 1000, 0),
        (tuples, tuples, 0),
        (None, None, 0),
        (("x",), ("y",), 0),
        ((24,), (1,), None),
        ((24,), (1,), 2**63),
        ([24], [1], 0),
        ((24,), (2**63 - 1,), 0),
    ]
    for legacy in (False, True):
        form = "legacy" if legacy else "zip"
        whole = storage("FloatStorage", "0", 24, legacy=legacy)

        def saved(value: Any, raw: bytes = RAW, legacy: bool = legacy) -> bytes:
            return torch_file(value, {"0": np.frombuffer(raw, np.float32)}, legacy=legacy)

        for size, stride, offset in forms:
            name = f"{form}: size {size!r}, stride {stride!r}, offset {offset!r}"[:100]
            yield name, saved({"w": tensor(whole, size, stride, offset)}), "refused"
        yield (
            f"{form}: 30 tensors of 16 MB from 4 bytes",
            saved([tensor(whole, (2**22,), (0,)) for _ in range(30)]),
            "refused",
        )
        wide = storage("BFloat16Storage", "0", 12 if legacy else 48, legacy=legacy)
        if not legacy:
            expanded = {f"w{n}": tensor(wide, (2**20,), (0,)) for n in range(60)}
            yield "zip: 60 bfloat16 tensors of 2 MB from 2 bytes", saved(expanded), "refused"
            overlap = {f"w{n}": tensor(storage("BFloat16Storage", "0", 2**20), (2**20,), (1,)) for n in range(40)}
            yield "zip: a bfloat16 storage 40 times", saved(overlap, bytes(2**21)), "refused"
        for count in (25, 2**31, 2**62, 2**64, -1, -(2**63)):
            bad = tensor(storage("FloatStorage", "0", count, legacy=legacy), (24,), (1,))
            yield f"{form}: a storage of {count}", saved({"w": bad}), "refused"
        view = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 24, ("0", 20, 6)))
        if legacy:
            yield "legacy: a view beyond its storage", saved({"w": tensor(view, (5,), (1,))}), "refused"
            yield "legacy: a storage of two sizes", saved([row(24, legacy=True), row(23, legacy=True)]), "refused"
            yield (
                "legacy: a storage of two types",
                saved([row(24, legacy=True), row(24, "IntStorage", legacy=True)]),
                "refused",
            )
            yield "legacy: a storage of an unknown type", saved(row(24, "OddStorage", legacy=True)), "refused"
    for value in (
        "storage",
        7,
        (),
        ("module", 1, 2, 3, 4),
        ("storage",),
        ("storage", "FloatStorage", "0", "cpu", 24),
        ("storage", Global("torch", "FloatStorage"), 0, "cpu", 24),
        ("storage", Global("torch", "FloatStorage"), "0", "cpu", 24.0),
        ("storage", Global("torch", "FloatStorage"), "1", "cpu", 24),
        ("storage", Global("torch", "FloatStorage"), "../data.pkl", "cpu", 4),
        ("storage", Global("torch", "FloatStorage"), "/etc/passwd", "cpu", 4),
        ("storage", Global("os", "system"), "0", "cpu", 24),
        ("storage", Call(Global("torch", "FloatStorage"), ()), "0", "cpu", 24),
    ):
        bad = tensor(Persistent(value), (24,), (1,))
        yield f"zip: reference {value!r}"[:100], torch_zip({"w": bad}, {"0": RAW}), "refused"


# Archives


def archives() -> Iterator[Made]:
    whole = zip_bytes(STORED)
    central = whole.index(b"PK\x01\x02")
    last = whole.rindex(b"PK\x01\x02")
    end = whole.rindex(b"PK\x05\x06")

    def changed(place: int, form: str, *values: int, of: bytes = whole) -> bytes:
        content = bytearray(of)
        struct.pack_into(form, content, place, *values)
        return bytes(content)

    yield "deflated bomb of 64 MB", deflated_bomb(), "refused"
    yield "deflated weights", zip_bytes(STORED, zipfile.ZIP_DEFLATED), "refused"
    yield "bzip2 weights", zip_bytes(STORED, zipfile.ZIP_BZIP2), "refused"
    yield "encrypted", changed(central + 8, "<H", 1), "refused"
    for name in ("../evil", "archive/../../evil", "/etc/evil", "archive\\..\\evil", "archive/data/../../../evil"):
        yield f"entry {name}", zip_bytes({**STORED, name: b""}), "refused"
    link = zipfile.ZipInfo("archive/data/0")
    link.external_attr = 0o120777 << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", STORED["archive/data.pkl"])
        archive.writestr(link, "/etc/passwd")
    yield "a storage that is a link", file.getvalue(), "refused"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield "two pickles", zip_bytes([*STORED.items(), ("archive/data.pkl", pickled({}))]), "refused"
        yield "two storages", zip_bytes([*STORED.items(), ("archive/data/0", RAW)]), "refused"
    yield "two roots", zip_bytes({**STORED, "other/data.pkl": b""}), "refused"
    yield "no pickle", zip_bytes({"archive/data/0": RAW}), "refused"
    yield "nothing", zip_bytes({}), "refused"
    yield "a program", zip_bytes({**STORED, "archive/code/x.py": b"import os"}), "refused"
    yield "big-endian", zip_bytes({**STORED, "archive/byteorder": b"big"}), "refused"
    yield "byte order of 10 MB", zip_bytes({**STORED, "archive/byteorder": b"l" * 10**7}), "refused"
    yield "51,000 entries", zip_bytes({**STORED, **{f"archive/x{n}": b"" for n in range(51_000)}}), "refused"
    yield "a name of 60,000 bytes", zip_bytes({**STORED, "x" * 60_000: b""}), "refused"
    yield "a name that is no text", zip_bytes(STORED).replace(b"data/0", b"data/\xff"), "refused"
    yield "damaged storage", whole.replace(RAW, RAW[:-1] + b"\1"), "refused"
    yield "damaged pickle", whole.replace(b"_rebuild", b"_rebuilt"), "refused"
    yield "checksum 0 of one entry", changed(last + 16, "<I", 0), "refused"
    yield "checksums all 0", changed(last + 16, "<I", 0, of=changed(central + 16, "<I", 0)), "loaded"
    for name, place, form, values in (
        ("an entry of 2 GB", last + 20, "<II", (2**31, 2**31)),
        ("sizes that differ", last + 20, "<I", (5,)),
        ("a header beyond the end", last + 42, "<I", (2**31,)),
        ("a header within another", last + 42, "<I", (5,)),
        ("sizes in a missing zip64 field", last + 20, "<II", (2**32 - 1, 2**32 - 1)),
        ("a header in a missing zip64 field", last + 42, "<I", (2**32 - 1,)),
        ("a local name that differs", whole.rindex(b"archive/data/0", 0, central), "<B", (65,)),
        ("a directory beyond the end", end + 16, "<I", (2**31,)),
        ("a directory of 2 GB", end + 12, "<I", (2**31,)),
        ("65,535 entries claimed", end + 8, "<HH", (65535, 65535)),
        ("a name of 65,535 bytes claimed", last + 28, "<H", (65535,)),
        ("an extra field of 65,535 bytes claimed", last + 30, "<H", (65535,)),
        ("a comment of 65,535 bytes claimed", last + 32, "<H", (65535,)),
        ("an unknown method", central + 10, "<H", (99,)),
    ):
        yield name, changed(place, form, *values), "refused"
    yield "no entries claimed", changed(end + 8, "<HH", 0, 0), "refused"
    yield "overlapping entries", overlapping(), "refused"
    for name, record in (
        ("zip64 directory at 2^63", (44, 45, 45, 0, 0, 2, 2, 100, 2**63)),
        ("zip64 of 2^63 entries", (44, 45, 45, 0, 0, 2**63, 2**63, 100, central)),
        ("zip64 of 1,000,000 entries", (44, 45, 45, 0, 0, 10**6, 10**6, end - central, central)),
    ):
        locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
        yield name, whole[:end] + struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", *record) + locator + whole[end:], "refused"
    yield (
        "zip64 record at 2^63",
        whole[:end] + struct.pack("<4sIQI", b"PK\x06\x07", 0, 2**63, 1) + whole[end:],
        "refused",
    )
    yield "an end record within a comment", whole[:-2] + struct.pack("<H", 22) + b"PK\x05\x06" + bytes(18), "refused"
    yield "bytes before the archive", b"PK\x03\x04junk" + whole, "refused"


def deflated_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", STORED["archive/data.pkl"])
        with archive.open("archive/data/0", "w", force_zip64=True) as entry:
            for _ in range(4):
                entry.write(bytes(16 * MB))
    return file.getvalue()


def overlapping() -> bytes:
    """Write 2,000 entries that share one megabyte of data: a reader of all would read 2 GB."""
    whole = zip_bytes({"archive/data.pkl": STORED["archive/data.pkl"], "archive/data/0000": bytes(MB)})
    start, last, end = whole.index(b"PK\x01\x02"), whole.rindex(b"PK\x01\x02"), whole.rindex(b"PK\x05\x06")
    copies = b"".join(whole[last:end] for _ in range(2000))
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2001, 2001, last - start + len(copies), start, 0)
    renamed = bytearray(copies)
    for n in range(2000):
        place = n * (end - last) + 46
        renamed[place : place + 17] = b"archive/data/%04d" % n
    return whole[:last] + bytes(renamed) + tail


# Legacy files, truncation, other files


def legacy_headers() -> Iterator[Made]:
    good, values = {"w": row(24, legacy=True)}, {"0": FLOATS}
    yield "version 1000", torch_legacy(good, values, version=1000), "refused"
    yield "version of laughs", torch_legacy(good, values, version=LAUGHS), "refused"  # type: ignore[arg-type]
    yield "big-endian", torch_legacy(good, values, little=False), "refused"
    for keys in ([], ["0", "1"], {"0": 1}, [0], ["0"] * 50_000, [LAUGHS]):
        yield f"keys {keys!r}"[:60], torch_legacy(good, values, keys=keys), "refused"  # type: ignore[arg-type]
    whole = torch_legacy(good, values)
    for count in (2**60, -1, 25, 0):
        yield f"a storage written as {count}", whole[: -8 - len(RAW)] + struct.pack("<q", count) + RAW, "refused"
    yield "no object", torch_legacy(good, values)[:60], "refused"
    yield "code as the header", whole.replace(pickled(1001), pickled(Call(Global("os", "system"), ("ls",)))), "refused"


def cuts() -> Iterator[Made]:
    import pickle

    from safetensors.numpy import save

    wholes = {
        "zip": torch_zip({"model": {"w": row(24)}, "epoch": 3}, {"0": RAW}),
        "legacy": torch_legacy({"w": row(24, legacy=True)}, {"0": FLOATS}),
        "pickle of protocol 2": pickled({"w": numpy_array(FLOATS, latin=True)}),
        "pickle of protocol 4": pickle.dumps({"w": FLOATS, "n": {"x": [1, 2.5, "text"]}}, 4),
        "safetensors": save({"w": FLOATS, "v": FLOATS}),
    }
    for form, whole in wholes.items():
        for part in (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
            yield f"{form} at {part:.0%}", whole[: max(1, int(len(whole) * part))], "refused"
        yield f"{form} without its last byte", whole[:-1], "refused"


def others() -> Iterator[Made]:
    array = io.BytesIO()
    np.savez(array, w=FLOATS)
    single = io.BytesIO()
    np.save(single, FLOATS)
    for name, content in {
        "empty": b"",
        "web page": b"<!DOCTYPE html><html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid",
        "text": b"Access denied\n",
        "text with escapes": b"\x1b[31mred\x1b]0;title\x07\n",
        "tar": b"x".ljust(257, b"\0") + b"ustar\x0000" + bytes(600),
        "gzip": b"\x1f\x8b\x08\x00" + bytes(50),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(50),
        "npz": array.getvalue(),
        "npy": single.getvalue(),
        "program": b"\x7fELF\x02\x01\x01" + bytes(60),
        "picture": b"\xff\xd8\xff\xe0" + bytes(60),
        "zeros": bytes(5000),
        "ones": b"\xff" * 5000,
        "one byte": b"\x80",
        "PK alone": b"PK\x03\x04",
        "protocol alone": b"\x80\x02",
        "magic alone": pickled(0x1950A86A20F9469CFC6C),
        "protocol 0 pickle": b"cos\nsystem\n(S'ls'\ntR.",
        "noise": np.random.default_rng(0).bytes(5000),
    }.items():
        yield name, content, "refused"
