"""Finish a training that was evaluated: write its result and figures, and print the result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paddlemae.data.sources import Source
from paddlemae.data.views.augment import View
from paddlemae.recipe import SCRATCH, ProbeRecipe, Recipe
from paddlemae.runs.figures import draw_curves
from paddlemae.runs.metrics import TASKS
from paddlemae.runs.runlog import FIGURES, RESULT_FILE, is_logged, log_result, mark_finished, read_metrics
from paddlemae.system.atomic import replace_text
from paddlemae.tasks.training.classification import PRETRAINED, RANDOM
from paddlemae.tasks.training.course import Evaluation
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.run_start import Start, origin_of
from paddlemae.train.checkpoint import TrainState


def finish_run(
    start: Start,
    state: TrainState,
    last: Evaluation,
    sources: tuple[Source, Source],
    view: View,
    recipe: Recipe,
    protocol: dict[str, Any],
    *,
    num_train: int,
    compared_run: str | None = None,
    more: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Write the result, figures and exhibits of a training that was evaluated, and print the result.

    The result is also appended to those of the run that it started from, or that it is compared with, if there is one.

    Args:
        last: the evaluation after the last step.
        sources: what was trained on, and the held-out images of the evaluation, which looked at them through `view`.
        protocol: what the result depends on besides the steps.
        num_train: images that were trained on, without unreadable ones where these are known.
        compared_run: the run that it is compared with.
        more: writes further exhibits, which nothing depends on.
    Returns:
        the result.
    """
    train, held_out = sources
    kind, best = last.kind, f"best_{last.kind.primary}"
    result: dict[str, Any] = {
        **last.metrics,
        best: state.best.get(kind.primary, last.metrics[kind.primary]),  # none if its evaluations ended the run before
        "best_step": int(state.best.get("step", state.step)),
        "steps": state.step,
        "train_images": num_train,
        "eval_images": last.images,
    }
    untrained = isinstance(recipe, ProbeRecipe) and recipe.random
    begun = SCRATCH if recipe.init == SCRATCH else RANDOM if untrained else PRETRAINED
    logged = {
        "task": recipe.task,
        "start": begun,
        **{name: result[name] for name in (*kind.titles, best, "train_images", "eval_images")},
        "train": train.name,
        "eval": held_out.name,
        "protocol": {**protocol, "steps": state.step, "seed": recipe.training.seed},
    }
    replace_text(start.out / RESULT_FILE, json.dumps(result, indent=2) + "\n")
    _log_once(start.out, logged)
    figures, name = start.out / FIGURES, kind.title
    start.say(
        f"{kind.text(result)} after the last step; best {name} {result[best]:.2%} at step {result['best_step']} "
        f"(chosen on these same images); see {figures / last.picture}"
    )
    title = f"{TASKS[recipe.task]}, {state.step} steps"
    first = f"{name} {result[kind.primary]:.1%} of {last.images} held-out images after {state.step} steps"
    last.show(start.out, held_out, view, title, first)
    with optional("the curves"):
        curves = ["loss", kind.primary, "lr"]
        draw_curves(figures / "curves.png", list(read_metrics(start.out)), curves, TASKS[recipe.task])
    if more:
        more()
    mark_finished(start.out)
    with optional("the line in the results of the run that this one started from"):
        if origin := origin_of(compared_run or recipe.init, trust=start.trust):
            where = {"checkpoint": origin.checkpoint.name, "run": os.path.relpath(start.out, origin.run)}
            _log_once(origin.run, {**logged, **where})
    return result


def _log_once(run: Path, line: dict[str, Any]) -> None:
    """Log a result, unless a session that was killed right after has done it."""
    if not is_logged(run, line):
        log_result(run, [line])
