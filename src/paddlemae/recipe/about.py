"""The `about:` block of a recipe file: where its values are from, and what they reached."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from paddlemae.recipe.types import STRICT
from paddlemae.system.documents import validate_content


class About(BaseModel):
    """Describe what a recipe is for, its source and its results. A run does not store it with its recipe.

    Args:
        what: the recipe in a few words.
        source: where its values are from.
        command: a command that trains with it.
        hardware: what the result was reached on.
        time: how long that took; None where the source does not say.
        result: what was reached, with its figures.
        evidence: "measured" here by us, or "cited" from the source and not run here.
    """

    model_config = STRICT
    what: str
    source: str
    command: str
    hardware: str | None = None
    time: str | None = None
    result: str
    evidence: Literal["measured", "cited"]


def take_about(content: dict[str, Any], name: str, *, required: bool = False) -> About | None:
    """Remove the `about:` block from what a recipe file holds, and return it; None if there is none.

    Raises:
        ValueError: the block is damaged, or missing though it is `required`.
    """
    if "about" not in content and not required:
        return None
    try:
        return validate_content(About, content.pop("about", {}))
    except ValueError as fault:
        raise ValueError(f"recipe {name}: about: {fault}") from None
