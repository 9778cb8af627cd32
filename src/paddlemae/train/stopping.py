"""End a training early: by signals, between two steps, or when another process ends. Knows no Paddle."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from paddlemae.system.signals import (
    CTRL_C,
    DEFAULT_HANDLERS,
    SIGNAL_NAMES,
    Preempted,
    handle_signal,
    scheduler_signals,
    stop_signals,
    take_swallowed_signal,
)

TIME_IS_UP = "max_hours"  # the reason of a stop without a signal
MISTAKE_STATUS = 2  # of the user, said in a line


class RankLost(ConnectionError):
    """Another process of this training died or can't be reached. The command line exits with 1."""


class EndedElsewhere(Exception):
    """Another rank ended the training and sent its reason.

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
            self.reason = TIME_IS_UP
        return self.reason is not None


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let signals end the command at once, as before and after training: nothing is lost then.

    Raises:
        KeyboardInterrupt, Preempted: within; further signals of schedulers are ignored from then on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [*scheduler_signals(), *([signal.SIGINT] if signal.getsignal(signal.SIGINT) in DEFAULT_HANDLERS else [])]
    before = {number: signal.signal(number, handle_signal) for number in taken}
    try:
        yield
    except BaseException as error:
        take_swallowed_signal()  # it was not: forget it
        if hides_signal(error):
            raise error.__context__ from None  # type: ignore[misc]
        raise
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle_signal:
                signal.signal(number, handler)


def hides_signal(error: BaseException) -> bool:
    """Return whether an error took the place of a signal's exception: one that came while a lock was being taken.

    `threading` then releases a lock that it does not have yet, for example in the start of a thread.
    """
    if not (isinstance(error, RuntimeError) and isinstance(error.__context__, (KeyboardInterrupt, Preempted))):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_code.co_filename == threading.__file__


@contextmanager
def stop_on_signals(max_seconds: float | None = None) -> Iterator[Stop]:
    """Turn the first Ctrl-C and other signals that end a command into a flag that `fit` reads between two steps.

    Schedulers send their signals several times, so only a second Ctrl-C interrupts at once.
    """
    stop = Stop(max_seconds)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    stop.reason = take_swallowed_signal()

    def remember(signum: int, frame: FrameType | None) -> None:
        name = SIGNAL_NAMES[signal.Signals(signum).name]
        if stop.reason == name == CTRL_C:
            raise KeyboardInterrupt
        stop.reason = name

    before = {number: signal.signal(number, remember) for number in stop_signals()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
