"""Start the trainings that are struck, and compare what they leave with uninterrupted ones."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from paddlemae.cli import app
from paddlemae.runs.runlog import read_metrics
from paddlemae.train.checkpoint_folders import BEST, FOLDER, LATEST, STEPS, check_intact

SMALL = ["embed_dim=32", "depth=2", "num_heads=2", "threads=1", "log_every=7", "warmup_epochs=0.1", "epochs=1"]
PRETRAIN = ["pretrain", "digits", *SMALL, "batch_size=16", "drop_path=0.2", "checkpoint_every=0.05"]
FINETUNE = [
    *["finetune", "digits", "--init", "scratch", *SMALL, "batch_size=20", "labels=500"],
    *["drop_path=0.2", "mixup=0.8", "cutmix=1", "randaugment=2", "erasing=0.25", "ema_decay=0.9"],
    *["checkpoint_every=0.4", "evaluate_every=1", "eval_split=val"],
]
MACHINE = ("seconds", "images_per_second", "waiting", "memory_gb")


@dataclass(frozen=True)
class Training:
    """A command of `paddlemae` but for `--out`.

    Attributes:
        like: the name of the training that it must end equal to.
    """

    name: str
    command: list[str]
    like: str

    @property
    def is_launched(self) -> bool:
        return "--procs" in self.command


def _alone(name: str, command: list[str]) -> Training:
    return Training(name, command, name)


ALONE = [_alone("pretrain", [*PRETRAIN, "steps=240"]), _alone("finetune", [*FINETUNE, "steps=120"])]
WITH_WORKERS = [Training(f"{one.name}-workers", [*one.command, "workers=2"], one.name) for one in ALONE]
LAUNCHED = [
    _alone("pretrain-procs", [*PRETRAIN, "steps=96", "--procs", "2"]),
    _alone("finetune-procs", [*FINETUNE, "steps=75", "--procs", "2"]),
]


def import_tasks() -> None:
    """Import the tasks once for all forks, which then start in a tenth of a second; nothing is computed with Paddle."""
    import paddlemae.engine.safe_import
    import paddlemae.runs.figures
    import paddlemae.tasks.finetune
    import paddlemae.tasks.pretrain  # noqa: F401


def begin(training: Training, out: Path, log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Start a training in a fork of this process, or a command line of several processes as a user does.

    Args:
        log: where its words go, emptied first.
        prepare: called in the fork, before anything else.
    Returns:
        its process id.
    """
    if pid := os.fork():
        return pid
    words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(words, 1)
    os.dup2(words, 2)
    arguments = [*training.command, "--quiet", "--out", str(out)]
    if training.is_launched:
        os.execv(sys.executable, [sys.executable, "-m", "paddlemae", *arguments])
    sys.argv = ["paddlemae", *arguments]
    sys.modules["__main__"] = ModuleType("__main__")  # data workers would import the drill, and Paddle with it
    with contextlib.suppress(BaseException):
        try:
            prepare()
            app.main()
            os._exit(0)
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        except BaseException:
            traceback.print_exc()
    os._exit(1)


def end(pid: int) -> int:
    """Wait for a process and return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def content(run: Path) -> dict[str, object]:
    """Return everything in a finished run that must not depend on interruptions."""
    files = {str(path.relative_to(run)): None for path in run.rglob("*")}
    texts = [run / "result.json", run / FOLDER / LATEST, run / FOLDER / BEST]
    return {
        **files,
        **{str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*.safetensors")},
        **{str(path.relative_to(run)): path.read_text() for path in texts if path.exists()},
        "metrics": [{key: value for key, value in line.items() if key not in MACHINE} for line in read_metrics(run)],
    }


def pointed_to(content: dict[str, object]) -> dict[str, object]:
    """Return the content without checkpoints that are neither the latest nor the best."""
    held = {str(content.get(f"{FOLDER}/{pointer}")).strip() for pointer in (LATEST, BEST)}

    def stays(name: str) -> bool:
        folder, _, rest = name.partition("/")
        return folder != FOLDER or not rest.startswith("step_") or rest.split("/")[0] in held

    return {name: one for name, one in content.items() if stays(name)}


def differences(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    """Return the names in which two contents differ."""
    return sorted(key for key in {*found, *expected} if key not in found or found[key] != expected.get(key, found))


def unreadable(out: Path) -> list[str]:
    """Return the faults of checkpoints that differ from what was written."""
    faults = []
    for checkpoint in out.glob(f"{FOLDER}/{STEPS}"):
        try:
            check_intact(checkpoint, whole=True)
        except (OSError, ValueError) as fault:
            faults.append(str(fault))
    return faults
