"""What ends a training before its end: signals, between two steps, and other processes. Knows no Paddle."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MISTAKE_STATUS = 2  # of the user, said in a line
INTERRUPTED_STATUS = 130  # Ctrl-C, as shells have it
REQUEUE_STATUS = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, start the same command again
CTRL_C = "Ctrl-C"
SIGNALS = {"SIGINT": CTRL_C, "SIGTERM": "SIGTERM", "SIGUSR1": "SIGUSR1"}  # Windows has no SIGUSR1


class Preempted(Exception):
    """Training was ended from outside and is saved; the same command goes on. The command line exits with 75."""


class RankLost(ConnectionError):
    """Another process of this training died or can't be reached. The command line exits with 1."""


class EndedElsewhere(Exception):
    """Another rank ended the training, for a reason that it told.

    Attributes:
        status: its exit status, which is this one's too.
    """

    def __init__(self, rank: int, status: int, text: str):
        super().__init__(f"rank {rank}: {text}")
        self.status = status


@dataclass
class Stop:
    """Whether training was asked to end, by a signal or by its time being up.

    Args:
        max_seconds: of this session; None is no limit.
        clock: seconds, from any start.
    """

    max_seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    reason: str | None = None
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def is_set(self) -> bool:
        if self.reason is None and self.max_seconds is not None and self.clock() - self.started >= self.max_seconds:
            self.reason = "max_hours"
        return self.reason is not None


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Before training and after it, SIGTERM and SIGUSR1 end the command where it is: nothing is lost then.

    Raises:
        Preempted: within; further signals are ignored from then on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum, frame):
        ignore_schedulers()
        raise Preempted(f"stopped ({signal.Signals(signum).name}); the same command goes on")

    before = {number: signal.signal(number, end) for number in _from_schedulers()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is end:
                signal.signal(number, handler)


def ignore_schedulers() -> None:
    """Of a command that ends: schedulers repeat themselves, and would take its status away from it."""
    if threading.current_thread() is threading.main_thread():
        for number in _from_schedulers():
            signal.signal(number, signal.SIG_IGN)


def _from_schedulers() -> list[int]:
    names = [name for name, meaning in SIGNALS.items() if meaning != CTRL_C]
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


@contextmanager
def stop_on_signals(max_seconds: float | None = None) -> Iterator[Stop]:
    """Turn SIGTERM, SIGUSR1 and the first Ctrl-C into a flag that `fit` reads between two steps.

    Schedulers send their signals several times, so only a second Ctrl-C interrupts at once.
    """
    stop = Stop(max_seconds)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def remember(signum, frame):
        name = SIGNALS[signal.Signals(signum).name]
        if stop.reason == name == CTRL_C:
            raise KeyboardInterrupt
        stop.reason = name

    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
