"""Read recipes: the defaults, then one YAML file, then key=value."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from paddlemae.model.shape import EncoderShape, names_of
from paddlemae.recipe.about import About, take_about
from paddlemae.recipe.by_task import RECIPES, Recipe
from paddlemae.recipe.fields import settings_of
from paddlemae.recipe.settings import SCRATCH
from paddlemae.system.display_names import display_name
from paddlemae.system.documents import brief, first_fault, parse_yaml, read_yaml

# names of settings in other projects, which resemble others here more than their own -> the last part of the key here
OTHER_NAMES = {
    **dict.fromkeys(("lr", "blr", "learning_rate"), "base_lr"),
    **dict.fromkeys(("width", "dim", "hidden_size", "hidden_dim"), "embed_dim"),
    **dict.fromkeys(("decoder_width", "decoder_dim"), "decoder_embed_dim"),
    **dict.fromkeys(("layers", "num_layers", "num_blocks", "blocks"), "depth"),
    **dict.fromkeys(("heads", "num_attention_heads"), "num_heads"),
    **dict.fromkeys(("model", "arch", "model_name", "model_size"), "size"),
    **dict.fromkeys(("img_size", "input_size", "resolution"), "image_size"),
    **dict.fromkeys(("in_chans", "in_channels", "num_channels"), "channels"),
    **dict.fromkeys(("batch", "bs"), "batch_size"),
    **dict.fromkeys(("accum_iter", "accumulation", "gradient_accumulation_steps"), "accumulation_steps"),
    **dict.fromkeys(("num_epochs", "max_epochs"), "epochs"),
    **dict.fromkeys(("num_steps", "max_steps", "iterations", "max_iter"), "steps"),
    **dict.fromkeys(("warmup", "warmup_steps"), "warmup_epochs"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("grad_clip", "max_grad_norm"), "clip_grad"),
    **dict.fromkeys(("amp", "dtype", "mixed_precision"), "precision"),
    **dict.fromkeys(("num_workers", "dataloader_num_workers"), "workers"),
    **dict.fromkeys(("masking_ratio", "ratio"), "mask_ratio"),
    **dict.fromkeys(("smoothing",), "label_smoothing"),
}
# keys of the encoder that a built-in recipe sets for initial weights too
KEPT_OF_MODEL = {"finetune": {"drop_path"}, "segment": {"drop_path", "image_size"}}


def recipe_names(task: str) -> list[str]:
    """Return the names of the built-in recipes of a task."""
    folder = files("paddlemae") / "recipes" / task
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(task: str, name: str | None = None, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Any:
    """Build a task's recipe.

    Args:
        task: a key of `RECIPES`.
        name: a built-in recipe, or a YAML file; None for the defaults alone.
        overrides: key -> value, or texts as `parse_overrides` takes them; a key with its section ("model.depth") or,
            where only one section has it, without.
    Raises:
        ValueError: an unknown key (the nearest one is given), a value of the wrong type, a recipe of another task.
        FileNotFoundError: no such recipe.
    """
    given = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    return build_recipe(task, recipe_content(task, name, given))


def recipe_content(task: str, name: str | None = None, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a recipe names, with the overrides (key -> value), unchecked; errors as of `load_recipe`.

    A built-in recipe to fine-tune or segment names a model, mean and std for `init=scratch` only: other weights bring
    their own.
    """
    content = _read(task, name)[0] if name else {}
    if content.get("task", task) != task:
        raise ValueError(
            f"{name} is a recipe for 'paddlemae {display_name(content['task'])}', not for 'paddlemae {task}'"
        )
    given = overrides or {}
    kept = KEPT_OF_MODEL.get(task)
    if name and not _is_file(name) and kept and given.get("init", SCRATCH) not in (None, SCRATCH):
        content = _without_model(content, kept)
    for key, value in given.items():
        *sections, leaf = _full_key(RECIPES[task], key).split(".")
        target = content
        for section in sections:
            target = target.setdefault(section, {})
        target[leaf] = value
    return content


def build_recipe(task: str, content: dict[str, Any]) -> Any:
    """Return the recipe that a mapping of settings means.

    Raises:
        ValueError: one line for the first fault.
    """
    known = _keys(RECIPES[task])
    for key in _given_keys(content, known):
        _full_key(RECIPES[task], key)
    try:
        return RECIPES[task](**content)
    except ValidationError as fault:
        raise ValueError(f"recipe: {first_fault(fault, names=set('.'.join(known).split('.')))}") from fault


def dump_recipe(recipe: Recipe, without: Sequence[str] = ()) -> str:
    """Return a resolved recipe as YAML, which `load_recipe` reads again; `without` names settings to leave out."""
    content = recipe.model_dump(mode="json")
    for name in without:
        section, _, key = name.rpartition(".")
        del (content[section] if section else content)[key]
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None)


