"""Describe recipes as text: the list of the built-in ones, and one with every setting explained."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from paddlemae.recipe.by_task import RECIPES
from paddlemae.recipe.fields import Setting, settings_of
from paddlemae.recipe.label_defaults import open_names
from paddlemae.recipe.load import load_recipe, recipe_about, recipe_names, task_of
from paddlemae.recipe.training import FREE


def list_recipes() -> Iterator[str]:
    """Yield two lines for each built-in recipe: task, name, what it is; its result."""
    for task in RECIPES:
        for name in recipe_names(task):
            about = recipe_about(task, name)
            assert about is not None
            yield f"{task:9}{name:15} {about.what}"
            yield f"{'':25}{about.evidence}: {about.result}"


def find_recipe(words: Sequence[str]) -> tuple[str, str | None]:
    """Return the task and the recipe that [TASK] [NAME] name; no recipe means the defaults of the task.

    Args:
        words: a task, a recipe or both; the recipe alone if only one task has one of that name, or a file with a task.
    Raises:
        ValueError: several tasks have such a recipe, or there are too many words.
        FileNotFoundError: there is no such recipe.
    """
    if words and words[0] in RECIPES and len(words) <= 2:
        return words[0], words[1] if len(words) == 2 else None
    if len(words) != 1:
        raise ValueError(f"expected [TASK] NAME with a task of {', '.join(RECIPES)}, got {' '.join(words)}")
    (name,) = words
    tasks = [task for task in RECIPES if name in recipe_names(task)]
    if len(tasks) > 1:
        raise ValueError(
            f"{', '.join(tasks)} each have a recipe {name!r}; name the task: paddlemae recipe {tasks[0]} {name}"
        )
    if tasks:
        return tasks[0], name
    if name.endswith((".yaml", ".yml")):
        return task_of(Path(name)), name
    known = sorted({*RECIPES, *(known for task in RECIPES for known in recipe_names(task))})
    near = difflib.get_close_matches(name, known, 3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise FileNotFoundError(f"no recipe {name!r}; {hint}see paddlemae recipe --list")


def describe_recipe(task: str, name: str | None = None, overrides: Mapping[str, Any] | None = None) -> str:
    """Return a resolved recipe as a YAML file that explains each setting in a comment.

    Args:
        task, name, overrides: as for `load_recipe`, with its errors.
    Returns:
        text that `load_recipe` reads as the same recipe; "(default)" marks the settings with the task's default value.
        Settings that a fine-tuning chooses by the number of labelled images are comments.
    """
    recipe = load_recipe(task, name, overrides or {})
    settings, still_open = list(settings_of(recipe)), open_names(recipe)
    defaults = {setting.name: setting.value for setting in settings_of(load_recipe(task))}
    about = recipe_about(task, name) if name else None
    lines = [f"task: {task}"]
    if about:
        block = {"about": about.model_dump(exclude_none=True)}
        lines.append(yaml.safe_dump(block, sort_keys=False, width=110, allow_unicode=True).strip())
    section = ""
    for setting in settings[1:]:  # the first is the task
        *sections, leaf = setting.name.split(".")
        if sections and sections[0] != section:
            section = sections[0]
            lines.append(f"{section}:")
        indent = "  " * len(sections)
        if setting.name in still_open:
            value, default = f"{indent}# {leaf}:", " (by the number of labelled images)"
        else:
            value = f"{indent}{leaf}: {_show(setting.value)}"
            default = " (default)" if setting.value == defaults[setting.name] else ""
        lines.append(f"{value:36} #{default} {explain(setting)}")
    return "\n".join(lines) + "\n"


def _show(value: Any) -> str:
    """Return a setting's value as one line of YAML."""
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...")


def explain(setting: Setting) -> str:
    """Return the description of a setting, with a note if it may change on resume."""
    return setting.description + (f"; {FREE}" if setting.is_free else "")
