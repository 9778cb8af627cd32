"""Standard output and error that outlive a full disk: what can't be said there is lost, and the training goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

FULL = {errno.ENOSPC, errno.EFBIG, *({errno.EDQUOT} if hasattr(errno, "EDQUOT") else ())}


class _Patient:
    """A stream whose writes may fail for lack of space; in all else the stream itself."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with _unless_full():
            return self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _unless_full():
            self.stream.flush()


@contextlib.contextmanager
def _unless_full() -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        if fault.errno not in FULL:
            raise


@contextlib.contextmanager
def outliving_a_full_disk() -> Iterator[None]:
    """Inside, neither stream raises when a disk is full; afterwards nothing is left in them that could."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Patient(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            try:
                stream.flush()
            except OSError as fault:
                if fault.errno not in FULL:
                    raise
                # Python would try again when it ends, and end with a status of its own
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
