"""Where a zip archive keeps its entries, so that they can be mapped. Nothing is unpacked.

From the published ZIP layout (PKWARE's APPNOTE: the end of central directory record, its zip64 form, central
directory headers and local headers). Python's `zipfile` does not tell where an entry's data begins, and reads a
directory of any size.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from paddlemae.weights.tree import shown

MAX_ENTRIES = 100_000  # a ViT-Huge with its optimizer has 2,000
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
    """What the archive's directory says of one entry."""

    raw_name: bytes
    flags: int
    method: int
    packed_size: int
    size: int
    header_offset: int


class Entry(NamedTuple):
    """Where the data of one entry lies."""

    offset: int
    size: int


def read_directory(data: memoryview) -> dict[str, Header]:
    """The headers of all entries, by name.

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
        name = header.raw_name.decode("utf-8", "replace")
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(f"the archive has an entry outside of itself, {shown(name)}; torch.save never writes one")
        if name in headers:
            raise ValueError(f"the archive has two entries {shown(name)}; torch.save writes each once")
        headers[name] = header
    return headers


def locate(data: memoryview, name: str, header: Header) -> Entry:
    """Where an entry's data lies.

    Raises:
        ValueError: damaged, compressed or encrypted.
    """
    if header.flags & ENCRYPTED:
        raise ValueError(f"the archive is encrypted ({shown(name)}); unpack it with its password and save it again")
    if header.method != 0:
        raise ValueError(f"the archive is compressed ({shown(name)}), which torch.save never does; save it again")
    start = header.header_offset + LOCAL.size
    if header.size != header.packed_size or start > len(data):
        raise ValueError(TORN)
    local = LOCAL.unpack_from(data, header.header_offset)
    name_end = start + local[9]
    offset = name_end + local[10]
    if local[0] != b"PK\x03\x04" or data[start:name_end] != header.raw_name or offset + header.size > len(data):
        raise ValueError(TORN)
    return Entry(offset, header.size)


def _directory(data: memoryview) -> tuple[int, int, int]:
    """(number of entries, where their directory begins, where it ends)."""
    tail_start = max(0, len(data) - END.size - 0xFFFF)
    place = bytes(data[tail_start:]).rfind(b"PK\x05\x06")
    if place < 0 or tail_start + place + END.size > len(data):
        raise ValueError(TORN)
    place += tail_start
    _, _, _, _, count, size, start, _ = END.unpack_from(data, place)
    locator = place - END64_LOCATOR.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\x06\x07":
        place64 = END64_LOCATOR.unpack_from(data, locator)[2]
        if place64 + END64.size > len(data) or data[place64 : place64 + 4] != b"PK\x06\x06":
            raise ValueError(TORN)
        count, size, start = END64.unpack_from(data, place64)[7:]
    if start + size > len(data):
        raise ValueError(TORN)
    return count, start, start + size


def _header(data: memoryview, place: int) -> tuple[Header, int]:
    """(header, where the next one begins)."""
    fields = CENTRAL.unpack_from(data, place)
    name_length, extra_length, comment_length = fields[10:13]
    name_start = place + CENTRAL.size
    extra_start = name_start + name_length
    extra_end = extra_start + extra_length
    if fields[0] != b"PK\x01\x02" or extra_end + comment_length > len(data):
        raise ValueError(TORN)
    size, packed_size, offset = _zip64(bytes(data[extra_start:extra_end]), fields[9], fields[8], fields[16])
    header = Header(bytes(data[name_start:extra_start]), fields[3], fields[4], packed_size, size, offset)
    return header, extra_end + comment_length


def _zip64(extra: bytes, *fields: int) -> list[int]:
    """The fields, with those that need 64 bits taken from the extra field that holds them in order."""
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
