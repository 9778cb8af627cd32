"""Asked to stop: which signals, how often, and by the clock."""

import contextlib
import os
import signal
import threading
import time

import pytest

from paddlemae.system.signals import Preempted
from paddlemae.train.stopping import Stop, ended_by_signals, stop_on_signals


def test_the_first_ctrl_c_is_a_flag_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set() and stop.reason == "Ctrl-C"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP", "SIGXCPU"])
def test_schedulers_may_repeat_themselves(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert stop.is_set() and stop.reason == name
    assert signal.getsignal(number) is before


def test_time_that_is_up_stops_too() -> None:
    now = [100.0]
    stop = Stop(max_seconds=5.0, clock=lambda: now[0])
    now[0] = 104.9
    assert not stop.is_set()
    now[0] = 105.0
    assert stop.is_set() and stop.reason == "max_hours"


def test_training_outside_the_main_thread_leaves_signals_alone() -> None:
    seen = []

    def elsewhere() -> None:
        with stop_on_signals() as stop:
            seen.append((stop.is_set(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(False, signal.getsignal(signal.SIGTERM))]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP", "SIGXCPU"])
def test_outside_of_training_schedulers_end_a_command_where_it_is(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    try:
        with (
            pytest.raises(Preempted, match=rf"stopped \({name}\); rerun the same"),
            ended_by_signals(),
        ):
            signal.raise_signal(number)
        signal.raise_signal(number)  # they repeat themselves, and the status is to be the command's own
    finally:
        for each in ("SIGTERM", "SIGUSR1", "SIGHUP", "SIGXCPU"):
            signal.signal(getattr(signal, each), before)


def test_a_hangup_that_nohup_ignores_does_not_stop_training() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals(), stop_on_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert not stop.is_set() and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_being_ended_passes_for_no_failure_of_what_was_tried() -> None:
    """An image that was just being read must not be counted as unreadable."""
    with pytest.raises(Preempted), contextlib.suppress(Exception), ended_by_signals():
        signal.raise_signal(signal.SIGTERM)


def test_training_answers_in_between_and_all_is_as_before_in_the_end() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ended_by_signals():
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGTERM)
        assert stop.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_a_package_caught_ends_the_training() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}
    try:
        with ended_by_signals():
            with contextlib.suppress(BaseException):  # as some packages do it
                signal.raise_signal(signal.SIGTERM)
            with stop_on_signals() as stop:
                assert stop.is_set() and stop.reason == "SIGTERM"
        with pytest.raises(Preempted), ended_by_signals():
            signal.raise_signal(signal.SIGUSR1)
        with stop_on_signals() as stop:
            assert not stop.is_set(), "that one ended what it was to end"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_while_a_lock_is_taken_is_still_that_signal() -> None:
    """As in the start of a thread, whose lock is then released before it was acquired."""
    condition = threading.Condition(threading.RLock())
    with pytest.raises(Preempted), ended_by_signals(), condition:
        condition.release()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


def test_an_error_while_a_signal_is_handled_is_that_error() -> None:
    with pytest.raises(RuntimeError, match="the disk"), ended_by_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        finally:
            raise RuntimeError("the disk is full")
