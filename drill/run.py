"""Kill and stop trainings on the embedded digits, fill their disks, and check that nothing is lost or left over.

python -m drill.run --kills 60 --worker-kills 20 --launch-kills 20 --stops 15 --launch-stops 5 --faults 30

Each training is started by the same command again and again until it ends, and must then equal one that was left alone:
weights, slots and averages bit for bit, metrics but for the clock and the memory, no file more or less; with data
workers it must equal the one without. After every start checkpoints are held against their checksums, no process,
shared memory or temporary folder may be left, and the last words must be clear.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from drill.blows import LAUNCHER, MAIN, RANKS, WORKER, Blow, fill, kill, limit_files, refuse_renames, small_disk, stop
from drill.leftovers import adopt_orphans, in_shared_memory, left_behind
from drill.trainings import (
    ALONE,
    LAUNCHED,
    WITH_WORKERS,
    Training,
    begin,
    content,
    differences,
    end,
    import_tasks,
    pointed_to,
    unreadable,
)
from paddlemae.runs.runlog import is_finished
from paddlemae.system.signals import REQUEUE_STATUS

LAUNCH_FOLDERS = "paddlemae-launch-"
FAULT_STATUS = 2
LEFT_OUT = re.compile(r"reconstruction of step (\d+) is left out")  # a picture that a full disk cost, which is said
MOST_STARTS = 8  # of a run that are struck, before it is left to its end and compared


@dataclass(frozen=True)
class Round:
    """Blows of some kinds in turn, each at a training that is started once more.

    Attributes:
        blows: that fall while it runs.
        prepare: what is done to its process before it begins.
        each: blows at most between a start and its end.
        allowed: exit statuses.
    """

    name: str
    wanted: int
    trainings: Sequence[Training]
    allowed: set[int]
    blows: Sequence[Blow] = ()
    prepare: Callable[[random.Random], None] | None = None
    each: int = 1


class Drill:
    """Results of the blows so far."""

    def __init__(self, room: Path, seed: int):
        self.room, self.dice = room, random.Random(seed)
        self.shared = in_shared_memory()
        self.counts: Counter[str] = Counter()
        self.compared = 0
        self.wrong: list[str] = []
        self.left_out: set[str] = set()  # pictures of the present run
        self.words: list[str] = []  # of its starts
        self.saved_otherwise = False  # at a stop, or not at a fault: other steps' checkpoints are among the newest
        self.whole: dict[str, dict[str, object]] = {}

    def expected(self, name: str) -> dict[str, object]:
        """Return the content of the same training when it is left alone."""
        if name not in self.whole:
            (training,) = (one for one in [*ALONE, *LAUNCHED] if one.name == name)
            out = self.room / name
            if status := end(begin(training, out, self.log)):
                raise RuntimeError(f"{name} ends with status {status} when left alone: {self.log.read_text()}")
            self.whole[name] = content(out)
        return self.whole[name]

    @property
    def log(self) -> Path:
        return self.room / "log"

    def deal(self, round_: Round, disk: Path) -> None:
        """Deal the round's blows, and compare the end of every run."""
        dealt = turn = 0
        while dealt < round_.wanted:
            training = round_.trainings[turn % len(round_.trainings)]
            turn += 1
            out = disk / f"{training.name}-{turn}"
            self.expected(training.like)
            for _ in range(self.dice.randint(2, MOST_STARTS)):
                last = min(dealt + round_.each, round_.wanted)
                said, status = self.start(round_, training, out, list(islice(cycle(round_.blows), dealt, last)))
                dealt += len(said)
                for one in said or ["ended before"]:
                    self.counts[f"{round_.name}: {one}, status {status}"] += 1
                if is_finished(out) or dealt == round_.wanted:  # also one that was killed right after its last word
                    break
            self.finish(training, out)
            print(f"{round_.name}: {dealt} of {round_.wanted}, {len(self.wrong)} wrong", file=sys.stderr, flush=True)

    def start(self, round_: Round, training: Training, out: Path, blows: list[Blow]) -> tuple[list[str], int]:
        """Start a training once and check what it leaves; return (the blows that fell, the exit status)."""
        prepare = round_.prepare
        pid = begin(training, out, self.log, (lambda: prepare(self.dice)) if prepare else lambda: None)
        self.dice.random()  # a fork must not repeat the one before
        said = [prepare.__name__.replace("_", " ")] if prepare else []
        for blow in blows:
            if not (one := blow(pid, out, self.dice)):
                break
            said.append(one)
        status = end(pid)
        self.look(out, status, round_.allowed, f"{out.name} after {' and '.join(said) or 'nothing'}")
        return said, status

    def look(self, out: Path, status: int, allowed: set[int], after: str) -> None:
        """Check what a start left."""
        faults = [*unreadable(out), *self.unclear(status)]
        if status not in allowed:
            faults.append(f"status {status}")
        words = self.log.read_text(errors="replace")
        self.words.append(f"{after}, status {status}: {words[-2000:]}")
        self.saved_otherwise |= status == REQUEUE_STATUS or "could not save" in words
        self.left_out |= {f"exhibits/reconstructions-step_{int(step):08d}.jpg" for step in LEFT_OUT.findall(words)}
        if status != -signal.SIGKILL:
            faults += left_behind(self.shared)
        elif self.dice.random() < 0.5:  # else the next start comes at once, and is looked at
            faults += left_behind(self.shared, but=LAUNCH_FOLDERS)  # which the next start deletes
        if faults:
            self.wrong.append(f"{after}: {'; '.join(faults)}; its words: {words[-2000:]}")

    def unclear(self, status: int) -> list[str]:
        """Return what would be unclear to a user in the training's last output."""
        words = self.log.read_text(errors="replace")
        last = (words.strip().splitlines() or [""])[-1]
        faults = ["a traceback"] if "Traceback" in words else []
        if status == FAULT_STATUS and not last.startswith("paddlemae: error: "):
            faults.append("no word on the error")
        if status == REQUEUE_STATUS and not last.startswith("paddlemae: stopped "):
            faults.append("no word on the stop")
        return faults

    def finish(self, training: Training, out: Path) -> None:
        """Let a run come to its end, unless it has, and compare it."""
        if not is_finished(out):
            self.look(out, end(begin(training, out, self.log)), {0}, f"{out.name}, left to its end")
        try:
            found = content(out)
        except (OSError, ValueError) as fault:
            found = {"fault": str(fault)}
        expected = self.expected(training.like)
        if self.saved_otherwise:
            found, expected = pointed_to(found), pointed_to(expected)
        self.compared += 1
        different = differences(found, expected)
        if different := [name for name in different if name in found or name not in self.left_out]:
            self.wrong.append("\n".join([f"{out.name} differs: {', '.join(different[:5])}", *self.words]))
        self.left_out, self.words, self.saved_otherwise = set(), [], False
        shutil.rmtree(out)


