"""The command that watches its processes: what it refuses, forwards, starts again and leaves behind; no Paddle starts.

Instead of Paddle's launcher a script of a few lines is run, which does what the watching relies on: one log file and a
few variables a process, and an end of all when one fails. Instead of training, processes do what their first argument
says.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import paddlemae
from paddlemae.launch import launcher
from paddlemae.launch.commands import TrainingCommand
from paddlemae.launch.launcher import Launch, process_identity, report_entered, run_ranks
from paddlemae.runs.full_disk_output import survive_lost_output
from paddlemae.system.signals import SIGNAL_NAMES

LAUNCHER = """
import os, subprocess, sys, time
from pathlib import Path

options, words = {}, sys.argv[1:]
while words[0].startswith("--"):
    options[words[0]], words = words[1], words[2:]
Path(os.environ["NOTES"], "options").write_text(repr(options))
Path(os.environ["NOTES"], "launchers").open("a").write(f"{os.getpid()}\\n")
deadline = time.monotonic() + 60  # whatever goes wrong, nothing stays for long
if os.environ.get("STARTS_NOTHING"):
    sys.exit("no port is free")
logs = Path(options["--log_dir"])
logs.mkdir()
ranks = []
for rank in range(int(options["--nproc_per_node"])):
    environment = {**os.environ, "PADDLE_LOCAL_RANK": str(rank)}
    with (logs / f"workerlog.{rank}").open("w") as log:
        ranks.append(subprocess.Popen([sys.executable, *words], env=environment, stdout=log, stderr=log))
while None in (statuses := [rank.poll() for rank in ranks]) and not any(statuses) and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(0.3 * any(statuses))  # Paddle's looks less often, so that it is seen who died first
for rank in ranks:
    rank.kill()
    rank.wait()
while os.environ.get("NEVER_ENDS") and time.monotonic() < deadline:
    time.sleep(0.1)
sys.exit(any(statuses))
"""
RANK = """
import json, os, signal, sys, time, traceback
from pathlib import Path
from paddlemae.launch.launcher import process_identity, report_entered
from paddlemae.system.atomic import replace_text

folder, notes = Path(os.environ["PADDLEMAE_LAUNCH_FOLDER"]), Path(os.environ["NOTES"])
rank = int(os.environ["PADDLE_LOCAL_RANK"])
replace_text(folder / f"{rank}.process", json.dumps(process_identity(os.getpid())))

def note(name, value):
    with (notes / name).open("a") as file:
        file.write(json.dumps(value) + "\\n")

def wait_for(condition):
    while not condition():
        time.sleep(0.005)

def end(status):
    replace_text(folder / f"{rank}.status", str(status))
    sys.exit(0 if status in (0, 2, 75, 130) else status)

note(f"words.{rank}", sys.argv[2:])
note("pids", os.getpid())
attempt = len((notes / f"words.{rank}").read_text().splitlines())
try:
    exec(sys.argv[1])
except Exception:
    traceback.print_exc()
    end(1)
