"""Open files one by one under guard in a separate process, and report how each ended.

Run as a program, it reads a path a line and answers each with one line of JSON: the outcome, a message, seconds.
The guard is an audit hook that stops and notes whatever Python reports beyond opening files to read and mapping them
(imports, processes, sockets, compiling, files to write); a limit on address space of twice the file and 100 MB beyond
the map of it; an alarm after 5 seconds of computing (the machine may be busy), and one of the caller's for what never
wakes.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.support.paths import ROOT

COMMAND = [sys.executable, "-m", "tests.support.guarded_open"]
MAX_SECONDS = 5.0
FREE_BYTES = 100_000_000
# what reading may do; `builtins.id`, frames and attributes are Python's and NumPy's own
ALLOWED = ("os.listdir", "os.scandir", "mmap.__new__", "builtins.id", "sys._getframe", "object.__getattr__")
FINE = ("loaded", "refused")


class Answer(NamedTuple):
    """How opening one file ended: one of `FINE`, or what went wrong."""

    path: str
    outcome: str
    message: str
    seconds: float
    correct: bool = False  # loaded, and holds w = 0, 1, .. 23


def answers(paths: Iterable[Path], timeout: float = 60.0) -> Iterator[Answer]:
    """Open files under guard. A process that crashes or hangs is noted against the file and replaced."""
    child = _Child()
    for path in paths:
        answer = child.open(path, timeout)
        if answer.outcome in ("crash", "hang"):
            child.end()
            child = _Child()
        yield answer
    child.end()


class _Child:
    def __init__(self) -> None:
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(COMMAND, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)
        self.lines: queue.Queue[str] = queue.Queue()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def open(self, path: Path, timeout: float) -> Answer:
        assert self.process.stdin
        print(path, file=self.process.stdin, flush=True)
        try:
            line = self.lines.get(timeout=timeout)
        except queue.Empty:
            return Answer(str(path), "hang", f"no answer in {timeout:.0f} s", timeout)
        if not line:
            return Answer(str(path), "crash", f"exit status {self.process.wait()}", 0.0)
        return Answer(*json.loads(line))

    def end(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.kill()
        self.process.wait()
        self.listener.join()
        self.process.stdin.close()
        self.process.stdout.close()


# The child


class _Guard:
    """Stops what is not allowed, and notes it, while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.noted: list[str] = []
        sys.addaudithook(self.watch)

    def watch(self, event: str, details: tuple) -> None:
        if not self.on or event in ALLOWED:
            return
        # (path, mode, flags): open() names a mode, os.open() only flags
        reading = event == "open" and not set(details[1] or "") & set("wax+")
        if reading and details[1] is None:
            reading = not details[2] & (os.O_WRONLY | os.O_RDWR)
        if not reading:
            self.noted.append(f"{event} {details!r}"[:300])
            raise PermissionError(f"a guarded process does not do {event}")


def _size(path: str) -> int:
    names = [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else [path]
    return sum(os.path.getsize(name) for name in names if os.path.isfile(name))


def _outcome(path: str, open_weights, guard: _Guard) -> Answer:
    size = _size(path)
    with open("/proc/self/statm", "rb") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    correct = False
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 3 * size + FREE_BYTES, hard))
    guard.noted, guard.on = [], True
    try:
        state = open_weights(path).state
        for tensor in state.tensors.values():  # an array beyond the file's end is a crash here
            np.count_nonzero(tensor[..., -1:] if tensor.nbytes > 2**20 and tensor.ndim else tensor)
        correct = bool(np.array_equal(state.tensors.get("w", ()), np.arange(24, dtype=np.float32)))
        outcome, message = "loaded", ""
    except (ValueError, FileNotFoundError) as fault:
        message = str(fault)
        outcome = "refused" if message.isprintable() and 0 < len(message) < 2000 else "message"
    except TimeoutError:
        outcome, message = "hang", f"more than {MAX_SECONDS} s"
    except MemoryError:
        outcome, message = "memory", f"more than twice its {size} bytes and {FREE_BYTES}"
    except BaseException as fault:
        outcome, message = "exception", repr(fault)[:300]
    finally:
        guard.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    if guard.noted:
        outcome, message = "ran", "; ".join(guard.noted)
    return Answer(path, outcome, message, time.process_time() - start, correct)


def _serve() -> None:
    import tempfile
    import warnings

    from safetensors.numpy import save

    from paddlemae.weights.open import open_weights
    from tests.support.weight_files import Call, Global, numpy_array, pickled, row, torch_legacy, torch_zip

    warnings.simplefilter("ignore")

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGPROF, late)
    values = np.arange(24, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:  # what reading imports late is imported before the guard
        array = numpy_array(values, latin=True)
        for content in (
            torch_zip({"w": row(24)}, {"0": values.tobytes()}),
            torch_legacy({"w": row(24, legacy=True)}, {"0": values}),
            pickled({"w": array, "x": Call(Global("a", "b"), ())}),
            save({"w": values}),
        ):
            Path(folder, "file").write_bytes(content)
            assert open_weights(Path(folder, "file")).state.tensors["w"][23] == 23
    guard = _Guard()
    for line in sys.stdin:
        print(json.dumps(_outcome(line.rstrip("\n"), open_weights, guard)), flush=True)


if __name__ == "__main__":
    _serve()
