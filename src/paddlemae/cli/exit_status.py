"""How a command ends: its exit status and its last line, which all processes of a launch share."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from paddlemae.system.signals import INTERRUPTED_STATUS, REQUEUE_STATUS, Preempted
from paddlemae.train.stopping import MISTAKE_STATUS, EndedElsewhere, RankLost, ended_by_signals

if TYPE_CHECKING:  # needs Paddle
    from paddlemae.train.parallel.ranks import Ranks

PACKAGE = Path(__file__).parents[1]
USER_ERRORS = (ValueError, OSError, ModuleNotFoundError, FloatingPointError, RuntimeError)
RAISED_IN_BACKWARD = "(External)"  # Paddle makes an OSError of any exception in a backward pass written in Python


@contextmanager
def as_one_of_the_ranks() -> Iterator[Ranks]:
    """Do something together with the other processes of this launch: all end well, or all as the first that doesn't.

    Yields:
        them, or this process alone where nothing was launched. All wait for each other at the end.
    """
    from paddlemae.train.parallel.ranks import join

    ranks = join()
    with ended_by_signals():
        try:
            yield ranks
            ranks.wait()
        except BaseException as fault:
            ranks.end(*(ending(fault) or (1, f"{type(fault).__name__}: {fault}")))
            raise
    ranks.leave()


def ending(fault: BaseException) -> tuple[int, str] | None:
    """Return (exit status, one line of text) for what ended a command; None for a bug, or an exit with a status."""
    if isinstance(fault, Preempted):
        return REQUEUE_STATUS, str(fault)
    if stop := _interrupt(fault) if isinstance(fault, KeyboardInterrupt | SystemExit) else None:
        return INTERRUPTED_STATUS, str(stop) or "stopped"
    if isinstance(fault, EndedElsewhere):
        return fault.status, str(fault)
    if isinstance(fault, RankLost):
        return 1, str(fault)
    if isinstance(fault, MemoryError) and not os.environ.get("PADDLEMAE_DEBUG"):
        return MISTAKE_STATUS, "there is not enough memory for this; choose a smaller model, batch or image size"
    if isinstance(fault, USER_ERRORS) and _is_ours(fault) and not os.environ.get("PADDLEMAE_DEBUG"):
        return MISTAKE_STATUS, " ".join(_text(fault).split())
    return None


def _interrupt(end: BaseException | None) -> KeyboardInterrupt | None:
    """Return the KeyboardInterrupt behind an exit: typer converts it and would lose its text."""
    while end is not None and not isinstance(end, KeyboardInterrupt):
        end = end.__cause__ or end.__context__
    return end


def _is_ours(fault: BaseException) -> bool:
    """Check if our code or the system raised the error: anything else is a bug and keeps its traceback."""
    if isinstance(fault, OSError):
        return not str(fault).lstrip().startswith(RAISED_IN_BACKWARD)
    return Path(traceback.extract_tb(fault.__traceback__)[-1].filename).is_relative_to(PACKAGE)


def _text(fault: BaseException) -> str:
    if isinstance(fault, OSError) and fault.errno in (errno.EMFILE, errno.ENFILE):
        return f"{fault.strerror}; allow more (ulimit -n), or use fewer workers"
    if isinstance(fault, OSError) and fault.errno is not None:
        return f"{fault.strerror}: {fault.filename}" if fault.filename else str(fault.strerror)
    return str(fault)
