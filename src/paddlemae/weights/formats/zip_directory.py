"""Where a zip archive keeps its entries, so that they can be mapped. Nothing is unpacked.

From the published ZIP layout (PKWARE's APPNOTE: the end of central directory record, its zip64 form, central
directory headers and local headers). Python's `zipfile` does not tell where an entry's data begins, and reads a
directory of any size.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from typing import NamedTuple

from paddlemae.system.display_names import display_name
from paddlemae.weights.formats.mapped_file import release

MAX_ENTRIES = 50_000  # a ViT-Huge with its optimizer has 2,000
MAX_NAME_BYTES = 250
CHUNK_BYTES = 8 * 2**20
END = struct.Struct("<4s4H2IH")
END64_LOCATOR = struct.Struct("<4sIQI")
END64 = struct.Struct("<4sQ2H2I4Q")
CENTRAL = struct.Struct("<4s6H3I5H2I")
LOCAL = struct.Struct("<4s5H3I2H")
ENCRYPTED = 0x1 | 0x40 | 0x2000
ZIP64_EXTRA = 1
IN_ZIP64 = 0xFFFFFFFF
TORN = "the archive is cut off or damaged; download or copy the file again"


class Header(NamedTuple):
    """What the archive's directory states about one entry."""

    raw_name: bytes
    flags: int
    method: int
    packed_size: int
    size: int
    header_offset: int
    checksum: int


class Entry(NamedTuple):
    """Where the data of one entry lies, and its CRC-32."""

    offset: int
    size: int
    checksum: int


def locate_all(data: memoryview, headers: dict[str, Header]) -> dict[str, Entry]:
    """Return the place of every entry's data, by name. No two share a byte, so reading all reads the file once.

    Raises:
        ValueError: damaged, compressed, encrypted, or with entries that overlap.
    """
    entries = {name: locate(data, name, header) for name, header in headers.items()}
    place = 0
    for start, end in sorted((headers[name].header_offset, sum(entry[:2])) for name, entry in entries.items()):
        if start < place:
            raise ValueError("the archive's entries overlap; torch.save writes one after another")
        place = end
    return entries


def verify(data: memoryview, entries: dict[str, Entry]) -> None:
    """Compare every entry with its checksum, or warn that the archive has none.

    PyTorch writes zeros in their place after `torch.serialization.set_crc32_options(False)`.

    Raises:
        ValueError: an entry is not as it was written.
    """
    if not any(entry.checksum for entry in entries.values()):
        warnings.warn("the archive was saved without checksums: damage to its tensors goes unnoticed", stacklevel=2)
        return
    for name, entry in entries.items():
        checksum, end = 0, entry.offset + entry.size
        for start in range(entry.offset, end, CHUNK_BYTES):
            part = data[start : min(start + CHUNK_BYTES, end)]
            checksum = zlib.crc32(part, checksum)
            release(part)
        if checksum != entry.checksum:
            raise ValueError(
                f"{display_name(name)} in the archive is damaged (its checksum differs); download the file again"
            )


def read_directory(data: memoryview) -> dict[str, Header]:
    """Read the headers of all entries, by name.

    Raises:
        ValueError: damaged, or with entries that are named twice or outside of the archive.
    """
    count, start, end = _directory(data)
    if count > MAX_ENTRIES:
        raise ValueError(f"the archive has {count:,} entries; no weights file has more than {MAX_ENTRIES:,}")
    headers: dict[str, Header] = {}
    for _ in range(count):
        if start + CENTRAL.size > end:
            raise ValueError(TORN)
        header, start = _header(data, start)
        if len(header.raw_name) > MAX_NAME_BYTES:
            raise ValueError(f"the archive has an entry with a name of {len(header.raw_name)} bytes")
        name = header.raw_name.decode("utf-8", "replace")
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(
                f"the archive has an entry outside of itself, {display_name(name)}; torch.save never writes one"
            )
        if name in headers:
            raise ValueError(f"the archive has two entries {display_name(name)}; torch.save writes each once")
        headers[name] = header
    return headers


def locate(data: memoryview, name: str, header: Header) -> Entry:
    """Return the place of an entry's data.

    Raises:
        ValueError: damaged, compressed or encrypted.
    """
    if header.flags & ENCRYPTED:
        raise ValueError(
            f"the archive is encrypted ({display_name(name)}); unpack it with its password and save it again"
        )
    if header.method != 0:
        raise ValueError(
            f"the archive is compressed ({display_name(name)}), which torch.save never does; save it again"
        )
    start = header.header_offset + LOCAL.size
    if header.size != header.packed_size or start > len(data):
        raise ValueError(TORN)
    local = LOCAL.unpack_from(data, header.header_offset)
    name_end = start + local[9]
    offset = name_end + local[10]
    if local[0] != b"PK\x03\x04" or data[start:name_end] != header.raw_name or offset + header.size > len(data):
        raise ValueError(TORN)
    return Entry(offset, header.size, header.checksum)


def _directory(data: memoryview) -> tuple[int, int, int]:
    """Return (number of entries, first byte of the directory, last byte + 1)."""
    tail_start = max(0, len(data) - END.size - 0xFFFF)
    place = bytes(data[tail_start:]).rfind(b"PK\x05\x06")
    if place < 0 or tail_start + place + END.size > len(data):
        raise ValueError(TORN)
    place += tail_start
    _, _, _, _, count, size, start, _ = END.unpack_from(data, place)
    locator = place - END64_LOCATOR.size
    if locator >= 0 and bytes(data[locator : locator + 4]) == b"PK\x06\x07":
        place64 = END64_LOCATOR.unpack_from(data, locator)[2]
        if place64 + END64.size > len(data) or bytes(data[place64 : place64 + 4]) != b"PK\x06\x06":
            raise ValueError(TORN)
        count, size, start = END64.unpack_from(data, place64)[7:]
    if start + size > len(data):
        raise ValueError(TORN)
    return count, start, start + size


def _header(data: memoryview, place: int) -> tuple[Header, int]:
    """Return (header, first byte of the next header)."""
    fields = CENTRAL.unpack_from(data, place)
    name_length, extra_length, comment_length = fields[10:13]
    name_start = place + CENTRAL.size
    extra_start = name_start + name_length
    extra_end = extra_start + extra_length
    if fields[0] != b"PK\x01\x02" or extra_end + comment_length > len(data):
        raise ValueError(TORN)
    size, packed_size, offset = _zip64(bytes(data[extra_start:extra_end]), fields[9], fields[8], fields[16])
    header = Header(bytes(data[name_start:extra_start]), fields[3], fields[4], packed_size, size, offset, fields[7])
    return header, extra_end + comment_length


def _zip64(extra: bytes, *fields: int) -> list[int]:
    """Replace the fields that need 64 bits by the values in the zip64 extra field, in order."""
    wide = iter(())
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == ZIP64_EXTRA:
            count = min(length, len(extra) - 4) // 8
            wide = iter(struct.unpack_from(f"<{count}Q", extra, 4))
        extra = extra[4 + length :]
    try:
        return [next(wide) if field == IN_ZIP64 else field for field in fields]
    except (StopIteration, RuntimeError):
        raise ValueError(TORN) from None
