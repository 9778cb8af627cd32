"""Zip files, read where they are: stored or deflated entries, each checked by its sum; nothing is unpacked."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.limits import check_room, room_for
from paddlemae.data.sources.archive_entries import is_hidden, leads_out, normalise_path, read_from
from paddlemae.data.sources.readers import file_stamp
from paddlemae.data.sources.string_table import StringTable

_LOCAL_HEADER = 30  # bytes, then name and extra field of the lengths that it has at 26 and 28
_LOCAL_START = b"PK\3\4"
_ENCRYPTED, _UTF8 = 0x1, 0x800  # flags
_UNIX, _WINDOWS = 3, (0, 10, 11, 14)  # systems that an entry was made on: FAT, NTFS, VFAT
_UNICODE_PATH = 0x7075  # an extra field
_LINK = 0o120000  # of the mode that Unix programs store
_TYPE = 0o170000


@dataclass(frozen=True, eq=False)
class ZipContents:
    """Entries of a zip file, read on demand."""

    root: str
    path: str
    files: StringTable
    headers: NDArray[np.int64]  # where each entry's local header is
    packed_sizes: NDArray[np.int64]
    sizes: NDArray[np.int64]
    sums: NDArray[np.uint32]
    methods: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.files)

    def describe(self, i: int) -> str:
        return f"{self.path}, entry {self.files[i]}"

    def stored_bytes(self, i: int) -> int:
        return int(self.packed_sizes[i])

    def content(self, i: int, max_image_bytes: int) -> bytes:
        method, size = int(self.methods[i]), int(self.sizes[i])
        check_room(size, room_for(self.stored_bytes(i), max_image_bytes))
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"compressed by method {method}; pack it again, stored or deflated")
        with open(self.path, "rb", buffering=0) as file:
            packed = read_from(file, data_offset(file, int(self.headers[i])), int(self.packed_sizes[i]))
        if method == zipfile.ZIP_DEFLATED:
            try:
                packed = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
            except zlib.error as fault:
                raise ValueError(f"damaged in its archive ({fault})") from fault
        if len(packed) != size or zlib.crc32(packed) != self.sums[i]:
            raise ValueError("damaged in its archive: its checksum differs")
        return packed

    def stamp(self, i: int) -> str:
        return f"{os.path.relpath(self.path, self.root)}\0{self.files[i]}\0{int(self.sums[i])}\0{file_stamp(self.path)}"


def data_offset(file: io.FileIO, header: int) -> int:
    """Return the offset of an entry's bytes, after its local header; a ValueError if there is none."""
    local = read_from(file, header, _LOCAL_HEADER)
    if not local.startswith(_LOCAL_START):
        raise ValueError("damaged in its archive: no entry where one should be")
    return header + _LOCAL_HEADER + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")


def read_directory(path: str) -> list[zipfile.ZipInfo]:
    """Return what a zip file's directory lists; a damaged or short file is a ValueError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as fault:
        raise ValueError(f"{path!r} is cut short or damaged ({fault}); copy it again") from fault


def zip_entries(archive: str) -> Iterator[tuple[str, str, zipfile.ZipInfo]]:
    """Return the entries of a zip as its directory lists them.

    Each is its path below the folder of unpacking (with "/" for the "\\" of Windows' programs), its kind, and what the
    directory says of it. The kinds are "file", "folder", "hidden", which a folder's listing passes over, and "other",
    which no image may come from: links, encrypted entries, and absolute names or such with "..".

    Raises:
        ValueError: damaged, or cut short.
    """
    listed = read_directory(archive)
    stored = [_stored_name(info) for info in listed]
    has_slash = any("/" in name for name in stored)
    for name, info in zip(stored, listed):
        if "\\" in name and "/" not in name and (info.create_system in _WINDOWS or not has_slash):
            name = name.replace("\\", "/")
        is_folder = name.endswith("/")
        is_link = info.external_attr >> 16 & _TYPE == _LINK
        if leads_out(name):
            yield name, "other", info
        elif is_hidden((path := normalise_path(name)) + "/" * is_folder):
            yield path, "hidden", info
        else:
            is_file = not is_link and not info.flag_bits & _ENCRYPTED
            yield path, "folder" if is_folder else "file" if is_file else "other", info


def begins_with_entry(path: str) -> bool:
    """Return whether a file's first bytes are those of a zip's entry."""
    with open(path, "rb") as file:
        return file.read(len(_LOCAL_START)) == _LOCAL_START


def _stored_name(info: zipfile.ZipInfo) -> str:
    """Return an entry's name; without a mark that it is UTF-8, Unix programs store the bytes of the file's name."""
    if info.flag_bits & _UTF8 or info.create_system != _UNIX or info.orig_filename.isascii():
        return info.filename
    stored = info.orig_filename.encode("cp437")
    return _unicode_path(info.extra, stored) or os.fsdecode(stored.partition(b"\0")[0])


def _unicode_path(extra: bytes, stored: bytes) -> str | None:
    """Return the UTF-8 name in an entry's extra fields, unless it belongs to another name."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field[:1] == b"\1" and field[1:5] == struct.pack("<I", zlib.crc32(stored)):
            return os.fsdecode(field[5:])
    return None


def zip_contents(path: str, names: Sequence[str], infos: Sequence[zipfile.ZipInfo]) -> ZipContents:
    """Return entries of a zip by their `zip_entries` names; a number that no file can have is a ValueError."""

    def column(values: Iterable[int], dtype: type) -> NDArray[Any]:
        try:
            return np.fromiter(values, dtype, len(infos))
        except OverflowError:
            raise ValueError(f"{path!r} is damaged: the size or place of an entry is invalid; copy it again") from None

    return ZipContents(
        os.path.dirname(path) or ".",
        path,
        StringTable.of(names),
        column((info.header_offset for info in infos), np.int64),
        column((info.compress_size for info in infos), np.int64),
        column((info.file_size for info in infos), np.int64),
        column((info.CRC for info in infos), np.uint32),
        column((info.compress_type for info in infos), np.uint16),
    )
