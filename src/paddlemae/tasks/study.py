"""A study: one recipe, of a fine-tuning or a segmentation, with one setting varied, over several seeds and starts.

Partial fine-tuning varies `trainable_blocks` (MAE, figure 9), a low-label study `labels`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from paddlemae.data.sources.output_folders import check_outside
from paddlemae.recipe import SCRATCH, FinetuneRecipe, SegmentRecipe, load_recipe, with_stored
from paddlemae.runs.figures import draw_study
from paddlemae.runs.metrics import primary_of, title_of
from paddlemae.runs.runlog import RECIPE_FILE, RESULT_FILE, is_number
from paddlemae.system.atomic import replace_text
from paddlemae.system.display_names import say
from paddlemae.system.documents import read_object
from paddlemae.system.locks import lock_folder
from paddlemae.tasks.training.classification import PRETRAINED
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.run_start import Start, stored_recipe

STUDY_FILE = "study.json"
CURVE_FILE = "study.png"


AnyRecipe = FinetuneRecipe | SegmentRecipe
Train = Callable[[Any, Start, str | None], dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """The runs that a study compares.

    Args:
        recipe: a recipe's name or file; None for the defaults.
        overrides: its settings, the same for all.
        key: the setting that is varied.
        values: its values, each under the text that names it in folders and tables.
        seeds: of each value's runs.
        init: the pretrained run.
        scratch: whether the same is done from scratch.
        task: of the recipe, "finetune" or "segment".
    """

    recipe: str | None
    overrides: Mapping[str, Any]
    key: str
    values: Mapping[str, Any]
    seeds: tuple[int, ...]
    init: str
    scratch: bool = False
    task: str = "finetune"

    @property
    def starts(self) -> dict[str, str]:
        return {PRETRAINED: self.init, **({SCRATCH: SCRATCH} if self.scratch else {})}


def study(plan: Study, out: Path, train: Train, *, quiet: bool = False, trust: bool = False) -> dict[str, Any]:
    """Train once for each start, value and seed, each in a folder of its own below `out`.

    Runs that are finished are not repeated, and a stopped run is resumed, so that a study can be stopped at any time,
    and one more value or seed costs only its own runs.

    Args:
        train: `tasks.finetune.finetune` or `tasks.segment.segment`, called with the recipe, the start and the run to
            compare with.

    Returns:
        what `study.json` holds: `primary`, the key of the metric that is compared; under that key, for each start and
        value, the metric of every seed on the test part; `majority`, what naming the commonest class gives.
    Raises:
        ValueError: no value or seed, or settings that can't be used; all are checked before the first run.
    """
    if not plan.values or not plan.seeds:
        raise ValueError("a study needs at least one value and one seed")
    recipes = {
        (name, value, seed): _recipe(plan, init, value, seed)
        for name, init in plan.starts.items()
        for value in plan.values
        for seed in plan.seeds
    }
    check_outside(out, [recipe.data for recipe in recipes.values()])
    with lock_folder(out):
        return _study(plan, recipes, out, train, quiet, trust)


def _study(
    plan: Study,
    recipes: dict[tuple[str, str, int], AnyRecipe],
    out: Path,
    train: Train,
    quiet: bool,
    trust: bool,
) -> dict[str, Any]:
    results: list[tuple[str, str, dict[str, Any]]] = []
    for (name, value, seed), recipe in recipes.items():
        folder = out / f"{plan.key}-{value.replace('/', '-per-')}-{name}-{seed}"
        result = _read_result(folder, recipe)
        if result is None:
            is_another = (folder / RECIPE_FILE).exists() and not _is_of(folder, recipe)
            start = Start(folder, quiet=True, overwrite=is_another, trust=trust)
            result = train(recipe, start, plan.init)
        results.append((name, value, result))
        if not quiet:
            key = primary_of(result)
            say(f"{plan.key}={value}, {name}, seed {seed}: {title_of(key)} {result[key]:.2%}")
    primary = primary_of(results[0][2])
    values: dict[str, dict[str, list[float]]] = {name: {value: [] for value in plan.values} for name in plan.starts}
    for name, value, result in results:
        values[name][value].append(result[primary])
    found = {"key": plan.key, "seeds": list(plan.seeds), "init": plan.init, "primary": primary, primary: values}
    if majority := results[0][2].get("majority"):
        found["majority"] = majority
    replace_text(out / STUDY_FILE, json.dumps(found, indent=2) + "\n")
    with optional("the curve"):
        title = f"{title_of(primary)}, mean and standard deviation over seeds"
        draw_study(out / CURVE_FILE, plan.key, values, title)
    return found


def _recipe(plan: Study, init: str, value: str, seed: int) -> AnyRecipe:
    varied = {"init": init, plan.key: plan.values[value], "seed": seed}
    shared = {key: value for key, value in plan.overrides.items() if key not in varied}
    recipe: AnyRecipe = load_recipe(plan.task, plan.recipe, {**shared, **varied})
    return recipe


def _read_result(folder: Path, recipe: AnyRecipe) -> dict[str, Any] | None:
    """Return the result of a finished run of this very recipe; None if it is not done.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / RESULT_FILE
    if not path.exists() or not _is_of(folder, recipe):
        return None
    result = read_object(path)
    value: Any = result.get(primary_of(result))
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{path} is damaged (no metric); delete its folder, and the study trains this run again")
    return result


def _is_of(folder: Path, recipe: AnyRecipe) -> bool:
    """Return whether the run in a folder is of this recipe, with what was chosen for its images."""
    stored: Any = stored_recipe(folder, recipe.task)
    completed: AnyRecipe = with_stored(recipe, stored)
    return bool(stored == completed)


def table(result: dict[str, Any]) -> str:
    """Return the result in Markdown: one row per value, one column per start, and the commonest class's row."""
    primary = result["primary"]
    values = result[primary]
    starts = list(values)
    lines = [f"| {result['key']}, {title_of(primary)} | {' | '.join(starts)} |", f"|---|{'---:|' * len(starts)}"]
    for value in values[starts[0]]:
        cells = [spread(values[name][value]) for name in starts]
        lines.append(f"| {value} | {' | '.join(cells)} |")
    majority = result.get("majority", {})
    if primary in majority:
        cells = [f"{majority[primary]:.1%}"] * len(starts)
        lines.append(f"| always the commonest class | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation over seeds, in percent."""
    return f"{mean(values):.1%}" + (f" ± {stdev(values):.1%}" if len(values) > 1 else "")