end(0)
"""
# signals that a process gets, and an end once it got one
LISTENING = """
got = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, lambda number, frame: got.append(signal.Signals(number).name))
note("listening", rank)
wait_for(lambda: got)
note("told", rank)
"""
TWICE = Launch("2")
PATIENCE = 30.0  # seconds, for what takes tenths of one


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


class Watched:
    """Runs commands with the launcher above, and reads what their processes noted."""

    def __init__(self, folder: Path):
        self.notes, self.temporary = folder / "notes", folder / "temporary"
        self.notes.mkdir()
        self.temporary.mkdir()
        stub = folder / "stub" / "paddle" / "distributed" / "launch"
        stub.mkdir(parents=True)
        for package in (stub.parent.parent, stub.parent, stub):
            (package / "__init__.py").touch()
        (stub / "__main__.py").write_text(LAUNCHER)
        self.script = folder / "rank_stub.py"
        self.script.write_text(RANK)
        paths = [str(folder / "stub"), str(Path(paddlemae.__file__).parents[1])]
        self.variables = {"PYTHONPATH": os.pathsep.join(paths), "NOTES": str(self.notes)}

    def run(self, code: str, *words: str, processes: int = 2, newest=lambda: None, how=TWICE, **variables) -> int:
        return run_ranks([code, *words], processes, how, newest, {**self.variables, **variables})

    def noted(self, name: str) -> list[Any]:
        path = self.notes / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def attempts(self) -> list[list[str]]:
        """The words of each start of the first process."""
        return self.noted("words.0")


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """And sees that no process and no file is left behind."""
    found = Watched(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(found.temporary))
    monkeypatch.setattr(launcher, "RANK_SCRIPT", found.script)
    monkeypatch.setattr(launcher, "LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(launcher, "PAUSE_SECONDS", 0.0)
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in SIGNAL_NAMES}
    yield found
    left = [pid for pid in found.noted("pids") + found.noted("launchers") if process_identity(pid)[1]]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    assert list(found.temporary.iterdir()) == []
    assert {name: signal.getsignal(getattr(signal, name)) for name in SIGNAL_NAMES} == handlers


# ---------------------------------------------------------------- what is refused


def test_a_launch_that_makes_no_sense_is_one_line() -> None:
    for how, message in [
        (Launch("0"), "--procs must be a number of processes, or auto; got '0'"),
        (Launch("-1"), "--procs must be a number"),
        (Launch("two"), "--procs must be a number"),
        (Launch("1.5"), "--procs must be a number"),
        (Launch(""), "--procs must be a number"),
        (Launch("2", nodes=2), "--nodes 2 needs --master HOST:PORT"),
        (Launch("2", master="a:1"), "--master must be HOST:PORT and needs several --nodes; got 'a:1' with --nodes 1"),
        (
            Launch("2", nodes=2, master="a"),
            "--master must be HOST:PORT and needs several --nodes; got 'a' with --nodes 2",
        ),
        (Launch("2", nodes=2, master="a:"), "--master must be HOST:PORT"),
        (Launch("2", nodes=2, master="a:http"), "--master must be HOST:PORT"),
        (Launch("2", nodes=2, master=":29500"), "--master must be HOST:PORT"),
        (
            Launch("2", nodes=2, master="a:1", node_rank=2),
            "--node-rank must be from 0 to --nodes - 1; got 2 with --nodes 2",
        ),
        (Launch("2", nodes=2, master="a:1", node_rank=-1), "--node-rank must be from 0"),
        (Launch("2", node_rank=1), "--node-rank must be from 0 to --nodes - 1; got 1 with --nodes 1"),
    ]:
        with pytest.raises(ValueError, match=message) as fault:
            how.check()
        assert "\n" not in str(fault.value)
    for how in (
        Launch(),
        Launch("1"),
        Launch("64"),
        Launch("auto"),
        Launch("2", 2, "a:1"),
        Launch(None, 3, "[::1]:80", 2),
    ):
        how.check()


def test_several_processes_need_a_launch_unless_this_is_one_of_them(monkeypatch) -> None:
    several = [Launch("2"), Launch("auto"), Launch(nodes=2, master="a:1"), Launch("1", nodes=2, master="a:1")]
    monkeypatch.delenv("PADDLE_TRAINER_ID", raising=False)
    assert [how.is_needed for how in several] == [True] * 4
    assert not Launch().is_needed and not Launch("1").is_needed
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    assert [how.is_needed for how in several] == [False] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--procs", "0"], "--procs must be a number of processes, or auto; got '0'"),
        (["--procs", "3"], "3 processes can't share a batch_size of 8 evenly; choose a number that divides it"),
        (["--procs", "2", "--nodes", "3", "--master", "a:1"], "6 processes can't share a batch_size of 8 evenly"),
        (["--procs", "auto", "--nodes", "2", "--master", "a:1"], "--procs auto is for pretraining on one host"),
        (["--nodes", "2"], "--nodes 2 needs --master"),
        (["--master", "a:1"], "--master must be HOST:PORT"),
        (["--nodes", "2", "--master", "a:1", "--node-rank", "2"], "--node-rank must be from 0"),
        (["--procs", "2", "batch_size=many"], "batch_size"),
    ],
    ids=" ".join,
)
def test_mistakes_of_a_command_line_start_nothing(
    paddlemae, tiny, photos, tmp_path, monkeypatch, options, message
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **settings: pytest.fail("something was started"))
    done = paddlemae("pretrain", *tiny, "--data", photos, "--out", tmp_path / "run", *options)
    assert done.status == 2 and done.out == "" and done.err.count("\n") == 1, done
    assert done.err.startswith("paddlemae: error: ") and message in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_launch_without_a_folder_or_of_auto_fine_tuning_is_refused(paddlemae, tiny, encoder, photos, tmp_path):
    done = paddlemae("pretrain", *tiny, "--data", photos, "--procs", "2")
    assert done.status == 2 and done.err == "paddlemae: error: name the run folder to write: --out runs/NAME\n"
    command = ["finetune", *encoder, "--init", "scratch", "--data", photos, "--out", tmp_path / "run"]
    done = paddlemae(*command, "--procs", "auto")
    assert done.status == 2 and "--procs auto is for pretraining on one host; give a number instead" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_launches_nothing(paddlemae, tiny, photos, tmp_path, untried) -> None:
    done = paddlemae("pretrain", *tiny, "--data", photos, "--procs", "2", "--dry-run")
    assert done.status == 0 and "parameters:" in done.out


def test_processes_are_started_with_the_recipe_and_its_folder_alone() -> None:
    overrides = {"epochs": 3, "mask": "grid", "data": "my photos", "mean": (0.5, 0.25), "split": "7"}
    command = TrainingCommand("pretrain", "digits", overrides, Path("a"), overwrite=True)
    settings = ["epochs=3", "mask=grid", "mean=[0.5, 0.25]", 'split="7"']
    assert command.words() == ["pretrain", "digits", *settings, "--data", "my photos", "--out", "a", "--overwrite"]


# ---------------------------------------------------------------- who is who


def test_a_process_is_known_by_when_it_started() -> None:
    own = process_identity(os.getpid())
    assert own[0] == os.getpid() and own[1] and own == process_identity(os.getpid()) == json.loads(json.dumps(own))
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        other = process_identity(process.pid)
        assert other[1] and other[1] != own[1]
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{process.pid}").exists()  # a zombie, which works no more
        assert process_identity(process.pid) == [process.pid, None]
    finally:
        process.communicate()
    assert process_identity(process.pid) == [process.pid, None]


def test_a_run_that_was_entered_is_noted_where_somebody_watches(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(launcher.FOLDER_VARIABLE, raising=False)
    report_entered()
    monkeypatch.setenv(launcher.FOLDER_VARIABLE, str(tmp_path))
    report_entered()
    assert [path.name for path in tmp_path.iterdir()] == ["entered"]


# ---------------------------------------------------------------- ends that are in order


def test_all_that_end_well_end_the_command_well(watched, capfd) -> None:
    assert watched.run("print('hello from', rank)", "--procs-are", "gone", processes=3) == 0
    assert [watched.noted(f"words.{rank}") for rank in range(3)] == [[["--procs-are", "gone"]]] * 3
    assert capfd.readouterr() == ("", "hello from 0\n")  # the others' words would only repeat it


@pytest.mark.parametrize(
    ("statuses", "status"), [((2, 2), 2), ((75, 75), 75), ((130, 130), 130), ((0, 75), 75), ((75, 2), 2), ((2, 1), 2)]
)
def test_an_orderly_end_is_the_commands_and_starts_nothing_again(watched, statuses, status: int) -> None:
    both = "note('here', rank); wait_for(lambda: len((notes / 'here').read_text().splitlines()) == 2)"
    code = f"{both}\nif rank: wait_for((folder / '0.status').exists)\nend({list(statuses)}[rank])"
    assert watched.run(code) == status
    assert len(watched.attempts) == 1


@pytest.mark.parametrize("other", ["end(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_process_stopped_for_anothers_crash_is_not_preempted(watched, other: str) -> None:
    code = f"if rank: wait_for((folder / '0.status').exists)\nif rank: {other}\nend(75)"
    assert watched.run(code, how=Launch("2", restarts=0)) == 1


def test_the_folder_of_a_launch_is_private_and_goes_with_it(watched) -> None:
    assert watched.run("note('modes', [str(folder), folder.stat().st_mode & 0o777])", SECRET="x") == 0
    (first, mode), _ = watched.noted("modes")
    assert mode == 0o700 and Path(first).parent == watched.temporary and not Path(first).exists()


def test_processes_know_who_watches_them(watched) -> None:
    names = ["PADDLEMAE_SUPERVISOR", "PADDLE_DISTRI_BACKEND", "GLOG_minloglevel"]
    code = f"note('known', [os.environ.get(name) for name in {names}])"
    assert watched.run(code, processes=1, PADDLE_DISTRI_BACKEND="gloo") == 0
    ((supervisor, backend, words),) = watched.noted("known")
    assert json.loads(supervisor) == process_identity(os.getpid()) and backend == "gloo" and words == "2"


@pytest.mark.parametrize(
    ("how", "options"),
    [
        (Launch("2"), {"--nproc_per_node": "2"}),
        (Launch("2", 3, "a:1"), {"--nproc_per_node": "2", "--nnodes": "3", "--master": "a:1"}),
        (Launch("2", 3, "a:1", 0), {"--nproc_per_node": "2", "--nnodes": "3", "--master": "a:1", "--rank": "0"}),
    ],
)
def test_the_launcher_gets_the_other_hosts(watched, how: Launch, options: dict[str, str]) -> None:
    assert watched.run("end(0)", how=how) == 0
    told = eval((watched.notes / "options").read_text())
    assert Path(told.pop("--log_dir")).parent.parent == watched.temporary
    assert told == options


def test_a_launcher_that_does_not_end_is_ended(watched, monkeypatch) -> None:
    monkeypatch.setattr(launcher, "GRACE_SECONDS", 0.05)
    assert watched.run("end(0)", NEVER_ENDS="1") == 0


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize("restarts", [0, 2])
def test_crashes_in_a_row_are_bounded(watched, capfd, restarts: int) -> None:
    assert watched.run("end(1)", "--overwrite", processes=1, how=Launch("1", restarts=restarts)) == 1
    assert watched.attempts == [["--overwrite"]] * (restarts + 1)  # the folder was never taken
    said = capfd.readouterr().err
    assert "fix the cause, then rerun the same command to resume" in said
    assert (f"gave up after {restarts} restarts without a new checkpoint" in said) == bool(restarts)
    assert said.count("starting again from the beginning") == restarts


def test_a_crash_after_a_new_checkpoint_resets_the_count(watched, capfd) -> None:
    def newest() -> str:
        return f"step_{len(watched.attempts) // 2}"  # each second attempt comes further

    how = Launch("1", restarts=2)
    assert watched.run("end(1 if attempt < 5 else 0)", processes=1, newest=newest, how=how) == 0
    assert len(watched.attempts) == 5
    said = capfd.readouterr().err
    assert "starting again from step_2 (1 of 2 restarts)" in said and "gave up" not in said


def test_progress_long_ago_does_not_count(watched) -> None:
    def newest() -> str:
        return f"step_{min(len(watched.attempts), 2)}"

    assert watched.run("end(1)", processes=1, newest=newest, how=Launch("1", restarts=1)) == 1
    assert len(watched.attempts) == 3  # the second one came further, and one more may try


def test_what_was_entered_is_not_emptied_again(watched) -> None:
    code = "if rank == 0: report_entered()\nend(1 if attempt < 3 else 0)"
    assert watched.run(code, "a", "--overwrite", "b") == 0
    assert watched.attempts == [["a", "--overwrite", "b"], ["a", "b"], ["a", "b"]]


def test_who_was_killed_is_reported_and_the_end_of_its_log_shown(watched, capfd) -> None:
    code = """