def kill_rounds(wanted: argparse.Namespace) -> list[Round]:
    killed = {0, -signal.SIGKILL}
    launched = [kill(whom, start_seconds=15) for whom in (*RANKS, LAUNCHER, MAIN)]
    return [
        Round("alone", wanted.kills, ALONE, killed, [kill(MAIN, 6)]),
        # one of four kills is of the main process, whose workers must follow it; three deaths of workers are made good
        Round("workers=2", wanted.worker_kills, WITH_WORKERS, killed, [*3 * [kill(WORKER, 3)], kill(MAIN, 3)], each=4),
        Round("--procs 2", wanted.launch_kills, LAUNCHED, killed, launched, each=3),
    ]


def stop_rounds(wanted: argparse.Namespace) -> list[Round]:
    stopped = {0, REQUEUE_STATUS}
    return [
        Round("alone", wanted.stops, ALONE, stopped, [stop()]),
        Round("--procs 2", wanted.launch_stops, LAUNCHED, stopped, [stop(15)]),
    ]


def fault_rounds(wanted: int) -> tuple[list[Round], Round]:
    """Return (rounds on any disk, the round on a small disk)."""
    ended, each = {0, FAULT_STATUS}, wanted // 3
    rounds = [Round("alone", each, ALONE, ended, prepare=prepare) for prepare in (refuse_renames, limit_files)]
    return rounds, Round("alone", wanted - 2 * each, ALONE, ended, [fill])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    numbers = dict(kills=60, worker_kills=20, launch_kills=20, stops=15, launch_stops=5, faults=30, seed=0)
    for name, number in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=number)
    wanted = parser.parse_args()
    import_tasks()
    adopt_orphans()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        drill = Drill(Path(folder), wanted.seed)
        os.environ["TMPDIR"] = tempfile.tempdir = str(drill.room / "temporary")
        os.mkdir(tempfile.tempdir)
        faults, full_disks = fault_rounds(wanted.faults)
        for round_ in (*kill_rounds(wanted), *stop_rounds(wanted), *faults):
            drill.deal(round_, drill.room)
        with small_disk(drill.room / "disk") as mounted:
            if mounted:
                drill.deal(full_disks, drill.room / "disk")
            else:
                print("no file system may be mounted here: full disks are left out")
    for what, count in sorted(drill.counts.items()):
        print(f"{count:5}  {what}")
    print(*drill.wrong, sep="\n")
    asked = ", ".join(f"{name.replace('_', '-')} {number}" for name, number in vars(wanted).items())
    print(f"{asked}; {drill.compared} runs compared, {len(drill.wrong)} wrong, {time.monotonic() - started:.0f} s")
    return bool(drill.wrong)


if __name__ == "__main__":
    sys.exit(main())
