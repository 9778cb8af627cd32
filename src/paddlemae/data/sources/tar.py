"""Tar files, read where they are: the index of their entries is made in one pass over the headers, nothing is unpacked.

The format is POSIX ustar with pax and GNU long names. Python's tarfile reads it too, but takes ten times as long for
an index, which a run of a million images waits for, and passes over a file that is cut short.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.sources.names import Names
from paddlemae.data.sources.source import file_stamp
from paddlemae.data.sources.stored import is_hidden, leads_out, read_range

_BLOCK = 512
_BUFFER = 1 << 14  # small files and their headers are read together, large ones passed over
_SUM, _BLANK_SUM = slice(148, 156), 8 * ord(" ")  # a header's sum, which counts itself as blanks
_FILES, _FOLDER, _LONG_NAME, _PAX = (b"0", b"\0", b"7"), b"5", b"L", b"x"
_NO_ENTRIES = (b"K", b"g")  # a link's long name; what is said of all that follow
_LONGEST_NAME = _LONGEST_CONTENT = 1 << 20  # bytes; a name or label that claims more is none


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a tar: where its bytes are, and these if they were asked for."""

    name: str
    offset: int
    size: int
    content: bytes | None = None


@dataclass(frozen=True, eq=False)
class TarContents:
    """Entries of tar files, read on demand."""

    root: str
    tars: tuple[str, ...]
    which: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    files: Names

    def __len__(self) -> int:
        return len(self.which)

    def describe(self, i: int) -> str:
        return f"{self.tars[self.which[i]]}, entry {self.files[i]}"

    def stored_bytes(self, i: int) -> int:
        return int(self.sizes[i])

    def content(self, i: int, max_image_bytes: int) -> bytes:
        return read_range(self.tars[self.which[i]], int(self.offsets[i]), int(self.sizes[i]))

    def stamp(self, i: int) -> str:
        tar = self.tars[self.which[i]]
        return f"{os.path.relpath(tar, self.root)}\0{self.files[i]}\0{file_stamp(tar)}"


def entries(path: str, wanted: Callable[[str], bool], refused: list[str]) -> Iterator[Entry]:
    """The plain files in a tar, as it stores them.

    Args:
        wanted: whether an entry's content, if it is short, is to come with it; by its name.
        refused: gets the names of entries that no image may come from: links, devices, sparse files, and absolute names
            or such with "..", which lead out of the archive.
    Raises:
        ValueError: damaged, or cut short.
    """
    length = os.path.getsize(path)
    with open(path, "rb", buffering=_BUFFER) as file:
        place, long_name, long_size, is_sparse = 0, "", -1, False
        while True:
            file.seek(place)
            header = file.read(_BLOCK)
            if len(header) < _BLOCK:
                raise ValueError(f"{path!r} is cut short: it ends at {length} bytes without an end mark; copy it again")
            if not header[0] and not any(header):
                return
            kind, size = header[156:157], _number(header[124:136], path)
            if sum(header) - sum(header[_SUM]) + _BLANK_SUM != _number(header[_SUM], path):
                raise ValueError(f"{path!r} is damaged at byte {place}: a wrong checksum; copy it again")
            offset = place + _BLOCK
            own_size = size if long_size < 0 or kind in (_LONG_NAME, _PAX) else long_size
            place = offset + -(-own_size // _BLOCK) * _BLOCK
            if offset + own_size > length:
                name = os.fsdecode(header[:100].rstrip(b"\0"))
                raise ValueError(
                    f"{path!r} is cut short: entry {long_name or name!r} needs {own_size} bytes and "
                    f"{max(0, length - offset)} are there; copy it again"
                )
            if kind in (_LONG_NAME, _PAX):
                content = file.read(min(size, _LONGEST_NAME))
                if kind == _LONG_NAME:
                    long_name = os.fsdecode(content.rstrip(b"\0"))
                else:
                    long_name, long_size, is_sparse = _from_pax(content, long_name)
                continue
            if kind in _NO_ENTRIES:
                continue
            name = (long_name or _name(header)).removeprefix("./")
            if kind not in _FILES or is_sparse or leads_out(name):
                if kind != _FOLDER:
                    refused.append(name)
            elif not is_hidden(name):
                has_content = own_size <= _LONGEST_CONTENT and wanted(name)
                yield Entry(name, offset, own_size, file.read(own_size) if has_content else None)
            long_name, long_size, is_sparse = "", -1, False


def _number(field: bytes, path: str) -> int:
    """Octal digits, or, with the first bit set, the number itself."""
    try:
        return int.from_bytes(field[1:], "big") if field[0] & 0x80 else int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise ValueError(f"{path!r} is no tar file, or a damaged one") from None


def _name(header: bytes) -> str:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    is_posix = header[257:263] == b"ustar\0"  # GNU's own format has other things there
    return os.fsdecode(prefix + b"/" + name if is_posix and prefix else name)


def _from_pax(content: bytes, name: str) -> tuple[str, int, bool]:
    """(path, size or -1, whether only parts of the file are stored) of a pax header: records of "length key=value"."""
    size, is_sparse = -1, False
    while content:
        length, _, rest = content.partition(b" ")
        if not length.isdigit() or int(length) <= len(length) + 1:
            break
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        content = content[int(length) :]
        if key == b"path":
            name = os.fsdecode(value)
        elif key == b"size" and value.isdigit():
            size = int(value)
        elif key.startswith(b"GNU.sparse."):
            is_sparse = True
    return name, size, is_sparse


def is_tar(path: str | Path) -> bool:
    """Whether a file starts as a tar does."""
    with open(path, "rb") as file:
        return file.read(_BLOCK)[257:262] == b"ustar"
