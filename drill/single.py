"""Kill, stop and starve trainings of one process on the embedded digits, and see that nothing is lost.

python -m drill.single --kills 100 --stops 20 --faults 30

Each training is started by the same command again and again until it ends, and must then equal one that was left alone:
weights, slots and averages bit for bit, metrics but for the clock, no file more or less. Checkpoints are held against
their checksums after every blow. The commands run in forks of this process, which has imported Paddle and done nothing
with it: a start costs a tenth of a second instead of three.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from paddlemae import cli, device
from paddlemae.report.runlog import read_metrics
from paddlemae.train.checkpoint import FOLDER, STEPS, check_intact, find_checkpoint

SMALL = ["embed_dim=32", "depth=2", "num_heads=2", "threads=1", "log_every=7", "warmup_epochs=0.1", "epochs=1"]
COMMANDS = {
    "pretrain": ["pretrain", "digits", *SMALL, "steps=240", "batch_size=16", "drop_path=0.2", "checkpoint_every=0.05"],
    "finetune": [
        *["finetune", "digits", "--init", "scratch", *SMALL, "steps=120", "batch_size=20", "labels=500"],
        *["drop_path=0.2", "mixup=0.8", "cutmix=1", "randaugment=2", "erasing=0.25", "ema_decay=0.9"],
        *["checkpoint_every=0.4", "evaluate_every=1", "eval_split=val"],
    ],
}
CLOCK = ("seconds", "images_per_second", "waiting")
TMPFS_MB = 4
MOST_BLOWS = 8  # at one run, before it is left to its end and compared
PATIENCE_SECONDS = 600


def import_tasks() -> None:
    """Once for all forks."""
    import paddlemae.report.figures
    import paddlemae.tasks.finetune
    import paddlemae.tasks.pretrain  # noqa: F401


def begin(command: list[str], out: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """The process id of `paddlemae COMMAND --out OUT`."""
    if pid := os.fork():
        return pid
    log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["paddlemae", *command, "--quiet", "--out", str(out)]
    prepare()
    with contextlib.suppress(BaseException):
        try:
            cli.main()
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        os._exit(0)
    os._exit(1)


def end(pid: int) -> int:
    """The exit status of a process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_running(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def await_(pid: int, happened: Callable[[], bool]) -> bool:
    """Wait until something has happened; False if the process ended before."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        if not is_running(pid):
            return False
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} neither ends nor does what it should")
        time.sleep(0.001)
    return True


def steps_logged(out: Path) -> int:
    return sum(1 for _ in read_metrics(out))


def kill(pid: int, out: Path, dice: random.Random) -> str:
    """SIGKILL at any moment: half of the times while a checkpoint is being written."""
    writing = dice.random() < 0.5
    if writing and not await_(pid, lambda: any(out.glob(f"{FOLDER}/.*.partial"))):
        return "ended before"
    time.sleep(dice.uniform(0, 0.02) if writing else dice.uniform(0, 6))
    if not is_running(pid):
        return "ended before"
    os.kill(pid, signal.SIGKILL)
    return "killed while writing" if writing else "killed"


def stop(pid: int, out: Path, dice: random.Random) -> str:
    """SIGTERM, several times as schedulers do, once training has begun."""
    before = steps_logged(out)
    if not await_(pid, lambda: steps_logged(out) > before):
        return "ended before"
    time.sleep(dice.uniform(0, 1))
    for _ in range(3):
        if is_running(pid):
            os.kill(pid, signal.SIGTERM)
    return "stopped"


def refuse_renames(dice: random.Random) -> None:
    """In the process to come: checkpoints can't be renamed at one attempt, which it survives, or from then on."""
    replace, calls = os.replace, [0]
    first, last = (start := dice.randint(1, 4)), start + dice.choice([0, 1000])

    def refused(source, target):
        calls[0] += Path(target).match("step_*")
        if Path(target).match("step_*") and first <= calls[0] <= last:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return replace(source, target)

    os.replace = refused  # type: ignore[assignment]


def limit_files(dice: random.Random) -> None:
    """In the process to come: files may not grow beyond a size that some of a checkpoint's have."""
    size = dice.choice([1000, 20_000, 200_000])
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def fill(pid: int, out: Path, dice: random.Random) -> str:
    """Use up the disk that the run is on, for a moment or until the run gives up."""
    checkpoints = len(list(out.glob(f"{FOLDER}/{STEPS}")))
    if not await_(pid, lambda: len(list(out.glob(f"{FOLDER}/{STEPS}"))) != checkpoints or dice.random() < 0.001):
        return "ended before"
    ballast = out.parent / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with contextlib.suppress(TimeoutError):
        deadline = time.monotonic() + dice.choice([0.3, 60])
        await_(pid, lambda: time.monotonic() > deadline)
    ballast.unlink()
    return "disk full"


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of a few megabytes there, if we may mount one; whether we may."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def content(run: Path) -> dict[str, object]:
    """All of a finished run that must not depend on what it went through."""
    files = {str(path.relative_to(run)): None for path in run.rglob("*")}
    last = find_checkpoint(run, whole=True)
    lines = [{key: value for key, value in line.items() if key not in CLOCK} for line in read_metrics(run)]
    result = run / "result.json"
    return {
        **files,
        **{path.name: path.read_bytes() for path in last.glob("*.safetensors")},
        "metrics": lines,
        "result": result.read_text() if result.exists() else None,
    }


def unreadable(out: Path) -> list[str]:
    """Checkpoints that are not what was written."""
    faults = []
    for checkpoint in out.glob(f"{FOLDER}/{STEPS}"):
        try:
            check_intact(checkpoint, whole=True)
        except (OSError, ValueError) as fault:
            faults.append(str(fault))
    return faults


class Drill:
    """Blows at trainings of each command in turn, and what came of them."""

    def __init__(self, room: Path, seed: int):
        self.room, self.dice = room, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.whole: dict[str, dict[str, object]] = {}
        for name, command in COMMANDS.items():
            status = end(begin(command, room / name))
            if status:
                raise RuntimeError((room / f"{name}.log").read_text())
            self.whole[name] = content(room / name)

    def round(self, blow: Callable | None, wanted: int, disk: Path, allowed: set[int], prepare=None) -> None:
        """Blows until there were so many, each at the same command once more; then every run's end is compared."""
        dealt, turn = 0, 0
        while dealt < wanted:
            name = list(COMMANDS)[turn % len(COMMANDS)]
            turn += 1
            out = disk / f"{name}-{turn}"
            for _ in range(self.dice.randint(2, MOST_BLOWS)):
                pid = begin(COMMANDS[name], out, (lambda: prepare(self.dice)) if prepare else lambda: None)
                self.dice.random()  # a fork must not repeat the one before
                said = blow(pid, out, self.dice) if blow else prepare.__name__
                status = end(pid)
                self.counts[f"{said}, status {status}"] += 1
                dealt += said != "ended before"
                if status not in allowed:
                    self.wrong.append(f"{out.name}: status {status}: {out.with_suffix('.log').read_text()[-300:]}")
                self.wrong += unreadable(out)
                if status == 0 or dealt == wanted:
                    break
            self.finish(name, out)

    def finish(self, name: str, out: Path) -> None:
        """Let a run come to its end, unless it has, and compare it."""
        if "finished" not in (text.read_text() if (text := out / "environment.json").exists() else ""):
            end(begin(COMMANDS[name], out))
        try:
            found = content(out)
        except (OSError, ValueError) as fault:
            found = {"fault": str(fault)}
        different = [key for key in {*found, *self.whole[name]} if found.get(key) != self.whole[name].get(key)]
        different += [key for key in {*found} ^ {*self.whole[name]} if key not in different]
        self.counts["runs compared"] += 1
        if different:
            self.wrong.append(f"{out.name} differs: {', '.join(sorted(different)[:5])}")
        shutil.rmtree(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, count in (("kills", 100), ("stops", 20), ("faults", 30), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=count)
    wanted = parser.parse_args()
    device.load_paddle()
    import_tasks()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        drill = Drill(Path(folder), wanted.seed)
        drill.round(kill, wanted.kills, drill.room, {0, -signal.SIGKILL})
        drill.round(stop, wanted.stops, drill.room, {0, 75})
        each = wanted.faults // 3
        drill.round(None, each, drill.room, {0, 2}, refuse_renames)
        drill.round(None, each, drill.room, {0, 2}, limit_files)
        with small_disk(drill.room / "disk") as mounted:
            if mounted:
                drill.round(fill, wanted.faults - 2 * each, drill.room / "disk", {0, 2})
            else:
                print("no file system may be mounted here: full disks are left out")
    for what, count in sorted(drill.counts.items()):
        print(f"{count:5}  {what}")
    print(*drill.wrong, sep="\n")
    print(f"{len(drill.wrong)} wrong, {time.monotonic() - started:.0f} s")
    return bool(drill.wrong)


if __name__ == "__main__":
    sys.exit(main())
