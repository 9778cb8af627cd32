"""Every private name of Python that this package uses; `tests/engine/test_private.py` holds that."""

from __future__ import annotations

import multiprocessing.util
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interpreter_flag(flag: str) -> Iterator[None]:
    """Start processes of `multiprocessing` with a flag of the interpreter; `set_executable` takes no flags.

    It holds for the whole process: whoever calls this keeps other threads from it.
    """
    module = multiprocessing.util
    usual = module._args_from_interpreter_flags  # type: ignore[attr-defined]
    module._args_from_interpreter_flags = lambda: [flag, *usual()]  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module._args_from_interpreter_flags = usual  # type: ignore[attr-defined]
