"""Run commands in several processes of this host: their number is checked before they start, or found by trying."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from paddlemae.engine.cpus import usable_cpus
from paddlemae.launch.launcher import AUTO, Launch, run_ranks
from paddlemae.recipe import load_recipe, override_text
from paddlemae.runs.runlog import RECIPE_FILE, newest_checkpoint, read_metrics
from paddlemae.system.locks import check_unlocked

TRIED_STEPS = 6
FIRST_STEPS = 2  # of them, which are slower
TRIAL = {"steps": TRIED_STEPS, "log_every": 1, "checkpoint_every": 1e9, "keep_every": None}


@dataclass(frozen=True)
class TrainingCommand:
    """A training: its task and recipe, as for `load_recipe`, its run folder, and how that is taken."""

    task: str
    recipe: str | None
    overrides: Mapping[str, Any]
    out: Path
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False
    trust: bool = False

    def words(self) -> list[str]:
        """Return the command line that runs it."""
        settings = {key: value for key, value in self.overrides.items() if key not in ("init", "data")}
        options = {"init": self.overrides.get("init"), "data": self.overrides.get("data"), "out": self.out}
        flags = {"resume": self.resume, "overwrite": self.overwrite, "quiet": self.quiet, "trust": self.trust}
        name = [self.recipe] if self.recipe else []
        return [self.task, *name, *itertools.starmap(override_text, settings.items()), *option_words(options | flags)]


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Return the words of options by name: True is a flag; what is None or False is left out."""
    words: list[str] = []
    for name, value in options.items():
        if value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


def train_in_processes(command: TrainingCommand, launch: Launch) -> int:
    """Run a training in several processes; return its exit status.

    Raises:
        ValueError: a number that can't share the recipe's batch, or "auto" where nothing can be tried.
    """
    out = command.out
    if launch.nodes == 1:  # else the first host may have begun already
        check_unlocked(out)
    stored = out / RECIPE_FILE
    name = str(stored) if command.resume and not command.recipe and stored.exists() else command.recipe
    recipe = load_recipe(command.task, name, command.overrides)
    if launch.procs == AUTO:
        if command.task != "pretrain" or launch.nodes > 1:
            raise ValueError("--procs auto is for pretraining on one host; give a number instead")
        processes = find_fastest(replace(command, recipe=name), recipe.training.batch_size)
    else:
        processes = int(launch.procs or 1)
    total = processes * launch.nodes
    if recipe.training.batch_size % total:
        raise ValueError(
            f"{total} processes can't share a batch_size of {recipe.training.batch_size} evenly; choose a number that "
            "divides it, or another batch_size"
        )
    # on a machine with accelerators the launcher would choose them
    variables = {"PADDLE_DISTRI_BACKEND": "gloo"} if recipe.training.device == "cpu" else {}
    return run_ranks(command.words(), processes, launch, lambda: newest_checkpoint(out), variables)


def run_together(words: Sequence[str], processes: int, launch: Launch) -> int:
    """Run a command that keeps no checkpoints in several processes; return its exit status."""
    return run_ranks(words, processes, launch, lambda: None)


def find_fastest(command: TrainingCommand, batch_size: int) -> int:
    """Return the number of processes that trains the most images a second here, measured by a few steps with each."""
    cpus = usable_cpus()
    numbers = sorted({1, *(2**power for power in range(1, 12) if 2**power <= cpus), cpus})
    numbers = [number for number in numbers if batch_size % number == 0]
    speeds = {}
    for number in numbers if len(numbers) > 1 else []:
        speeds[number] = _speed(command, number)
        print(f"--procs {number}: {speeds[number]:.4g} images/s", flush=True)
    chosen = max(speeds, key=lambda number: speeds[number], default=numbers[0])
    print(f"training in {chosen} process{'es' * (chosen > 1)}", flush=True)
    return chosen


def _speed(command: TrainingCommand, processes: int) -> float:
    with tempfile.TemporaryDirectory(prefix="paddlemae-trial-") as folder:
        out = Path(folder) / "run"
        overrides = {**command.overrides, **TRIAL}
        trial = replace(command, overrides=overrides, out=out, resume=False, overwrite=False, quiet=True)
        status = run_ranks(trial.words(), processes, Launch(), lambda: None)
        speeds = [line["images_per_second"] for line in read_metrics(out) if "images_per_second" in line]
        if status or len(speeds) < TRIED_STEPS:
            raise ValueError(f"trying {processes} processes failed, see above; name a number: --procs N")
        return median(speeds[FIRST_STEPS:])
