"""Make things ahead in spawned processes, in order, and leave none of the processes behind."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from paddlemae.device import keep_freed_memory

_Due = TypeVar("_Due")
_Made = TypeVar("_Made")


def make_ahead(make: Callable[[_Due], _Made], due: Iterable[_Due], workers: int) -> Generator[_Made, None, None]:
    """Yield `make(one)` for each `one` that is due, in order.

    Args:
        make: travels once to each worker, by pickling.
        workers: processes that make things ahead, up to two each; 0 makes them here, when they are asked for. On any
            exit, `close` included, no process is left.
    Raises:
        ValueError: as `make` raised it.
        RuntimeError: a worker process died.
    """
    return _make_in_workers(make, due, workers) if workers else (make(one) for one in due)


def _make_in_workers(make: Callable[[_Due], _Made], due: Iterable[_Due], workers: int) -> Generator[_Made, None, None]:
    context = multiprocessing.get_context("spawn")  # a fork of Paddle's threads can deadlock
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(make,))
    pending: deque[Future[_Made]] = deque()
    try:
        for one in due:
            with _stop_signals_blocked():
                pending.append(pool.submit(_make_here, one))
            if len(pending) == 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except ValueError as error:  # raised again here, so that its traceback ends in this package as without workers
        raise ValueError(str(error)) from error
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a data worker died, most likely for lack of memory: use fewer workers "
            "(or, if your script starts training when imported, guard it with if __name__ == '__main__')"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal, a scheduler's signals every one of a job; the parent answers them.

    Workers inherit the block from the parent that starts them: it covers them until they ignore the
    signals themselves. One that comes meanwhile waits for the parent's block to end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _stop_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop_signals() -> set[signal.Signals]:
    return {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)}


_worker_make: Callable[[Any], Any] | None = None  # set once in each worker, so that the source travels once


def _start_worker(make: Callable[[Any], Any]) -> None:
    global _worker_make
    _worker_make = make
    for number in _stop_signals():
        signal.signal(number, signal.SIG_IGN)
    keep_freed_memory()
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Leave no orphan: a killed parent can't tell its workers, which would wait for it forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _make_here(due: Any) -> Any:
    assert _worker_make is not None
    return _worker_make(due)
