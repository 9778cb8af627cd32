"""Train within a given time: a short first session measures the speed, and the steps are chosen by it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from paddlemae.recipe import Recipe
from paddlemae.runs.runlog import RECIPE_FILE, is_finished, read_metrics
from paddlemae.system.signals import Preempted
from paddlemae.tasks.training.run_start import Start, stored_recipe

PROBE_SHARE, FEWEST_PROBED, MOST_PROBED = 0.04, 4.0, 60.0  # seconds of a session that measures the speed
EARLY = 0.2  # share of a run, after which it is not started again with another number of steps
MOST_OFF = 0.07  # of the planned speed, below which the planned number of steps is kept
AROUND_SECONDS = 10.0  # of a session: build the model, and write the last checkpoint and pictures
MOST_EVALUATING = 0.7  # of the time: the rest is for steps
OVERTIME, SLOWER = 1.15, 1.25  # a training is stopped that is both over its time and slower than it was, by these
BEYOND_START = 0.95  # share of the first session that its later steps would take
SAVE_SECONDS = 90.0  # between checkpoints

Train = Callable[[Any, Start], Any]


class Speed(NamedTuple):
    """Progress of a run, from its metrics: steps taken, seconds per step, and images per epoch."""

    steps: int
    seconds: float
    num_images: float


def train_within(
    train: Train,
    recipe: Recipe,
    out: Path,
    seconds: float,
    *,
    quiet: bool,
    may_stop: bool,
    may_grow: bool,
    evaluating: float = 0.0,
) -> bool:
    """Train as a recipe says, but for as many steps as fit into a time; an unfinished run in `out` is resumed.

    Args:
        train: `pretrain`, `finetune` or `segment`.
        seconds: for everything, the start and the end of the command included.
        evaluating: of them, for evaluations.
        may_stop: a training that takes much longer than it should is stopped before its last step.
        may_grow: if it is faster than was planned, it takes more steps.
    Returns:
        whether all its steps were taken.
    Raises:
        as `train`; KeyboardInterrupt and Preempted if it was asked to stop from outside.
    """
    deadline = time.monotonic() + seconds
    if is_finished(out):
        return True
    probed = min(MOST_PROBED, PROBE_SHARE * seconds)
    measured = None  # seconds of a session that was cut short
    if not (out / RECIPE_FILE).is_file():
        if probed < FEWEST_PROBED:
            return _train(train, recipe, Start(out, quiet=quiet), None)
        if _train(train, with_training(recipe, log_every=1), Start(out, quiet=True), probed):
            return True
        measured = probed
    stored = with_training(stored_recipe(out, recipe.task), log_every=recipe.training.log_every)
    speed = read_speed(out, stored, measured)
    # the measured seconds of steps lack those of evaluations
    left = deadline - time.monotonic() - AROUND_SECONDS - min(evaluating, MOST_EVALUATING * seconds)
    steps = other_steps(stored, speed, left, may_grow) if speed else None
    if steps:
        stored, start = with_training(stored, steps=steps), Start(out, overwrite=True, quiet=quiet)
    else:
        start = Start(out, resume=True, quiet=quiet)
    allowed = OVERTIME * max(left, 1.0)
    if speed:
        to_come = stored.training.total_steps(round(speed.num_images)) - (speed.steps if start.resume else 0)
        allowed = max(allowed, SLOWER * to_come * speed.seconds)
        every = SAVE_SECONDS / speed.seconds * stored.training.effective_batch_size / speed.num_images
        stored = with_training(stored, checkpoint_every=every)
    return _train(train, stored, start, allowed if may_stop else None)


def _train(train: Train, recipe: Recipe, start: Start, seconds: float | None) -> bool:
    """Return whether a training came to its end, rather than to the end of the seconds."""
    try:
        train(with_training(recipe, max_hours=seconds and seconds / 3600), start)
    except Preempted as end:
        if not end.time_is_up:
            raise
        return False
    return True


def with_training(recipe: Any, **settings: Any) -> Any:
    """Return a recipe with other settings of its section `training`."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=settings)})


def read_speed(run: Path, recipe: Recipe, measured: float | None = None) -> Speed | None:
    """Return the speed of a run so far; None without two lines of metrics.

    Args:
        measured: seconds of its only session, in which it also wrote logs and pictures; the metrics have the seconds of
            steps alone.
    """
    lines = [line for line in read_metrics(run) if "images_per_second" in line]
    if len(lines) < 2 or not lines[-1]["epoch"] or lines[-1]["step"] <= lines[0]["step"]:
        return None
    first, last = lines[0], lines[-1]
    seconds = (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])  # without the first, slow ones
    if measured is not None:
        seconds = max(seconds, BEYOND_START * measured / last["step"])
    num_images = last["step"] * recipe.training.effective_batch_size / last["epoch"]
    return Speed(last["step"], seconds, num_images) if seconds > 0 else None


def other_steps(recipe: Recipe, speed: Speed, seconds: float, may_grow: bool) -> int | None:
    """Return how many steps fit into `seconds` if a run should start again with these; None if it should not."""
    total = recipe.training.total_steps(round(speed.num_images))
    fit = max(1, int(seconds / speed.seconds))
    if (
        speed.steps > EARLY * total
        or abs((fit + speed.steps) / total - 1) <= MOST_OFF
        or (fit > total and not may_grow)
    ):
        return None
    return fit
