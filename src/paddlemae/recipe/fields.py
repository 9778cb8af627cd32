"""The settings of a recipe one by one: full name, value, description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from paddlemae.recipe.training import FREE


@dataclass(frozen=True)
class Setting:
    """One setting of a recipe.

    Args:
        name: with its section, as "model.depth".
        value: in the recipe that it was read from.
        description: what it means, with its unit.
        is_free: it may change on resume, since it does not affect the result.
    """

    name: str
    value: Any
    description: str
    is_free: bool = False


def settings_of(recipe: Any, section: str = "") -> Iterator[Setting]:
    """Yield every setting of a recipe, those of its sections included.

    Args:
        recipe: a recipe or one of its sections: a pydantic model, or a dataclass with descriptions in its metadata.
        section: the prefix of the settings' names.
    """
    for name, description, is_free in _described(recipe):
        value = getattr(recipe, name)
        if isinstance(value, BaseModel) or is_dataclass(value):
            yield from settings_of(value, f"{name}.")
        else:
            yield Setting(section + name, value, description, is_free)


def _described(recipe: Any) -> Iterator[tuple[str, str, bool]]:
    if isinstance(recipe, BaseModel):
        for name, field in type(recipe).model_fields.items():
            yield name, field.description or "", FREE in field.metadata
    else:
        for each in fields(recipe):
            yield each.name, each.metadata.get("description", ""), False
