"""The settings of a recipe one by one: full name, value, description."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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


def settings_of(recipe: BaseModel, section: str = "") -> Iterator[Setting]:
    """Yield every setting of a recipe, those of its sections included.

    Args:
        recipe: a recipe or one of its sections.
        section: the prefix of the settings' names.
    """
    for name, field in type(recipe).model_fields.items():
        value = getattr(recipe, name)
        if isinstance(value, BaseModel):
            yield from settings_of(value, f"{name}.")
        else:
            yield Setting(section + name, value, field.description or "", FREE in field.metadata)
