"""A study: one fine-tuning recipe with one setting varied, over several seeds and starts; a table and a curve.

Partial fine-tuning varies `trainable_blocks` (MAE, figure 9), a low-label study `labels`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from paddlemae.data.sources.output_folders import check_outside
from paddlemae.recipe import SCRATCH, FinetuneRecipe, load_recipe, with_stored
from paddlemae.runs.figures import draw_study
from paddlemae.runs.metrics import CLASSIFICATION
from paddlemae.runs.runlog import RECIPE_FILE, RESULT_FILE
from paddlemae.system.atomic import replace_text
from paddlemae.system.display_names import say
from paddlemae.system.documents import read_record
from paddlemae.system.locks import lock_folder
from paddlemae.tasks.training.classification import PRETRAINED
from paddlemae.tasks.training.optional_output import optional
from paddlemae.tasks.training.run_start import Start, stored_recipe

STUDY_FILE = "study.json"
METRICS = CLASSIFICATION  # of the fine-tunings that are compared
CURVE_FILE = "study.png"


class ResultType(BaseModel):
    """The fields of a run's `result.json` that a study reads."""

    model_config = ConfigDict(strict=True, extra="ignore")
    value: Annotated[float, Field(ge=0, le=1, validation_alias=METRICS.primary)]


Finetune = Callable[[FinetuneRecipe, Start, str | None], dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """The runs that a study compares.

    Args:
        recipe: a fine-tuning recipe's name or file; None for the defaults.
        overrides: its settings, the same for all.
        key: the setting that is varied.
        values: its values, each under the text that names it in folders and tables.
        seeds: of each value's runs.
        init: the pretrained run.
        scratch: whether the same is done from scratch.
    """

    recipe: str | None
    overrides: Mapping[str, Any]
    key: str
    values: Mapping[str, Any]
    seeds: tuple[int, ...]
    init: str
    scratch: bool = False

    @property
    def starts(self) -> dict[str, str]:
        return {PRETRAINED: self.init, **({SCRATCH: SCRATCH} if self.scratch else {})}


def study(plan: Study, out: Path, finetune: Finetune, *, quiet: bool = False, trust: bool = False) -> dict[str, Any]:
    """Fine-tune once for each start, value and seed, each in a folder of its own below `out`.

    Runs that are finished are not repeated, and a stopped run is resumed, so that a study can be stopped at any time,
    and one more value or seed costs only its own runs.

    Args:
        finetune: `tasks.finetune.finetune`, called with the recipe, the start and the run to compare with.

    Returns:
        what `study.json` holds: for each start and value the primary metric of every seed after the last step.
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
        return _study(plan, recipes, out, finetune, quiet, trust)


def _study(
    plan: Study,
    recipes: dict[tuple[str, str, int], FinetuneRecipe],
    out: Path,
    finetune: Finetune,
    quiet: bool,
    trust: bool,
) -> dict[str, Any]:
    values: dict[str, dict[str, list[float]]] = {name: {value: [] for value in plan.values} for name in plan.starts}
    for (name, value, seed), recipe in recipes.items():
        folder = out / f"{plan.key}-{value.replace('/', '-per-')}-{name}-{seed}"
        value_of_run = _read_value(folder, recipe)
        if value_of_run is None:
            is_another = (folder / RECIPE_FILE).exists() and not _is_of(folder, recipe)
            start = Start(folder, quiet=True, overwrite=is_another, trust=trust)
            value_of_run = finetune(recipe, start, plan.init)[METRICS.primary]
        values[name][value].append(value_of_run)
        if not quiet:
            say(f"{plan.key}={value}, {name}, seed {seed}: {METRICS.text({METRICS.primary: value_of_run})}")
    result = {"key": plan.key, "seeds": list(plan.seeds), "init": plan.init, METRICS.primary: values}
    replace_text(out / STUDY_FILE, json.dumps(result, indent=2) + "\n")
    with optional("the curve"):
        draw_study(out / CURVE_FILE, plan.key, values, f"{METRICS.title}, mean and standard deviation over seeds")
    return result


def _recipe(plan: Study, init: str, value: str, seed: int) -> FinetuneRecipe:
    varied = {"init": init, plan.key: plan.values[value], "seed": seed}
    shared = {key: value for key, value in plan.overrides.items() if key not in varied}
    recipe: FinetuneRecipe = load_recipe("finetune", plan.recipe, {**shared, **varied})
    return recipe


def _read_value(folder: Path, recipe: FinetuneRecipe) -> float | None:
    """Return the primary metric of a finished run of this very recipe; None if it is not done."""
    if not (folder / RESULT_FILE).exists() or not _is_of(folder, recipe):
        return None
    advice = "delete its folder, and the study trains this run again"
    return read_record(folder / RESULT_FILE, ResultType, advice).value


def _is_of(folder: Path, recipe: FinetuneRecipe) -> bool:
    """Return whether the run in a folder is of this recipe, with what was chosen for its images."""
    stored = stored_recipe(folder, "finetune")
    assert isinstance(stored, FinetuneRecipe)
    return stored == with_stored(recipe, stored)


def table(result: dict[str, Any]) -> str:
    """Return the result in Markdown: one row per value, one column per start."""
    values = result[METRICS.primary]
    starts = list(values)
    lines = [f"| {result['key']} | {' | '.join(starts)} |", f"|---|{'---:|' * len(starts)}"]
    for value in values[starts[0]]:
        cells = [spread(values[name][value]) for name in starts]
        lines.append(f"| {value} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation over seeds, in percent."""
    return f"{mean(values):.1%}" + (f" ± {stdev(values):.1%}" if len(values) > 1 else "")
