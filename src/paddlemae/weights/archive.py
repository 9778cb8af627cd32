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


class Entry(NamedTuple):
    """Where the data of one file in the archive lies."""

    offset: int
    size: int


def read_entries(data: memoryview) -> dict[str, Entry]:
    """The entries of an archive that holds them as they are.

    Raises:
        ValueError: damaged, or with entries that are compressed, encrypted, named twice or named outside of it.
    """
    count, start, end = _directory(data)
    if count > MAX_ENTRIES:
        raise ValueError(f"the archive has {count:,} entries; no weights file has more than {MAX_ENTRIES:,}")
    entries: dict[str, Entry] = {}
    for _ in range(count):
        if start + CENTRAL.size > end:
            raise ValueError(TORN)
        name, entry, start = _entry(data, start)
        if name in entries:
            raise ValueError(f"the archive has two entries {shown(name)}; PyTorch writes each once")
        entries[name] = entry
    return entries


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


def _entry(data: memoryview, place: int) -> tuple[str, Entry, int]:
    """(name, entry, where the next one's header begins)."""
    header = CENTRAL.unpack_from(data, place)
    magic, flags, method, packed, size, offset = (header[i] for i in (0, 3, 4, 8, 9, 16))
    name_length, extra_length, comment_length = header[10:13]
    name_start = place + CENTRAL.size
    extra_start = name_start + name_length
    end = extra_start + extra_length + comment_length
    if magic != b"PK\x01\x02" or end > len(data):
        raise ValueError(TORN)
    raw_name = bytes(data[name_start:extra_start])
    name = raw_name.decode("utf-8", "replace")
    if flags & ENCRYPTED:
        raise ValueError(f"the archive is encrypted ({shown(name)}); unpack it with its password and save it again")
    if method != 0:
        raise ValueError(f"the archive is compressed ({shown(name)}), which torch.save never does; save it again")
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise ValueError(f"the archive has an entry outside of itself, {shown(name)}; torch.save never writes one")
    size, packed, offset = _zip64(bytes(data[extra_start : extra_start + extra_length]), size, packed, offset)
    if size != packed:
        raise ValueError(f"the archive's {shown(name)} is {size} bytes in {packed}; download or copy the file again")
    return name, Entry(_data_offset(data, offset, raw_name, size), size), end


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


def _data_offset(data: memoryview, offset: int, name: bytes, size: int) -> int:
    if offset + LOCAL.size > len(data):
        raise ValueError(TORN)
    header = LOCAL.unpack_from(data, offset)
    name_start = offset + LOCAL.size
    start = name_start + header[9] + header[10]
    if header[0] != b"PK\x03\x04" or data[name_start : name_start + header[9]] != name or start + size > len(data):
        raise ValueError(TORN)
    return start
