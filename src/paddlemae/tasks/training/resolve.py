"""Resolve a recipe once, before anything is built: its run folder, its initial weights, the statistics of its images.

`mean=auto std=auto` stand for the statistics of the training images, found in one pass over them. The run's
`recipe.yaml` has the numbers in their place, so that whatever starts there need not compute them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from paddlemae.data.inspect.statistics import channel_statistics, recipe_values
from paddlemae.data.sources import Source
from paddlemae.engine import device
from paddlemae.recipe import (
    AUTO,
    SCRATCH,
    Choice,
    FinetuneRecipe,
    PretrainRecipe,
    SegmentRecipe,
    build_recipe,
    dump_recipe,
    open_names,
    with_stored,
)
from paddlemae.runs.progress import progress
from paddlemae.system.documents import parse_yaml
from paddlemae.tasks.models.build import arguments_of, check_memory, fit_shape
from paddlemae.tasks.models.read_model import Checkpoint, read_checkpoint
from paddlemae.tasks.training.labelled_splits import LabelledSplits
from paddlemae.tasks.training.mask_checks import PixelCounts
from paddlemae.tasks.training.run_start import Run, Start, decide, stored_recipe
from paddlemae.weights.model_folder import Description

AnyRecipe = TypeVar("AnyRecipe", PretrainRecipe, FinetuneRecipe, SegmentRecipe)


@dataclass(frozen=True)
class Inputs:
    """Everything that a training is built from, except its recipe.

    Attributes:
        kind, arguments: of the model, as `check_memory` takes them.
        train: images to train on.
        splits: these and the images that a classifier is evaluated on; pretraining holds none out.
        initial: the weights that it starts from, brought to the recipe's shape; None for new ones, or on a resume.
        saved: the description in this run's own checkpoint, on a resume.
        pixels: of the masks of a segmentation's training images.
    """

    kind: str
    arguments: Mapping[str, Any]
    train: Source
    splits: LabelledSplits | None = None
    initial: Checkpoint | None = None
    saved: Description | None = None
    pixels: PixelCounts | None = None


def open_start(
    recipe: FinetuneRecipe | SegmentRecipe, resumed: Path | None, trust: bool, ways: str
) -> tuple[str, Checkpoint | None]:
    """Prepare the device, and return what names the images and, as `Inputs.initial`, the weights to start from.

    Args:
        resumed, trust: as of `pretraining_setup.open_inputs`.
        ways: how images are named, for the error where they are not.
    """
    if recipe.data is None:
        raise ValueError(f"no images named; add {ways}")
    if recipe.init is None:
        raise ValueError("name what to start from: --init RUN (a pretraining run) or --init scratch")
    device.prepare(recipe.training.device, recipe.training.threads, recipe.training.precision)
    if recipe.init == SCRATCH or resumed:
        return recipe.data, None
    return recipe.data, fit_shape(read_checkpoint(recipe.init, trust=trust), arguments_of(recipe.model))


def resolve(
    recipe: AnyRecipe,
    start: Start,
    open_inputs: Callable[[AnyRecipe, Path | None, bool], Inputs],
    choose_defaults: Callable[[AnyRecipe, Inputs], tuple[AnyRecipe, Inputs, tuple[Choice, ...]]] | None = None,
) -> tuple[Run[AnyRecipe], Inputs]:
    """Decide about the run folder, open what the training is built from, and find the statistics that are `auto`.

    Args:
        open_inputs: (recipe, this run's own checkpoint on a resume, `Start.trust`) -> inputs, with every check that
            needs no model.
        choose_defaults: (recipe, inputs) -> both with the settings that nobody named, and these.
    Raises:
        ValueError, FileNotFoundError: a recipe, data or folder that can't be used; nothing is written then.
        DataFault: no image can be read.
    """
    run = decide(start, _with_stored_defaults(_with_stored_statistics(recipe, start), start))
    inputs = open_inputs(run.recipe, run.checkpoint, start.trust)
    if choose_defaults and not run.resume:  # a setting that the run's version did not have keeps its default
        chosen, inputs, choices = choose_defaults(run.recipe, inputs)
        run = replace(run, recipe=chosen)
        if choices:
            settings = " ".join(f"{choice.name}={choice.shown}" for choice in choices)
            start.say(f"chosen for {len(inputs.train):,} labelled images, and in the run's recipe: {settings}")
    check_memory(inputs.kind, inputs.arguments)
    if run.recipe.mean == AUTO:
        mean, std = start.ranks.from_first(lambda: _measure(run.recipe, start, inputs))
        run = replace(run, recipe=_with_statistics(run.recipe, mean, std))
    return run, inputs


def _with_stored_statistics(recipe: AnyRecipe, start: Start) -> AnyRecipe:
    """Return the recipe with the numbers of the run in the folder, if it has any and is not to be replaced."""
    if recipe.mean != AUTO or start.overwrite:
        return recipe
    stored = start.ranks.from_first(lambda: _stored_statistics(recipe.task, start.out))
    return _with_statistics(recipe, *stored) if stored else recipe


def _stored_statistics(task: str, out: Path) -> tuple[list[float], list[float]] | None:
    try:
        stored: Any = stored_recipe(out, task)
    except (FileNotFoundError, ValueError):  # `decide` says so if it matters
        return None
    has_numbers = isinstance(stored.mean, tuple) and isinstance(stored.std, tuple)
    return (list(stored.mean), list(stored.std)) if has_numbers else None


def _with_stored_defaults(recipe: AnyRecipe, start: Start) -> AnyRecipe:
    """Return the recipe with the choices of the run in the folder, if it has any and is not to be replaced."""
    if start.overwrite or not open_names(recipe):
        return recipe
    stored = start.ranks.from_first(lambda: _stored_text(start.out, recipe.task))
    return with_stored(recipe, build_recipe(recipe.task, parse_yaml(stored))) if stored else recipe


def _stored_text(out: Path, task: str) -> str | None:
    try:
        return dump_recipe(stored_recipe(out, task))
    except (FileNotFoundError, ValueError):  # `decide` says so if it matters
        return None


def _measure(
    recipe: PretrainRecipe | FinetuneRecipe | SegmentRecipe, start: Start, inputs: Inputs
) -> tuple[list[float], list[float]]:
    """Return (mean, std) of the training images, in one pass over them.

    Raises:
        ValueError: a channel in which nothing varies.
        DataFault: no image can be read.
    """
    bits, workers = recipe.augment.bits, recipe.training.workers
    with progress("statistics", len(inputs.train), show=not start.quiet) as show:
        statistics = channel_statistics(
            inputs.train, inputs.arguments.get("channels", 3), bits=bits, workers=workers, on_images=show
        )
    start.say(f"{statistics.settings} of {statistics.images} images, and in the run's recipe")
    return recipe_values(statistics)


def _with_statistics(recipe: AnyRecipe, mean: list[float], std: list[float]) -> AnyRecipe:
    return recipe.model_copy(update={"mean": tuple(mean), "std": tuple(std)})


def statistics_plan(mean: Any, num_images: int) -> dict[str, str]:
    """Return the statistics that training will compute, for a dry run, which reads no image."""
    return {"mean and std": f"of {num_images} images, from a pass before training"} if mean == AUTO else {}