def _read(task: str, name: str) -> tuple[dict[str, Any], About | None]:
    is_file = _is_file(name)
    content = _file_content(Path(name)) if is_file else _builtin(task, name)
    return content, take_about(content, name, required=not is_file)


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or Path(name).is_file()


def _without_model(content: dict[str, Any], kept: set[str]) -> dict[str, Any]:
    """Return a recipe's content without what initial weights bring: the encoder's shape, mean and std."""
    brought = {"size", *names_of(EncoderShape)} - kept
    model = {key: value for key, value in content.get("model", {}).items() if key not in brought}
    return {**{key: value for key, value in content.items() if key not in ("mean", "std")}, "model": model}


def recipe_about(task: str, name: str) -> About | None:
    """Return the `about:` block of a recipe; None of a file that has none. Arguments and errors as `load_recipe`."""
    return _read(task, name)[1]


def task_of(path: Path) -> str:
    """Return the task that a recipe's file names.

    Raises:
        ValueError: it names none, or an unknown one; or as `read_recipe_file`.
    """
    task = read_recipe_file(path).get("task")
    if not isinstance(task, str) or task not in RECIPES:
        raise ValueError(f"{path} has no task; name it before the file: {', '.join(RECIPES)}")
    return task


def _builtin(task: str, name: str) -> dict[str, Any]:
    builtin = files("paddlemae") / "recipes" / task / f"{name}.yaml"
    if not builtin.is_file():
        names = recipe_names(task)
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise FileNotFoundError(
            f"no {task} recipe {name!r}; {hint}available: {', '.join(names)}, or the path of a .yaml file"
        )
    content: dict[str, Any] = parse_yaml(builtin.read_text(encoding="utf-8"))
    return content


def read_recipe_file(path: Path) -> dict[str, Any]:
    """Return the settings in a recipe's file, values unchecked, without its `about:` block; {} if it is empty.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML mapping of keys to values, is beyond the limits of `documents.parse_yaml`, or has a
            damaged `about:` block.
    """
    content = _file_content(path)
    take_about(content, str(path))
    return content


def _file_content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"recipe file {path} does not exist")
    content = read_yaml(path)
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"recipe {path} must be a mapping of keys to values, got a {type(content).__name__}")
    return content or {}


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Return key -> value of texts "key=value", the values read as YAML; of a repeated key the last one counts."""
    found: dict[str, Any] = {}
    for key, value in map(_parse_override, texts):
        found.pop(key, None)  # the order is that in which settings are applied
        found[key] = value
    return found


def override_text(key: str, value: Any) -> str:
    """Return "key=value" as a person would write it, which `parse_overrides` reads back."""
    plain = f"{key}={value}"
    try:
        is_read_back = isinstance(value, str) and _parse_override(plain) == (key, value)
    except ValueError:
        is_read_back = False
    return plain if is_read_back else f"{key}={json.dumps(value)}"


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"expected key=value, got {brief(text)}; for example mask_ratio=0.6 or model.size=tiny")
    try:
        parsed = parse_yaml(value)
    except ValueError as fault:
        raise ValueError(f"can't read the value of {brief(text)}; write lists as [1,2]") from fault
    return key.strip(), None if value == "none" else parsed


@cache
def _keys(model: type[BaseModel]) -> tuple[str, ...]:
    """Return every full key of a recipe; the name of a section is not one."""
    return tuple(setting.name for setting in settings_of(model()))


def _given_keys(content: dict[str, Any], known: Sequence[str]) -> Iterator[str]:
    sections = {key.split(".")[0] for key in known if "." in key}
    for name, value in content.items():
        if name in sections and isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in value)
        elif name not in sections:
            yield str(name)


def _full_key(model: type[BaseModel], key: str) -> str:
    """Return the full key that `key` names, itself or by its last part.

    Raises:
        ValueError: unknown, or in several sections.
    """
    known = _keys(model)
    if key in known:
        return key
    matches = [full for full in known if "." in full and full.split(".")[-1] == key]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(f"recipe key {key!r} is ambiguous: {' or '.join(matches)}")
    leaves = {full.split(".")[-1]: full for full in known}
    leaf = key.split(".")[-1]
    other = OTHER_NAMES.get(leaf)
    near = [other] if other in leaves else difflib.get_close_matches(leaf, leaves, 1, cutoff=0.5)
    hint = (
        f"did you mean {leaves[near[0]]!r}?"
        if near
        else f"'paddlemae recipe {model.model_fields['task'].default}' lists all keys"
    )
    raise ValueError(f"unknown recipe key {brief(key)}; {hint}")
