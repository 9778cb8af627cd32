"""Keep working when standard output or error can't be written: the message is lost, the work is not."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

# a pipe or connection without a reader, a terminal that is gone: no later word would arrive either
GONE = {errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.ENXIO}


class _TolerantStream:
    """A stream whose writes may fail; in all else the stream itself."""

    def __init__(self, stream: Any):
        self.stream = stream
        self.fault: OSError | None = None  # the first

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @property
    def buffer(self) -> Any:
        return _TolerantStream(self.stream.buffer)

    def write(self, text: Any) -> int:
        with self._losing_words():
            return self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._losing_words():
            self.stream.flush()

    @contextlib.contextmanager
    def _losing_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as fault:
            self.fault = self.fault or fault
            if fault.errno in GONE:
                _redirect_to_null(self.stream)


def _redirect_to_null(stream: Any) -> None:
    """Discard what a stream has buffered and all that is written to it later."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream without a file
        _open_null(stream.fileno())


def _open_null(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _open_stream(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return the stream, or a null stream for one that was closed when the program began."""
    return stream if stream is not None else open(descriptor, "w", encoding="utf-8", errors="replace", closefd=False)


def reopen_closed() -> None:
    """Occupy the standard descriptors that are closed: else the next file is opened there, and gets others' words."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _open_null(descriptor)


@contextlib.contextmanager
def survive_lost_output() -> Iterator[None]:
    """Let neither stream raise inside, whether a disk is full, a reader gone or the stream closed.

    Afterwards nothing is left in them that could. A warning says if a full disk refused text on standard output.
    """
    reopen_closed()
    before = _open_stream(sys.stdout, 1), _open_stream(sys.stderr, 2)
    output, error = patient = [_TolerantStream(stream) for stream in before]
    sys.stdout, sys.stderr = patient
    try:
        yield
    finally:
        output.flush()
        if output.fault and output.fault.errno not in GONE:
            print(f"paddlemae: warning: standard output is incomplete: {output.fault.strerror}", file=error)
        error.flush()
        sys.stdout, sys.stderr = before
        for stream in patient:
            if stream.fault:  # Python would try again when it ends, and end with a status of its own
                _redirect_to_null(stream.stream)
