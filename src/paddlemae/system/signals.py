"""Handle signals that end a command, from its start to its end; a training handles them itself (`train.stopping`).

Imports only what Python has loaded anyway, or nearly so: a signal may come while anything else is imported. Knows no
Paddle.
"""

import atexit
import os
import signal
import sys
from types import FrameType
from typing import Any

INTERRUPTED_STATUS = 130  # Ctrl-C, as shells have it
REQUEUE_STATUS = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, start the same command again
CTRL_C = "Ctrl-C"
# Windows has the first two only. SIGHUP is a terminal that was closed, SIGXCPU some schedulers' soft limit
SIGNAL_NAMES = {"SIGINT": CTRL_C, **{name: name for name in ("SIGTERM", "SIGUSR1", "SIGHUP", "SIGXCPU")}}
RETRY_SECONDS = 0.005
DEFAULT_HANDLERS = (signal.SIG_DFL, signal.default_int_handler)  # handlers of whoever left a signal alone

_is_command = False  # whether the process is a command of its own, whose entry point says when it begins and ends
_is_idle = False  # nothing is under way that could be lost
_final_status: int | None = None  # of a command that has ended, while Python still clears up
_deferred: int | None = None  # a signal that waits for the end of an import
_raised: int | None = None  # a signal that became an exception


class Preempted(BaseException):
    """A command was ended from outside, and nothing is lost; the same command resumes. Its exit status is 75.

    Like KeyboardInterrupt it is no Exception: it may come anywhere, where what was tried must not pass for failed.

    Attributes:
        time_is_up: the command ended since its own time was up, `max_hours`, and not by a signal.
    """

    def __init__(self, text: str = "", time_is_up: bool = False):
        super().__init__(text)
        self.time_is_up = time_is_up


def stop_signals() -> list[int]:
    """Return the signals that end a command, except SIGHUP where it is ignored, as `nohup` does it."""
    numbers = [getattr(signal, name) for name in SIGNAL_NAMES if hasattr(signal, name)]
    hangup = getattr(signal, "SIGHUP", None)
    return [number for number in numbers if number != hangup or signal.getsignal(hangup) != signal.SIG_IGN]


def scheduler_signals() -> list[int]:
    """Return the signals of `stop_signals` without Ctrl-C."""
    return [number for number in stop_signals() if number != signal.SIGINT]


def take_over() -> None:
    """Let `handle_signal` handle the signals of a command from its start on, when nothing is under way yet."""
    global _is_command, _is_idle
    _is_command = _is_idle = True
    for number in stop_signals():
        if signal.getsignal(number) in DEFAULT_HANDLERS:
            signal.signal(number, handle_signal)
    sys.unraisablehook = _deliver_again
    atexit.register(_ignore_all)  # the first that is registered is called last


def set_idle(idle: bool) -> bool:
    """Say whether nothing is under way that an end could cost; returns what was said before.

    Without effect unless `take_over` was called: only then may a signal end the process on the spot.
    """
    global _is_idle
    before, _is_idle = _is_idle, idle and _is_command
    return before


def keep_status(status: int) -> None:
    """Let no signal change the exit status of a command that has ended."""
    global _final_status
    _final_status = status
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    # Python kills itself by SIGINT in the end if a KeyboardInterrupt once left a string that was executed, as that of a
    # dataclass is, whatever became of it since; the next string makes it forget that
    exec("")


def _ignore_all() -> None:
    """Ignore signals while Python exits: it has dropped its handlers, and a signal would kill it."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)


def describe_ending(number: int) -> tuple[int, str]:
    """Return (exit status, message) of a command that a signal ended before there was anything to save."""
    if number == signal.SIGINT:
        return INTERRUPTED_STATUS, "stopped"
    return REQUEUE_STATUS, f"stopped ({signal.Signals(number).name}); rerun the same command to resume"


def handle_signal(number: int, frame: FrameType | None) -> None:
    """End the command: at once if nothing is under way, else by an exception, but not in the middle of an import.

    An exception that is raised while a C extension is initialized becomes an ImportError with a page of frames, and
    some packages swallow whatever is raised while they import what is optional. So the signal waits for the import to
    end; a second Ctrl-C does not.

    Raises:
        KeyboardInterrupt, Preempted: as the signal is Ctrl-C or another.
    """
    global _deferred, _raised
    if _final_status is not None:
        os._exit(_final_status)
    importing = _is_importing(frame)
    if _is_idle or (_is_command and importing and number == _deferred == signal.SIGINT):
        _end_at_once(number)
    if importing and hasattr(signal, "setitimer"):
        _defer(number)
        return
    _deferred, _raised = None, number
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    ignore_schedulers()
    raise Preempted(describe_ending(number)[1])


def take_swallowed_signal() -> str | None:
    """Return the name of a signal that has not ended the command, since a package caught its exception or it waits for
    an import; None if there is none.

    A training asks when it begins: it then ends after its first step.
    """
    global _deferred, _raised
    number, _deferred, _raised = _raised or _deferred, None, None
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    return SIGNAL_NAMES[signal.Signals(number).name] if number is not None else None


def _defer(number: int) -> None:
    """Handle a signal a moment later."""
    global _deferred
    _deferred = number
    signal.signal(signal.SIGALRM, lambda _, later: _answer_deferred(number, later))
    signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)


def _answer_deferred(number: int, frame: FrameType | None) -> None:
    global _deferred
    _deferred = None
    handle_signal(number, frame)


def _deliver_again(fault: Any) -> None:
    """Handle a signal once more if its exception was raised where none can be, such as in a package's C or Rust code.

    Args:
        fault: as of `sys.unraisablehook`, in whose place this is: anything else is printed as Python does it.
    """
    is_stop = issubclass(fault.exc_type, (KeyboardInterrupt, Preempted)) and hasattr(signal, "setitimer")
    if is_stop and _raised is not None:
        _defer(_raised)
    else:
        sys.__unraisablehook__(fault)


def _end_at_once(number: int) -> None:
    status, text = describe_ending(number)
    try:
        os.write(2, f"paddlemae: {text}\n".encode())
    finally:  # also if nobody reads it
        os._exit(status)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def ignore_schedulers() -> None:
    """Ignore schedulers' signals while a command ends: repeated ones would change its exit status."""
    try:
        for number in scheduler_signals():
            signal.signal(number, signal.SIG_IGN)
    except ValueError:  # not the main thread, which they are sent to
        pass
