"""Nothing on the terminal of what Paddle says while it traces and fuses a model."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def paddle_silenced() -> Iterator[None]:
    """Drop warnings, and what C++ writes to the two streams of the process; exceptions still come."""
    kept = {}
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        with suppress(OSError, AttributeError):  # there is none
            stream.flush()
            kept[number] = os.dup(number)
    try:
        with open(os.devnull, "wb") as nothing, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number in kept:
                os.dup2(nothing.fileno(), number)
            yield
    finally:
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
