"""Finish a training that was evaluated: write its result and figures, and print the result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from paddlemae.data.views.augment import View
from paddlemae.recipe import SCRATCH, FinetuneRecipe, ProbeRecipe, SegmentRecipe
from paddlemae.runs.class_results import class_table, result_table
from paddlemae.runs.figures import draw_curves
from paddlemae.runs.metrics import TASKS, title_of
from paddlemae.runs.runlog import FIGURES, RESULT_FILE, is_logged, log_result, mark_finished, read_metrics
from paddlemae.system.atomic import replace_text
from paddlemae.system.display_names import display_name, say
from paddlemae.tasks.training.classification import PRETRAINED, RANDOM
from paddlemae.tasks.training.course import Evaluation
from paddlemae.tasks.training.labelled_splits import LabelledSplits
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.run_start import Start, origin_of
from paddlemae.train.checkpoint import TrainState

WAYS = {  # to train a classifier that has learned nothing
    "finetune": "class_weights=balanced, sampling=balanced, more epochs, a higher base_lr, or --init PRETRAINING_RUN",
    "probe": "more epochs, a higher base_lr, or token=mean",
    "segment": "class_weights=balanced, more steps, a higher base_lr, or --init PRETRAINING_RUN",
}
WIDE_GAP = 0.15  # of the validation part's primary metric above the interval of the test part's
FEWEST_TO_COMPARE = 30  # validation images


def finish_run(
    start: Start,
    state: TrainState,
    tested: Evaluation,
    splits: LabelledSplits,
    view: View,
    recipe: FinetuneRecipe | ProbeRecipe | SegmentRecipe,
    protocol: dict[str, Any],
    *,
    step: int,
    num_train: int,
    compared_run: str | None = None,
    more: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Write the result, figures and exhibits of a training that was evaluated, and print the result.

    The result is also appended to those of the run that it started from, or that it is compared with, if there is one.

    Args:
        tested: the evaluation on the test part, whose images were seen through `view`.
        splits: the images of the training.
        protocol: what the result depends on besides the steps.
        step: of the weights that were tested.
        num_train: images that were trained on, without unreadable ones where these are known.
        compared_run: the run that it is compared with.
        more: writes further exhibits, which nothing depends on.
    Returns:
        the result.
    """
    train, held_out, kind = splits.train, splits.held_out, tested.kind
    result = tested.result(train.classes, splits.primary)
    best = f"best_{splits.primary}"
    if splits.primary in state.best:
        result[best] = state.best[splits.primary]
    counts = {"train_images": num_train, "eval_images": tested.images}
    if splits.validation is not None:
        counts["validation_images"] = len(splits.validation)
    result |= {"best_step": int(state.best.get("step", state.step)), "steps": state.step, **counts}
    untrained = isinstance(recipe, ProbeRecipe) and recipe.random
    begun = SCRATCH if recipe.init == SCRATCH else RANDOM if untrained else PRETRAINED
    kept = (*kind.titles, "primary", "intervals", "majority", "left_out", "ignored_pixels", best)
    logged = {
        "task": recipe.task,
        "start": begun,
        **{name: result[name] for name in kept if name in result},
        **counts,
        "train": train.name,
        "eval": held_out.name,
        "protocol": {**protocol, "steps": state.step, "seed": recipe.training.seed},
    }
    replace_text(start.out / RESULT_FILE, json.dumps(result, indent=2) + "\n")
    _log_once(start.out, logged)
    for line in _result_text(result, splits, step).split("\n"):
        start.say(line)
    figures, name = start.out / FIGURES, title_of(result["primary"])
    start.say(f"see {figures / tested.picture}")
    title = f"{TASKS[recipe.task]}, step {step}"
    first = f"{name} {result[result['primary']]:.1%} of {tested.images} held-out images at step {step}"
    tested.show(start.out, held_out, view, title, first)
    with optional("the curves"):
        curves = ["loss", *dict.fromkeys([kind.primary, splits.primary]), "lr"]
        draw_curves(figures / "curves.png", list(read_metrics(start.out)), curves, TASKS[recipe.task])
    if more:
        more()
    mark_finished(start.out)
    if advice := advice_on(result, recipe.task):
        say(advice, error=True)
    if gap := gap_of(result):
        say(gap, error=True)
    with optional("the line in the results of the run that this one started from"):
        if origin := origin_of(compared_run or recipe.init, trust=start.trust):
            where = {"checkpoint": origin.checkpoint.name, "run": os.path.relpath(start.out, origin.run)}
            _log_once(origin.run, {**logged, **where})
    return result


def _result_text(result: Mapping[str, Any], splits: LabelledSplits, step: int) -> str:
    """Return what was tested, on which images, as tables."""
    chosen, best = f"after the last step ({step})", f"best_{splits.primary}"
    if splits.validation is not None:
        chosen = (
            f"of step {step}, chosen on {len(splits.validation)} validation images "
            f"({title_of(splits.primary)} {result[best]:.2%})"
        )
    head = f"test part, {result['eval_images']} images of {splits.held_out.name}, with the weights {chosen}:"
    return "\n".join(part for part in (head, result_table(result), class_table(result)) if part)


def advice_on(result: Mapping[str, Any], task: str) -> str | None:
    """Return a line for a classifier that says one class of all images, or is no better than that; None for others."""
    majority, primary, images = result["majority"], result["primary"], result["eval_images"]
    compared = primary if primary in majority else list(majority)[-1]
    of_pixels = task == "segment"
    if "only" in result:
        all_of_them = f"all pixels of the {images} test images" if of_pixels else f"all {images} test images"
        fault = f"{all_of_them} were taken for one class, '{display_name(result['only'])}'"
    elif result[compared] <= majority[compared]:
        chance = "chance"
        if majority["class"] is not None:
            everything = "all pixels" if of_pixels else "all images"
            chance = f"naming the commonest class, '{display_name(majority['class'])}', for {everything}"
        fault = f"{title_of(compared)} {result[compared]:.1%} is not above the {majority[compared]:.1%} of {chance}"
    else:
        return None
    ways = WAYS[task] if majority["class"] is not None else "more epochs, a higher base_lr, or --init PRETRAINING_RUN"
    return f"nothing was learned: {fault}; try {ways}"


def gap_of(result: Mapping[str, Any]) -> str | None:
    """Return a line for a test part that is much harder than the validation part was; None for others."""
    primary = result["primary"]
    chosen, interval = result.get(f"best_{primary}"), result.get("intervals", {}).get(primary)
    if chosen is None or interval is None or result.get("validation_images", 0) < FEWEST_TO_COMPARE:
        return None
    if chosen - interval[1] < WIDE_GAP:
        return None
    values = f"{chosen:.1%} on the validation part and {result[primary]:.1%} on the test part"
    return (
        f"{title_of(primary)} is {values}: either images of one thing (a patient, a part, a film) are on both sides of "
        "the validation part, which groups prevent (::group=COLUMN), or the test images differ from those to train on"
    )


def _log_once(run: Path, line: dict[str, Any]) -> None:
    """Log a result, unless a session that was killed right after has done it."""
    if not is_logged(run, line):
        log_result(run, [line])