if rank == 1:
    print("last words of", rank, flush=True)
    wait_for((folder / "0.process").exists)
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""
    assert watched.run(code, how=Launch("2", restarts=0)) == 1
    said = capfd.readouterr().err
    assert "process 1 of this host exited without a status: killed" in said and "last words of 1" in said
    assert "process 0" not in said  # the launcher killed it, because of the other


def test_the_traceback_of_a_crash_is_shown_wherever_it_was(watched, capfd) -> None:
    for crashing in (0, 1):
        deep = "".join(f"def f{number}(): f{number + 1}()\n" for number in range(40))  # more frames than lines shown
        raising = "def f40(): raise RuntimeError(f'bug of {rank}')\n"
        code = f"{deep}{raising}if rank == {crashing}: f0()\ntime.sleep(60)"
        assert watched.run(code, how=Launch("2", restarts=0)) == 1
        said = capfd.readouterr().err
        assert f"process {crashing} of this host crashed" in said
        assert said.count("Traceback") == 1 and f"RuntimeError: bug of {crashing}" in said


def test_a_launcher_that_starts_nothing_has_its_words_shown(watched, capfd) -> None:
    assert watched.run("end(0)", how=Launch("2", restarts=0), STARTS_NOTHING="1") == 1
    assert "the launcher started no process; its last output: no port is free" in capfd.readouterr().err


