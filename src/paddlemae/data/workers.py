"""Make things ahead in spawned processes, in order, and leave none of the processes behind.

Each process has a pipe and, in this process, a thread that hands it one thing at a time. A process that dies closes its
pipe, in the middle of an answer too, so its thread knows at once, starts another and hands it the same thing: what is
made, and in which order, depends on no death. (A pool of the standard library breaks as a whole, and may wait forever
for the rest of an answer.)
"""

import atexit
import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
import types
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from paddlemae.data.disk.errors import DataFault
from paddlemae.engine.cpus import threads_of, usable_cpus
from paddlemae.engine.memory import keep_freed_memory
from paddlemae.system.display_names import say
from paddlemae.system.private import interpreter_flag
from paddlemae.system.signals import stop_signals

WORTH_WORKERS, WORTH_WORKERS_COMPUTING = 2000, 1000  # images; of fewer, starting a process takes longer than they do
MOST_COMPUTING = 8  # processes that decode for a model
MOST_DEATHS = 3  # that are made good; the count starts again after `MADE_TO_RESET_DEATHS`
MADE_TO_RESET_DEATHS = 1000
MOST_ARGUMENTS = 100  # of a list among a function's arguments that may be the program's own; longer ones are names
SILENT_SECONDS = 120.0  # without an answer of a worker until that is reported: longer than a file's own notice takes

_starting = threading.RLock()  # of what is changed for all threads while a process starts
_Due = TypeVar("_Due")
_Made = TypeVar("_Made")


def make_ahead(make: Callable[[_Due], _Made], due: Iterable[_Due], workers: int) -> Generator[_Made, None, None]:
    """Yield `make(item)` for each item that is due, in order.

    Args:
        make: travels once to each worker, by pickling.
        workers: processes that make things ahead, up to two each; 0 makes them here, when they are asked for. On any
            exit, `close` included, no process is left. One that dies is replaced, and stderr says so.
    Raises:
        Exception: as `make` raised it.
        DataFault: worker processes keep dying.
    """
    return _make_in_workers(make, due, workers) if workers else (make(item) for item in due)


def _make_in_workers(make: Callable[[_Due], _Made], due: Iterable[_Due], workers: int) -> Generator[_Made, None, None]:
    crew = _Crew(make, workers)
    threads = ThreadPoolExecutor(workers, "data worker")
    pending: deque[Future[_Made]] = deque()
    try:
        for item in due:
            pending.append(threads.submit(crew.made, item))
            if len(pending) == 2 * workers:
                yield _wait_for(pending.popleft())
        while pending:
            yield _wait_for(pending.popleft())
    except ValueError as error:  # raised again here, so that its traceback ends in this package as without workers
        raise (DataFault if isinstance(error, DataFault) else ValueError)(str(error)) from error
    finally:
        crew.close()
        threads.shutdown(cancel_futures=True)


def _wait_for(future: Future[_Made]) -> _Made:
    seconds = 0.0
    while not wait([future], SILENT_SECONDS).done:
        seconds += SILENT_SECONDS
        _say(f"no data for {seconds:.0f} s: a worker process or its disk hangs; still waiting")
    return future.result()


def _say(text: str) -> None:
    say(f"paddlemae: {text}", error=True)


