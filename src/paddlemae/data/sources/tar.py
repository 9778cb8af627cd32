"""Tar files, read where they are: the index of their entries is made in one pass over the headers, nothing is unpacked.

The format is POSIX ustar with pax and GNU long names. Python's tarfile reads it too, but takes ten times as long for
an index, which a run of a million images waits for, and passes over a file that is cut short.
"""

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import has_ending
from paddlemae.data.sources.archive_entries import is_hidden, leads_out, normalise_path, read_range, visible_folders
from paddlemae.data.sources.readers import file_stamp
from paddlemae.data.sources.string_table import StringTable

_BLOCK = 512
_BUFFER = 1 << 14  # small files and their headers are read together, large ones passed over
_SUM, _BLANK_SUM = slice(148, 156), 8 * ord(" ")  # a header's sum, which counts itself as blanks
_SUM_MODULUS = 65521
_PREFIX = 345  # where folders begin that the name has no room for
_FILES, _FOLDERS, _HARD_LINK = (b"0", b"\0", b"7"), (b"5", b"D"), b"1"
_LONG_NAME, _LONG_TARGET = b"L", b"K"
_OVERRIDING = (_LONG_NAME, _LONG_TARGET, b"x", b"X")  # headers of the next entry: these, pax
_NO_ENTRIES = (b"g", b"V")  # what holds for all that follow; the name of a volume
_NO_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")  # whatever size they state
_SPARSE, _SPARSE_MORE, _SPARSE_MORE_AGAIN = b"S", 482, 504  # GNU's: whether a block follows with more of its map
_LONGEST_NAME = _LONGEST_CONTENT = 1 << 20  # bytes; a name or label that claims more is none
_ZEROS = 1 << 20  # bytes behind an end mark that are looked at together


class Entry(NamedTuple):
    """An entry of a tar.

    Attributes:
        name: its path below the folder of unpacking.
        kind: "hidden" is a file that a folder's listing passes over; "copy" a hard link to the earlier entry `target`;
            "other" what no image may come from: symbolic links, devices, sparse files, and absolute names or such with
            "..", which lead out of the archive.
        offset: where its bytes begin.
        content: these bytes, if they were asked for.
    """

    name: str
    kind: Literal["file", "folder", "copy", "hidden", "other"]
    offset: int = 0
    size: int = 0
    content: bytes | None = None
    target: str = ""


class _Overrides(NamedTuple):
    """Values for an entry in the headers before it; "" and -1 where there are none."""

    name: str = ""
    target: str = ""
    size: int = -1
    is_sparse: bool = False


_NO_OVERRIDES = _Overrides()


@dataclass(frozen=True, eq=False)
class TarContents:
    """Entries of tar files, read on demand."""

    root: str
    tars: tuple[str, ...]
    which: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    files: StringTable

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


