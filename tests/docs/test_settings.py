"""docs/settings.md and docs/recipes.md against the recipes themselves."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from paddlemae.recipe import RECIPES, recipe_names
from tests.support.pages import links, rows
from tests.support.paths import ROOT

SETTINGS, RECIPE_PAGE = ROOT / "docs" / "settings.md", ROOT / "docs" / "recipes.md"
HEAD = ("setting", *RECIPES)
ABSENT = "–"


def fields(model: type[BaseModel], section: str = "") -> dict[str, Any]:
    """Every setting by its full name."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= fields(field.annotation, f"{name}.")
        elif name != "task":
            found[section + name] = field
    return found


def described(task: str) -> dict[str, tuple[Any, str]]:
    """What the page says of a task's settings: name -> default, meaning."""
    found: dict[str, tuple[Any, str]] = {}
    for cells in rows(SETTINGS, *HEAD):
        names = re.findall(r"`([\w.]+)`", cells[0])
        value = cells[HEAD.index(task)]
        if value != ABSENT:
            values = yaml.safe_load(f"[{value}]")
            assert len(values) == len(names), cells
            assert not found.keys() & set(names), f"twice: {cells[0]}"
            found |= {name: (one, cells[-1]) for name, one in zip(names, values)}
    return found


@pytest.mark.parametrize("task", RECIPES)
def test_the_page_has_every_setting_with_its_default(task: str) -> None:
    wanted, said = fields(RECIPES[task]), described(task)
    assert wanted.keys() - said.keys() == set(), f"docs/settings.md lacks settings of {task}: give each a row"
    assert said.keys() - wanted.keys() == set(), f"docs/settings.md has settings that {task} has not"
    for name, field in wanted.items():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        same = pytest.approx(default, rel=1e-4) if isinstance(default, list | float) else default
        assert said[name][0] == same, f"docs/settings.md: {name} of {task}"
        assert said[name][1], f"docs/settings.md: say what {name} means"


@pytest.mark.parametrize("task", RECIPES)
def test_the_page_names_every_choice(task: str) -> None:
    said = described(task)
    for name, field in fields(RECIPES[task]).items():
        for choice in choices(field.annotation):
            assert f"`{choice}`" in said[name][1], f"docs/settings.md: {name} may be {choice}"


def choices(annotation: Any) -> list[Any]:
    """What a Literal allows, inside of unions too."""
    inner = get_args(annotation)
    if "Literal" in str(annotation) and not any("Literal" in str(one) for one in inner):
        return list(inner)
    return [choice for one in inner if "Literal" in str(one) for choice in choices(one)]


def test_choices_are_read() -> None:
    assert choices(fields(RECIPES["pretrain"])["mask"].annotation) == ["random", "block", "grid"]
    assert choices(fields(RECIPES["finetune"])["augment.bits"].annotation) == [8, 16]


def test_every_recipe_is_listed_with_what_its_file_says() -> None:
    table = {tuple(re.findall(r"\w+", cells[0])[:2]): cells for cells in rows(RECIPE_PAGE, "recipe", "what it is")}
    assert set(table) == {(task, name) for task in RECIPES for name in recipe_names(task)}
    for (task, name), cells in table.items():
        assert f"../src/paddlemae/recipes/{task}/{name}.yaml" in links(RECIPE_PAGE)
        head = (files("paddlemae") / "recipes" / task / f"{name}.yaml").read_text().split("task:")[0]
        for figure in re.findall(
            r"\d+(?:\.\d+)?%|\d+(?:\.\d+)? (?:hours|minutes)|arXiv \S+|table \d+", " ".join(cells[2:])
        ):
            assert figure in head, f"docs/recipes.md: {task} {name}: {figure} is not in the file's head"
        (word,) = re.findall(r"\*(cited|measured)\*", cells[3])
        assert word in head, f"docs/recipes.md: {task} {name} is not {word} by the file's head"
