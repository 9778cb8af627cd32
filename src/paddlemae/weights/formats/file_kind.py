"""Detect the kind of a file by its first bytes: weights of a known format, or common mistakes such as a web page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from paddlemae.system.display_names import display_name
from paddlemae.weights.formats.mapped_file import map_file

Content = TypeVar("Content")

# torch.save writes this number, as a pickle of its own, before everything else in its legacy format.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_MAGIC_BYTES = LEGACY_MAGIC.to_bytes(10, "little")
HEAD_BYTES = 1024

OTHER = "another kind of weights file was expected here"  # of kinds that one reader reads and another does not
# kind -> what is wrong with it and how to fix that
ADVICE = {
    "empty": "is empty; download or copy it again",
    "git-lfs": "is a Git LFS pointer, not the weights; fetch them with: git lfs pull",
    "web-page": "is a web page, not weights: the download failed or asked for a login; download it again",
    "text": "is a text file, not weights; it begins with",
    "tar": "is a tar archive; if it is a checkpoint of PyTorch before 0.1.10, save it again with a newer PyTorch, "
    "else unpack it and name the file in it",
    "compressed": "is compressed; unpack it first and name the file in it",
    "hdf5": "is an HDF5 file; PyTorch, Paddle and safetensors files are read",
    "safetensors": f"is a safetensors file; {OTHER}",
    "zip": f"is a zip archive, as PyTorch writes them; {OTHER}",
    "legacy": f"is a PyTorch file of the legacy format; {OTHER}",
    "pickle": f"is a plain pickle, as Paddle writes them; {OTHER}",
    "unknown": "is not a weights file; expected a file of PyTorch, Paddle or safetensors",
}
_STARTS = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"version https://git-lfs.github.com/": "git-lfs",
    b"\x1f\x8b": "compressed",
    b"BZh": "compressed",
    b"\xfd7zXZ\x00": "compressed",
    b"\x28\xb5\x2f\xfd": "compressed",
    b"7z\xbc\xaf\x27\x1c": "compressed",
    b"Rar!": "compressed",
    b"\x89HDF\r\n\x1a\n": "hdf5",
}
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")


def kind_of(path: Path) -> str:
    """Return the kind of a file, one of the keys of `ADVICE`, by its first bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, a pipe or another thing that is no file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a weights file")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; name a weights file")
    with path.open("rb") as file:
        return _kind(file.read(HEAD_BYTES), path.stat().st_size)


def _kind(head: bytes, size: int) -> str:
    if not head:
        return "empty"
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind
    if head[257:262] == b"ustar":
        return "tar"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head[0] == 0x80 and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "legacy" if LEGACY_MAGIC_BYTES in head[:64] else "pickle"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "web-page"
    return "text" if _is_text(head) else "unknown"


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n" for byte in head) and b"\x7f" not in head and head.isascii()


def refusal(path: Path, kind: str) -> ValueError:
    """Return the error for a file of a kind that a reader does not read."""
    advice = ADVICE[kind]
    if kind == "text":
        with path.open("rb") as file:
            advice += f" {display_name(file.read(60).decode('ascii', 'replace').split(chr(10))[0])!r}"
    return ValueError(f"{path} {advice}")


def read_as(path: Path, readers: Mapping[str, Callable[[memoryview], Content]]) -> Content:
    """Map a file and read it with the reader of its kind.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another kind, or its reader refuses it; the error names the file.
    """
    kind = kind_of(path)
    if kind not in readers:
        raise refusal(path, kind)
    try:
        return readers[kind](map_file(path))
    except ValueError as fault:
        raise ValueError(f"{path} cannot be read: {display_name(fault, 300)}") from fault