def read_entries(path: str, with_content: Callable[[str], bool]) -> Iterator[Entry]:
    """Return the entries of a tar as it stores them, and those of tars joined to it.

    Args:
        with_content: of a file's name, whether its content, if it is short, comes with its entry.
    Raises:
        ValueError: damaged, or cut short.
    """
    length = os.path.getsize(path)
    with open(path, "rb", buffering=_BUFFER) as file:
        place, overrides, has_ended = 0, _NO_OVERRIDES, False
        while True:
            file.seek(place)
            header = file.read(_BLOCK)
            if len(header) == _BLOCK and not header[0] and not any(header):
                if (place := _behind_zeros(file, place)) < 0:
                    return
                has_ended = True
                continue
            if not _has_its_sum(header):
                raise ValueError(_describe_fault(path, place, length, len(header) < _BLOCK, has_ended))
            kind, offset = header[156:157], place + _BLOCK
            if kind == _SPARSE:
                offset += _sparse_map_size(file, header)
            size = _size(path, kind, header, overrides)
            place = offset + -(-size // _BLOCK) * _BLOCK
            if offset + size > length:
                name = overrides.name or os.fsdecode(header[:100].rstrip(b"\0"))
                raise ValueError(
                    f"{path!r} is cut short: entry {name!r} needs {size} bytes and {max(0, length - offset)} are "
                    "there; copy it again"
                )
            if kind in _OVERRIDING:
                overrides = _read_override(kind, file.read(min(size, _LONGEST_NAME)), overrides)
            elif kind not in _NO_ENTRIES:
                entry = _entry(kind, header, overrides, offset, size)
                overrides = _NO_OVERRIDES
                has_content = entry.kind == "file" and size <= _LONGEST_CONTENT and with_content(entry.name)
                yield Entry(*entry[:4], file.read(size)) if has_content else entry


def _behind_zeros(file: BinaryIO, place: int) -> int:
    """Return where the block begins that has the first byte behind zeros, or -1 if there are only zeros."""
    file.seek(place)
    while content := file.read(_ZEROS):
        if rest := content.lstrip(b"\0"):
            return (place + len(content) - len(rest)) // _BLOCK * _BLOCK
        place += len(content)
    return -1


def _has_its_sum(header: bytes) -> bool:
    """Return whether a block is a header; some old programs add the bytes up as signed numbers."""
    if len(header) < _BLOCK:
        return False
    byte_sum = (zlib.adler32(header) & 0xFFFF) - 1  # modulo 65521, in a tenth of the time that `sum` takes
    try:
        missing = byte_sum - sum(header[_SUM]) + _BLANK_SUM - _number(header[_SUM])
    except ValueError:
        return False
    return not missing % _SUM_MODULUS or missing == 256 * sum(
        byte > 127 for byte in header[: _SUM.start] + header[_SUM.stop :]
    )


def _describe_fault(path: str, place: int, length: int, is_short: bool, has_ended: bool) -> str:
    """Return what is wrong where no entry begins."""
    if has_ended:
        return (
            f"{path!r} has {length - place} bytes behind its end mark that are no entries of a tar; copy it again, or "
            f"cut them off: truncate -s {place}"
        )
    if is_short:
        return f"{path!r} is cut short: it ends at {length} bytes without an end mark; copy it again"
    return f"{path!r} is no tar file, or damaged at byte {place}: a wrong checksum; copy it again"


def _size(path: str, kind: bytes, header: bytes, overrides: _Overrides) -> int:
    """Return how many bytes an entry has."""
    if kind in _NO_CONTENT:
        return 0
    if overrides.size >= 0 and kind not in _OVERRIDING:
        return overrides.size
    try:
        if (size := _number(header[124:136])) >= 0:
            return size
    except ValueError:
        pass
    raise ValueError(f"{path!r} is damaged: the size of entry {_name(header)!r} is no number; copy it again")


def _sparse_map_size(file: BinaryIO, header: bytes) -> int:
    """Return the bytes of the blocks between a sparse file's header and its content."""
    size, has_more = 0, bool(header[_SPARSE_MORE])
    while has_more:
        block = file.read(_BLOCK)
        size += _BLOCK
        has_more = len(block) == _BLOCK and bool(block[_SPARSE_MORE_AGAIN])
    return size


def _entry(kind: bytes, header: bytes, overrides: _Overrides, offset: int, size: int) -> Entry:
    stored = overrides.name or _name(header)
    name = normalise_path(stored)
    if leads_out(stored):
        return Entry(stored, "other")
    is_folder = kind in _FOLDERS or (kind in _FILES and stored.endswith("/"))  # as before POSIX
    is_file = kind in _FILES and not is_folder and not overrides.is_sparse
    if is_hidden(name + "/" * is_folder):
        return Entry(name, "hidden", offset, size) if is_file else Entry(visible_folders(name).rstrip("/"), "folder")
    if is_folder:
        return Entry(name, "folder")
    if is_file:
        return Entry(name, "file", offset, size)
    target = overrides.target or os.fsdecode(header[157:257].partition(b"\0")[0])
    return Entry(name, "copy" if kind == _HARD_LINK else "other", target=normalise_path(target))


def _number(field: bytes) -> int:
    """Return the number in a header's field: octal digits, or, with the first bit set, bytes; else a ValueError."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ")
    return int(digits.partition(b"\0")[0] if b"\0" in digits else digits or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[_PREFIX] and header[257:263] == b"ustar\0":  # GNU's own format has other things there
        name = header[_PREFIX:500].partition(b"\0")[0] + b"/" + name
    return os.fsdecode(name)


def _read_override(kind: bytes, content: bytes, overrides: _Overrides) -> _Overrides:
    """Return what is known of the next entry with what one more header says: GNU's long names, or pax records."""
    if kind == _LONG_NAME:
        return overrides._replace(name=os.fsdecode(content.partition(b"\0")[0]))
    if kind == _LONG_TARGET:
        return overrides._replace(target=os.fsdecode(content.partition(b"\0")[0]))
    while content:  # records of "length key=value"
        length, _, rest = content.partition(b" ")
        if not length.isdigit() or int(length) <= len(length) + 1:
            break
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        content = content[int(length) :]
        if key in (b"path", b"GNU.sparse.name"):
            overrides = overrides._replace(name=os.fsdecode(value))
        elif key == b"linkpath":
            overrides = overrides._replace(target=os.fsdecode(value))
        elif key == b"size" and value.isdigit():
            overrides = overrides._replace(size=int(value))
        if key.startswith(b"GNU.sparse."):
            overrides = overrides._replace(is_sparse=True)
    return overrides


def is_tar(path: str | Path) -> bool:
    """Return whether a file begins as a tar does, or, if it is called so, as an empty one."""
    with open(path, "rb") as file:
        header = file.read(_BLOCK)
    if not any(header):
        return len(header) == _BLOCK and has_ending(os.fspath(path), (".tar",))
    return header[257:262] == b"ustar" or _has_its_sum(header)