class _Worker:
    """A process, and this process's end of its pipe."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of Paddle's threads can deadlock
        self.pipe, its_end = context.Pipe()
        self.unsent: Callable[[Any], Any] | None = make  # until it knows its work
        # the standard library writes the arguments into a pipe that it holds both ends of: more of them than a pipe
        # takes, and it waits forever for a process that died before it read them
        self.process = context.Process(target=_work, args=(its_end,), daemon=True)
        try:
            with _exclude_current_folder(), _hide_program(make), _block_stop_signals():
                self.process.start()
        except BrokenPipeError:  # it died before it had its work; the pipe reports that too
            pass
        finally:
            its_end.close()

    def made(self, due: Any) -> tuple[Any, Exception | None]:
        """Return (the result, None) or (None, the error); raise EOFError or OSError when the process died."""
        if self.unsent:
            self.pipe.send(self.unsent)
            self.unsent = None
        self.pipe.send(due)
        made, error, trace = self.pipe.recv()
        if error is not None:
            error.__cause__ = RuntimeError(f"in a data worker:\n{trace}")
        return made, error

    def kill(self) -> None:
        """End it, also if it hangs or was stopped."""
        if self.process.pid is not None:
            self.process.kill()
            self.process.join()


class _Crew:
    """The worker processes, replaced when they die."""

    def __init__(self, make: Callable[[Any], Any], workers: int) -> None:
        self.make = make
        self.lock = threading.Lock()
        self.closed = False
        self.deaths = 0
        self.made_since_death = 0
        self.all: set[_Worker] = set()
        self.idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        atexit.register(self.close)  # the standard library would send SIGTERM, which workers ignore, and wait forever
        try:
            for _ in range(workers):
                self.idle.put(self._hired())
        except BaseException:
            self.close()
            raise

    def made(self, due: Any) -> Any:
        """Return `make(due)` as computed by an idle process."""
        worker = self.idle.get()
        try:
            while True:
                try:
                    made, error = worker.made(due)
                    break
                except (EOFError, OSError):
                    worker = self._replaced(worker)
        finally:
            self.idle.put(worker)
        self._count_made()
        if error is not None:
            raise error
        return made

    def close(self) -> None:
        """Let nothing be made any more, and end the processes."""
        atexit.unregister(self.close)
        with self.lock:
            self.closed = True
            for worker in self.all:
                worker.kill()

    def _hired(self) -> _Worker:
        worker = _Worker(self.make)
        self.all.add(worker)
        return worker

    def _replaced(self, dead: _Worker) -> _Worker:
        with self.lock:
            if self.closed:
                raise DataFault("the data workers were ended")  # nobody waits for this any more
            dead.kill()
            dead.pipe.close()
            self.all.discard(dead)
            self.deaths, self.made_since_death = self.deaths + 1, 0
            died = f"a data worker died ({_describe_exit(dead.process.exitcode)})"
            if self.deaths > MOST_DEATHS:
                raise DataFault(
                    f"{died}, for the {self.deaths}th time, most likely for lack of memory: use fewer workers, or "
                    "workers=0"
                )
            _say(f"{died}; its batch is computed again ({self.deaths} of {MOST_DEATHS} times)")
            return self._hired()

    def _count_made(self) -> None:
        with self.lock:
            self.made_since_death += 1
            if self.made_since_death >= MADE_TO_RESET_DEATHS:
                self.deaths = 0


def _describe_exit(exitcode: int | None) -> str:
    if exitcode is None:
        return "before it began"
    if exitcode >= 0:
        return f"exit status {exitcode}"
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"


@contextlib.contextmanager
def _hide_program(make: Callable[[Any], Any]) -> Iterator[None]:
    """Start a process that does not import the program's script, as `spawn` would.

    Scripts that train or embed at their top level would do so in each worker. A script that defines what is made, such
    as a source of its own, must be imported.
    """
    if _is_defined_by_program(make):
        yield
        return
    with _starting:
        program = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = program


def _is_defined_by_program(value: Any, depth: int = 6) -> bool:
    """Return whether a function or an object, or what of ours holds it, is of the script that was started."""
    if "__main__" in (type(value).__module__, getattr(value, "__module__", None)):
        return True
    parts: Iterable[Any] = ()
    if isinstance(value, functools.partial):
        parts = (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, list | tuple) and len(value) < MOST_ARGUMENTS:
        parts = value
    elif type(value).__module__.startswith("paddlemae.") and hasattr(value, "__dict__"):
        parts = vars(value).values()
    return depth > 0 and any(_is_defined_by_program(part, depth - 1) for part in parts)


@contextlib.contextmanager
def _exclude_current_folder() -> Iterator[None]:
    """Let a file of the current folder not pass for a module of the standard library, and be executed, in a worker.

    Workers have this process's path for imports, but only once they have imported what brings it to them.
    """
    flag = "-P" if sys.version_info >= (3, 11) else "-I"
    with _starting, interpreter_flag(flag):
        yield


@contextlib.contextmanager
def _block_stop_signals() -> Iterator[None]:
    """Block signals that end a command while workers start: the parent alone answers them.

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
    return {signal.Signals(number) for number in stop_signals()}


def _work(pipe: Connection) -> None:
    """Run a worker process until its pipe closes."""
    for number in _stop_signals():
        signal.signal(number, signal.SIG_IGN)
    keep_freed_memory()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        content = pipe.recv_bytes()
    except (EOFError, OSError):  # the parent has closed it
        return
    make = pickle.loads(content)  # what goes wrong here is seen on stderr
    with contextlib.suppress(EOFError, OSError):
        while True:
            _answer(make, pipe)


def _answer(make: Callable[[Any], Any], pipe: Connection) -> None:
    due = pipe.recv()
    answer: tuple[Any, Exception | None, str]
    try:
        answer = make(due), None, ""
    except Exception as error:
        answer = None, _sendable(error), traceback.format_exc()
    pipe.send(answer)


def _sendable(error: Exception) -> Exception:
    """Return the error, or if it can't be pickled, which would look like a killed worker, a RuntimeError."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))
    return error


def _die_with_parent() -> None:
    """Leave no orphan: a killed parent can't tell its workers, which would wait for it forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def workers_for(images: int, workers: int | None, *, computing: bool = False) -> int:
    """Return how many processes decode `images` images: the given number, else one a core where they pay off.

    Args:
        computing: a model computes in this process meanwhile: by default half of its share of the cores decode.
    """
    if workers is not None:
        return workers
    if computing:
        return min(max(1, threads_of("auto") // 2), MOST_COMPUTING) if images >= WORTH_WORKERS_COMPUTING else 0
    return usable_cpus() if images >= WORTH_WORKERS and usable_cpus() > 1 else 0
