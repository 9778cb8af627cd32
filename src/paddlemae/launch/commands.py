"""Commands in several processes of this host: how many, checked before they start, or found by trying."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import median

from paddlemae.engine.cpus import usable_cpus
from paddlemae.launch.launcher import AUTO, Launch, run_ranks
from paddlemae.recipe import load_recipe
from paddlemae.runs.runlog import newest_checkpoint, read_metrics
from paddlemae.system.locks import check_unlocked

LAUNCH_OPTIONS = {"--procs", "--nodes", "--master", "--node-rank", "--restarts"}  # each with a value
FOLDER_OPTIONS = {"--out"}
FOLDER_FLAGS = {"--resume", "--overwrite"}
TRIED_STEPS = 6
FIRST_STEPS = 2  # of them, which are slower


def train_in_processes(
    task: str, name: str | None, overrides: Sequence[str], out: Path, launch: Launch, words: Sequence[str]
) -> int:
    """Run a training's command in several processes; returns its exit status.

    Args:
        name, overrides: its recipe, as for `load_recipe`.
        words: the whole command line, from which the processes' own is made.
    Raises:
        ValueError: a number that can't share the recipe's batch, or "auto" where nothing can be tried.
    """
    if launch.nodes == 1:  # else the first host may have begun already
        check_unlocked(out)
    recipe = load_recipe(task, name, overrides)
    command = remove_options(words, LAUNCH_OPTIONS)
    if launch.procs == AUTO:
        if task != "pretrain" or launch.nodes > 1:
            raise ValueError("--procs auto tries pretraining on one host; name a number here")
        processes = find_fastest([*remove_options(command, FOLDER_OPTIONS, FOLDER_FLAGS)], recipe.training.batch_size)
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
    return run_ranks(command, processes, launch, lambda: newest_checkpoint(out), variables)


def run_together(words: Sequence[str], processes: int, launch: Launch) -> int:
    """Run a command that keeps no checkpoints in several processes; arguments and result as above."""
    return run_ranks(remove_options(words, LAUNCH_OPTIONS), processes, launch, lambda: None)


def remove_options(words: Sequence[str], options: Collection[str], flags: Collection[str] = ()) -> list[str]:
    """A command line without options that have a value, and without flags."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in options:
            skip = True
        elif word not in flags and word.split("=")[0] not in options:
            kept.append(word)
    return kept


def find_fastest(command: list[str], batch_size: int) -> int:
    """The number of processes that trains the most images a second here, found by a few steps with each."""
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


def _speed(command: list[str], processes: int) -> float:
    with tempfile.TemporaryDirectory(prefix="paddlemae-trial-") as folder:
        out = Path(folder) / "run"
        settings = [f"steps={TRIED_STEPS}", "log_every=1", "checkpoint_every=1e9", "keep_every=null"]
        status = run_ranks([*command, *settings, "--quiet", "--out", str(out)], processes, Launch(), lambda: None)
        speeds = [line["images_per_second"] for line in read_metrics(out) if "images_per_second" in line]
        if status or len(speeds) < TRIED_STEPS:
            raise ValueError(f"trying {processes} processes failed, see above; name a number: --procs N")
        return median(speeds[FIRST_STEPS:])
