"""Arrow files and streams, mapped; what compressed ones unpack to is compared with their bytes before it is unpacked.

A file is a stream between a mark and a footer, and is read as one, so that what was looked at is what is read. The
metadata of a message is a flatbuffer of Arrow's format; compressed buffers begin with their unpacked length.
"""

import os
import struct
from typing import Any

from paddlemae.data.decode.limits import MAX_IMAGE_BYTES, room_for
from paddlemae.data.sources.readers import unreadable_file

ARROW_START = b"ARROW1"
_STREAM_IN_FILE = 8  # bytes before the stream
_MESSAGE_HEADER_TYPE, _MESSAGE_HEADER = 1, 2  # fields, by their numbers
_BATCH_BUFFERS, _BATCH_COMPRESSION = 2, 3
_DICTIONARY_DATA = 1
_DICTIONARY, _BATCH = 2, 3  # kinds of messages


def read_arrow(path: str) -> Any:
    """Return the table in an Arrow file or stream, mapped where it is not compressed.

    Raise a ValueError if it is damaged, or so compressed that unpacking takes too much memory.
    """
    import pyarrow as pa

    try:
        source = pa.memory_map(path)
        start = _STREAM_IN_FILE if source.read(len(ARROW_START)) == ARROW_START else 0
        source.seek(start)
        room, unpacked = room_for(os.path.getsize(path), MAX_IMAGE_BYTES), 0
        for message in pa.ipc.MessageReader.open_stream(source):
            unpacked += _unpacked_bytes(bytes(message.metadata), message.body)
            if unpacked > room:
                raise ValueError(
                    f"{path!r} is compressed, and unpacking it takes more than {room / 1e6:,.0f} MB of memory; write "
                    "it without compression"
                )
        source.seek(start)
        return pa.ipc.open_stream(source).read_all()
    except (pa.ArrowException, OSError, struct.error, IndexError) as fault:
        raise unreadable_file(path, fault) from fault


def _unpacked_bytes(metadata: bytes, body: Any) -> int:
    """Return the bytes that a message's compressed buffers unpack to; 0 of one that is not compressed."""
    message = _offset(metadata, 0)
    place = _field(metadata, message, _MESSAGE_HEADER_TYPE)
    kind = metadata[place] if place else 0
    if kind not in (_DICTIONARY, _BATCH):
        return 0
    batch = _table(metadata, message, _MESSAGE_HEADER)
    if kind == _DICTIONARY:
        batch = _table(metadata, batch, _DICTIONARY_DATA)
    if not _field(metadata, batch, _BATCH_COMPRESSION) or not (place := _field(metadata, batch, _BATCH_BUFFERS)):
        return 0
    vector = _offset(metadata, place)
    (count,) = struct.unpack_from("<I", metadata, vector)
    content, total = memoryview(body) if body is not None else b"", 0
    for offset, length in struct.iter_unpack("<qq", metadata[vector + 4 : vector + 4 + 16 * count]):
        if length > 0:
            (unpacked,) = struct.unpack_from("<q", content, offset)
            total += max(length, unpacked)  # -1 is a buffer that was left as it is
    return total


def _offset(content: bytes, place: int) -> int:
    """Follow an offset of a flatbuffer."""
    return place + struct.unpack_from("<I", content, place)[0]


def _field(content: bytes, table: int, number: int) -> int:
    """Return where a field of a table is; 0 for one that it lacks."""
    fields = table - struct.unpack_from("<i", content, table)[0]
    (size,) = struct.unpack_from("<H", content, fields)
    place = 4 + 2 * number
    inside = struct.unpack_from("<H", content, fields + place)[0] if place < size else 0
    return table + inside if inside else 0


def _table(content: bytes, table: int, number: int) -> int:
    """Return where the table is that a field leads to, or raise a struct.error if there is none."""
    if not (place := _field(content, table, number)):
        raise struct.error("a message lacks its table")
    return _offset(content, place)
