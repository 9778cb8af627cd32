"""`mean=auto std=auto`: the statistics of the training images, found in one pass before the training.

The run's `recipe.yaml` has the numbers in their place, so that they are not computed again by whatever starts there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from paddlemae.data.inspect.statistics import channel_statistics, recipe_settings, recipe_values
from paddlemae.data.sources import Source
from paddlemae.data.views.augment import View
from paddlemae.recipe import AUTO, FinetuneRecipe, PretrainRecipe
from paddlemae.runs.progress import progress
from paddlemae.tasks.training.run_start import Start, stored_recipe
from paddlemae.weights.model_folder import Description

Recipe = TypeVar("Recipe", PretrainRecipe, FinetuneRecipe)
Measure = Callable[[int, Source, View], tuple[list[float], list[float]]]  # `measured`, with its start


def recalled(recipe: Recipe, start: Start) -> Recipe:
    """The recipe with the numbers of the run that is in the folder, if it has any and is not to be replaced."""
    if recipe.mean != AUTO or start.overwrite:
        return recipe
    found = start.ranks.from_first(lambda: _stored(recipe.task, start))
    return _with(recipe, *found) if found else recipe


def _stored(task: str, start: Start) -> tuple[list[float], list[float]] | None:
    try:
        stored: Any = stored_recipe(start.out, task)
    except (FileNotFoundError, ValueError):  # `check_start` says so if it matters
        return None
    has_numbers = isinstance(stored.mean, tuple) and isinstance(stored.std, tuple)
    return (list(stored.mean), list(stored.std)) if has_numbers else None


def measured(start: Start, workers: int, source: Source, view: View) -> tuple[list[float], list[float]]:
    """(mean, std) of a source's images as a view reads them; the first process looks, the others wait for it.

    Raises:
        ValueError: a channel in which nothing varies.
        DataFault: no image can be read.
    """
    look = partial(channel_statistics, source, view.channels, bits=view.depth, workers=workers)

    def found() -> tuple[list[float], list[float]]:
        with progress("statistics", len(source), show=not start.quiet) as show:
            statistics = look(on_images=show)
        start.say(f"{recipe_settings(statistics)} of {statistics.images} images, and in the run's recipe")
        return recipe_values(statistics)

    mean, std = start.ranks.from_first(found)
    return mean, std


def with_those_of(recipe: Recipe, description: Description) -> Recipe:
    """The recipe with the numbers that were found, where it named none."""
    return _with(recipe, description.mean, description.std) if recipe.mean == AUTO else recipe


def _with(recipe: Recipe, mean: list[float], std: list[float]) -> Recipe:
    return recipe.model_copy(update={"mean": tuple(mean), "std": tuple(std)})


def statistics_plan(recipe: PretrainRecipe | FinetuneRecipe, num_images: int) -> dict[str, str]:
    """What a dry run, which looks at no image, says of it."""
    return {"mean and std": f"of {num_images} images, from a pass before training"} if recipe.mean == AUTO else {}
