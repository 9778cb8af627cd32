"""Write one shard: a tar under a temporary name, flushed and read back before it gets its own name.

The same entries give the same bytes: a header has a name and a size, and neither a time nor an owner.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tarfile
from pathlib import Path

from paddlemae.data.sources.tar import read_entries
from paddlemae.system.atomic import PARTIAL, flush_file, rename

_BLOCK = 512
_RECORD = 20 * _BLOCK  # what a tar's length is a multiple of
_AT_ONCE = 1 << 20  # bytes that are read back at a time


class ShardFile:
    """A tar that is being written; `close` brings it to its place, `abandon` removes it. Methods raise OSErrors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(path.name + PARTIAL)
        self.bytes = 0
        self._placed: list[tuple[str, int, int]] = []  # name, where its content is, and its size
        self._digest = hashlib.sha256()
        self._file = open(self.temporary, "wb")  # noqa: SIM115 (until `close` or `abandon`)

    def add(self, name: str, content: bytes) -> int:
        """Add an entry; returns where its content begins in the tar."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.bytes
        self._write(content + bytes(-len(content) % _BLOCK))
        self._placed.append((name, offset, len(content)))
        return offset

    def close(self) -> str:
        """Flush, read back and rename it, and return its SHA-256; other bytes than were written are an OSError."""
        end = 2 * _BLOCK
        self._write(bytes(end + -(self.bytes + end) % _RECORD))
        flush_file(self._file)
        self._file.close()
        digest = self._digest.hexdigest()
        if digest_file(self.temporary) != digest or self._entries() != self._placed:
            raise OSError(errno.EIO, "the disk returned other bytes than were written", str(self.temporary))
        rename(self.temporary, self.path, flush=True)
        return digest

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self.temporary.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self.bytes += len(content)

    def _entries(self) -> list[tuple[str, int, int]]:
        """Return (name, offset, size) of each entry, as the tar reader lists them."""
        return [
            (entry.name, entry.offset, entry.size) for entry in read_entries(str(self.temporary), lambda name: False)
        ]


def size_in_tar(content: bytes) -> int:
    """Return how many bytes an entry with this content takes in a tar."""
    return _BLOCK + len(content) + -len(content) % _BLOCK


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read from the disk rather than from memory where the system allows it."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):  # of Linux
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while content := file.read(_AT_ONCE):
            digest.update(content)
    return digest.hexdigest()
