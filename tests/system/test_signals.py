"""Signals that end a command at any moment: its status, one line at most, and never a page of frames."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import paddlemae
from paddlemae.system import signals

ROOT = Path(paddlemae.__file__).parents[1]
# as the installed command does it; a shell's background commands ignore Ctrl-C, those of nohup SIGHUP, and tests may be
# run by one
HEARS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
HEARS += "signal.signal(signal.SIGHUP, signal.SIG_DFL); " if hasattr(signal, "SIGHUP") else ""
COMMAND = HEARS + "from paddlemae.__main__ import main; main()"
# once Python itself has started, which takes hundredths of a second, and before anything else is imported
READY = HEARS + "import os; from paddlemae.system import signals; signals.take_over(); os.write(1, b'.'); "
READY += "from paddlemae.__main__ import main; main()"
STATUSES = {"SIGINT": 130, "SIGTERM": 75, "SIGHUP": 75, "SIGUSR1": 75, "SIGXCPU": 75}


def run(code: str, *arguments: str, **settings) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **settings)


def ended_at(moment: float, name: str, arguments: list[str]) -> tuple[int, str]:
    """(status, words) of a command that gets a signal so many seconds after Python has started."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with subprocess.Popen([sys.executable, "-c", READY, *arguments], **pipes) as process:
        assert process.stdout.read(1) == b"."
        time.sleep(moment)
        process.send_signal(getattr(signal, name))
        words = process.communicate(timeout=60)[0].decode()
    return process.returncode, words


def pretrain(photos: Path, tiny: list[str], out: Path) -> list[str]:
    return ["pretrain", *tiny, "--data", str(photos), "--out", str(out), "--quiet", "steps=100000"]


@pytest.mark.parametrize(
    ("name", "moment"), [("SIGINT", 0.05), ("SIGTERM", 0.2), ("SIGINT", 0.45), ("SIGHUP", 0.8), ("SIGINT", 1.1)]
)
def test_a_signal_while_a_command_starts_is_one_line(photos, tiny, tmp_path, name: str, moment: float) -> None:
    status, words = ended_at(moment, name, pretrain(photos, tiny, tmp_path / "run"))
    assert status == STATUSES[name] and re.fullmatch(r"paddlemae: stopped.*\n", words), words


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_at_any_early_moment_is_one_line(photos, tiny, tmp_path, name: str) -> None:
    for number in range(50):
        moment = 0.02 + 2 * number / 50
        status, words = ended_at(moment, name, pretrain(photos, tiny, tmp_path / f"run{number}"))
        assert status == STATUSES[name] and re.fullmatch(r"paddlemae: stopped.*\n", words), (moment, words)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_command_that_ends_has_its_own_status_or_the_signals(photos, name: str) -> None:
    """The last line is said, and Python clears up: at no moment is it killed by what comes then."""
    for number in range(40):
        status, words = ended_at(0.02 * number, name, ["data", "check", str(photos), "--quiet"])
        assert status in (0, STATUSES[name]) and "Traceback" not in words, (number, status, words)


INTERRUPTED_IMPORT = """
import os, signal, sys, time
from pathlib import Path
from paddlemae.system import signals
signal.signal(signal.SIGINT, signal.default_int_handler)
signals.take_over()
signals.set_idle(sys.argv[2] == "idle")
folder = Path(sys.argv[1])
(folder / "swallowing.py").write_text('''
import os, signal, time
try:
    for _ in range(int(os.environ["TIMES"])):
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
except BaseException:
    pass
print("imported", flush=True)
''')
sys.path.insert(0, str(folder))
try:
    import swallowing
    time.sleep(20)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("idle", "times", "wanted"),
    [
        ("idle", 1, (130, "", "paddlemae: stopped\n")),
        ("busy", 1, (0, "imported\ninterrupted\n", "")),
        ("busy", 2, (130, "", "paddlemae: stopped\n")),
    ],
)
def test_an_import_is_not_torn_but_by_the_second_ctrl_c(tmp_path, idle: str, times: int, wanted: tuple) -> None:
    done = run(INTERRUPTED_IMPORT, str(tmp_path), idle, env={**os.environ, "TIMES": str(times)})
    assert (done.returncode, done.stdout, done.stderr) == wanted


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_where_no_exception_can_be_raised_is_delivered_again(name: str) -> None:
    code = f"""
import os, signal, time
from paddlemae.system import signals
signal.signal(signal.SIGINT, signal.default_int_handler)
signals.take_over()
signals.set_idle(False)
class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.01)
try:
    Swallows()
    time.sleep(20)
except (KeyboardInterrupt, signals.Preempted) as end:
    print(type(end).__name__)
class Fails:
    def __del__(self):
        raise OSError("is printed as ever")
Fails()
"""
    done = run(code)
    assert done.stdout == {"SIGINT": "KeyboardInterrupt\n", "SIGTERM": "Preempted\n"}[name]
    assert done.stderr.count("Traceback") == 1 and done.stderr.endswith("OSError: is printed as ever\n")


@pytest.mark.parametrize("name", list(STATUSES))
def test_the_status_of_a_command_that_has_ended_stays(name: str) -> None:
    code = f"""
import atexit, os, signal, sys
from paddlemae.system import signals
signals.take_over()
signals.set_idle(False)
try:
    exec("raise KeyboardInterrupt")  # Python would kill itself in the end, by SIGINT
except KeyboardInterrupt:
    signals.keep_status(7)
class Late:
    def __del__(self):
        self.kill(self.pid, signal.{name})
late = Late()
late.kill, late.pid = os.kill, os.getpid()
sys.late = late  # goes with the last modules
sys.exit(7)
"""
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_a_program_without_a_command_is_not_ended() -> None:
    assert signals.set_idle(True) is False and signals.set_idle(False) is False


def test_a_hangup_that_was_ignored_from_the_start_stays_ignored() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        assert signal.SIGHUP in signals.stop_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert signal.SIGHUP not in signals.stop_signals() and signal.SIGTERM in signals.stop_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sigterm_while_paddle_is_imported_shows_none_of_its_frames() -> None:
    """Whichever thread the system chooses: NumPy's threads inherit what waits, since they start behind it."""
    code = """
import sys
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
def spy(name, *rest):
    if name == "paddle":
        print("numpy" in sys.modules)
    return find_spec(name, *rest)
PathFinder.find_spec = spy
from paddlemae.cli.app import main
main()
"""
    for command in ("evaluate unmade --data digits", "embed unmade --data digits --out a.npz", "demo --out /dev/null"):
        assert set(run(code, *command.split()).stdout.split()) == {"False"}