def test_processes_do_not_outlive_their_launcher(watched, capfd) -> None:
    both = "note('here', rank); wait_for(lambda: len((notes / 'here').read_text().splitlines()) == 2)"
    code = f"{both}\nif rank == 1: os.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)"
    assert watched.run(code, how=Launch("2", restarts=0)) == 1  # that they are gone is seen afterwards
    assert "the launcher was ended by SIGKILL" in capfd.readouterr().err


# ---------------------------------------------------------------- signals


def send_when(condition: Callable[[], Any], *names: str) -> threading.Thread:
    """Send signals to this process, each once there is one more reason to."""

    def send() -> None:
        for number, name in enumerate(names):
            wait_for(lambda number=number: condition() > number)
            os.kill(os.getpid(), getattr(signal, name))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGINT", 130), ("SIGUSR1", 75), ("SIGHUP", 75)])
def test_signals_reach_each_process_once(watched, name: str, status: int) -> None:
    code = LISTENING + f"time.sleep(0.2)\nnote('got', got)\nend({status})"
    sender = send_when(lambda: len(watched.noted("listening")) == 2, name)
    assert watched.run(code) == status
    sender.join()
    assert watched.noted("got") == [[name]] * 2 and len(watched.attempts) == 1


def test_words_of_the_processes_that_nobody_reads_do_not_end_them(watched, monkeypatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as broken:
        monkeypatch.setattr(sys, "stderr", broken)
        with survive_lost_output():
            assert watched.run("print('words', flush=True); time.sleep(0.1); print('more')") == 0


def test_a_launch_that_cannot_start_leaves_nothing(watched, monkeypatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **settings: exec("raise OSError('no processes')"))
    with pytest.raises(OSError, match="no processes"):
        watched.run("end(0)")


def test_a_schedulers_second_signal_changes_nothing(watched) -> None:
    code = LISTENING + "time.sleep(0.2)\nnote('got', got)\nend(75)"
    reasons = lambda: (len(watched.noted("listening")) == 2) + (len(watched.noted("told")) == 2)  # noqa: E731
    sender = send_when(reasons, "SIGTERM", "SIGTERM")
    assert watched.run(code) == 75
    sender.join()
    assert watched.noted("got") == [["SIGTERM"]] * 2


def test_a_second_ctrl_c_ends_them_at_once(watched) -> None:
    reasons = lambda: (len(watched.noted("listening")) == 2) + (len(watched.noted("told")) == 2)  # noqa: E731
    sender = send_when(reasons, "SIGINT", "SIGINT")
    started = time.monotonic()
    assert watched.run(LISTENING + "time.sleep(60)") == 130
    sender.join()
    assert time.monotonic() - started < PATIENCE and len(watched.attempts) == 1


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_before_any_save_starts_nothing_again(watched, name: str, status: int) -> None:
    code = f"signal.signal(signal.{name}, signal.SIG_DFL)\nnote('here', rank)\ntime.sleep(60)"
    sender = send_when(lambda: len(watched.noted("here")) == 2, name)
    assert watched.run(code) == status
    sender.join()
    assert len(watched.attempts) == 1


def test_a_rank_leaves_signals_to_its_main_thread(tmp_path) -> None:
    """Else SIGTERM, while Paddle is imported, reaches the thread that watches the command, and Paddle prints a page."""
    code = """
import os, signal, sys, threading, time
from pathlib import Path
from paddlemae.launch.launcher import process_identity
from paddlemae.cli.rank_main import _die_with
watch = threading.Thread(target=_die_with, args=(process_identity(os.getpid()), Path(sys.argv[1])), daemon=True)
watch.start()
status = Path(f"/proc/self/task/{watch.native_id}/status")
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    (blocked,) = (int(line.split()[1], 16) for line in status.read_text().splitlines() if line.startswith("SigBlk"))
    if blocked >> (signal.SIGTERM - 1) & 1:
        os._exit(0)
    time.sleep(0.05)
os._exit(3)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60).returncode == 0
