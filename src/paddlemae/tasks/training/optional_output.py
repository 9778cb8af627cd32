"""Write outputs that no result depends on: pictures, and lines in the folders of other runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from paddlemae.train.stopping import EndedElsewhere, RankLost


@contextmanager
def optional(what: str) -> Iterator[None]:
    """Warn in one line if what is done within fails; with PADDLEMAE_DEBUG set, let it fail."""
    try:
        yield
    except (EndedElsewhere, RankLost):
        raise
    except Exception as fault:
        if os.environ.get("PADDLEMAE_DEBUG"):
            raise
        warnings.warn(f"{what} could not be written: {_reason(fault)}", stacklevel=3)


def _reason(fault: Exception) -> str:
    if isinstance(fault, OSError) and fault.strerror:
        return f"{fault.strerror}: {fault.filename}" if fault.filename else fault.strerror
    return f"{type(fault).__name__}, {' '.join(str(fault).split())[:200]}"
