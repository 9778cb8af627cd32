"""Zip files, read where they are: stored or deflated entries, each checked by its sum; nothing is unpacked."""

import io
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.limits import check_room, room_for
from paddlemae.data.sources.names import Names
from paddlemae.data.sources.source import file_stamp
from paddlemae.data.sources.stored import is_hidden, leads_out, read_from

_LOCAL_HEADER = 30  # bytes, then name and extra field of the lengths that it has at 26 and 28
_LOCAL_START = b"PK\3\4"
_ENCRYPTED = 0x1
_LINK = 0o120000  # of the mode that Unix programs store
_TYPE = 0o170000


@dataclass(frozen=True, eq=False)
class ZipContents:
    """Entries of a zip file, read on demand."""

    root: str
    path: str
    files: Names
    headers: NDArray[np.int64]  # where each entry's local header is
    packed_sizes: NDArray[np.int64]
    sizes: NDArray[np.int64]
    sums: NDArray[np.uint32]
    methods: NDArray[np.uint8]

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
            raise ValueError("damaged in its archive: its checksum is another one")
        return packed

    def stamp(self, i: int) -> str:
        return f"{os.path.relpath(self.path, self.root)}\0{self.files[i]}\0{int(self.sums[i])}\0{file_stamp(self.path)}"


def data_offset(file: io.FileIO, header: int) -> int:
    """Where an entry's bytes are, behind its local header.

    Raises:
        ValueError: there is none.
    """
    local = read_from(file, header, _LOCAL_HEADER)
    if not local.startswith(_LOCAL_START):
        raise ValueError("damaged in its archive: no entry where one should be")
    return header + _LOCAL_HEADER + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")


def infos(path: str) -> list[zipfile.ZipInfo]:
    """What a zip file's directory lists.

    Raises:
        ValueError: damaged, or cut short.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as fault:
        raise ValueError(f"{path!r} is cut short or damaged ({fault}); copy it again") from fault


def zip_contents(path: str, is_wanted: Callable[[str], bool], refused: list[str]) -> ZipContents:
    """The plain files of a zip whose names are wanted, sorted by name.

    Args:
        is_wanted: of a name.
        refused: gets the names of links, encrypted entries, and such with absolute paths or "..".
    """
    found = []
    for info in infos(path):
        name = info.filename.removeprefix("./")
        if info.is_dir():
            continue
        is_link = info.external_attr >> 16 & _TYPE == _LINK
        if is_link or info.flag_bits & _ENCRYPTED or leads_out(name):
            refused.append(name)
        elif not is_hidden(name) and is_wanted(name):
            found.append((name, info))
    found.sort(key=lambda each: each[0])

    def column(values, dtype) -> NDArray:
        return np.fromiter(values, dtype, len(found))

    return ZipContents(
        os.path.dirname(path) or ".",
        path,
        Names.of(name for name, _ in found),
        column((info.header_offset for _, info in found), np.int64),
        column((info.compress_size for _, info in found), np.int64),
        column((info.file_size for _, info in found), np.int64),
        column((info.CRC for _, info in found), np.uint32),
        column((info.compress_type for _, info in found), np.uint8),
    )
