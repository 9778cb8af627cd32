"""Say which file a slow disk keeps this process waiting for.

A thread looks on, since a read that hangs returns to nobody. It writes to stderr: a worker process has no other voice.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

from paddlemae.system.display_names import say

SLOW_SECONDS = 30.0

_reading: dict[int, tuple[str, float]] = {}  # thread -> the path that it reads, and since when
_starting = threading.Lock()
_watcher: threading.Thread | None = None


@contextlib.contextmanager
def report_slow_read(path: str) -> Iterator[None]:
    """Report in one line if reading `path` inside takes longer than `SLOW_SECONDS`."""
    if _watcher is None or not _watcher.is_alive():
        _start_watcher()
    reader = threading.get_ident()
    _reading[reader] = path, time.monotonic()
    try:
        yield
    finally:
        del _reading[reader]


def _start_watcher() -> None:
    global _watcher
    with _starting:
        if _watcher is None or not _watcher.is_alive():
            _watcher = threading.Thread(target=_watch_reads, name="slow reads", daemon=True)
            _watcher.start()


def _watch_reads() -> None:
    said: set[tuple[str, float]] = set()
    while True:
        time.sleep(SLOW_SECONDS / 10)
        if threading.current_thread() is not _watcher:  # another one took over
            return
        now, reading = time.monotonic(), set(_reading.copy().values())
        said &= reading
        for path, since in sorted(reading - said):
            if now - since >= SLOW_SECONDS:
                said.add((path, since))
                text = f"paddlemae: reading is slow: {path!r} has not come for {now - since:.0f} s, still waiting"
                say(text, error=True)
