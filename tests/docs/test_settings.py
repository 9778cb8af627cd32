"""Tables in docs/ are written from the recipes; every setting and every recipe is described."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from paddlemae.recipe import RECIPES, load_recipe, recipe_about, recipe_names, settings_of
from scripts.recipe_pages import PAGES, TABLE, with_tables
from tests.support.command_line import parsed
from tests.support.paths import ROOT

BUILT_IN = [(task, name) for task in RECIPES for name in recipe_names(task)]
FIGURE = re.compile(r"\d+\.\d+%")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_what_the_recipes_say(page) -> None:
    assert page.read_text() == with_tables(page.read_text()), "run: python scripts/recipe_pages.py"


def test_the_pages_have_every_setting_and_every_recipe() -> None:
    settings, recipes, *_ = (page.read_text() for page in PAGES)
    for task in RECIPES:
        for setting in settings_of(load_recipe(task)):
            assert f"| `{setting.name}` |" in settings or setting.name == "task"
    assert all(f"recipes/{task}/{name}.yaml" in recipes for task, name in BUILT_IN)


def test_a_changed_table_is_written_again() -> None:
    for page in PAGES[:2]:
        changed = page.read_text().replace("| `", "| `x", 1).replace("| [`", "| [`x", 1)
        assert changed != page.read_text() == with_tables(changed)
        assert len(TABLE.findall(changed)) >= 3


def literals(annotation: Any) -> Iterator[Any]:
    """Yield what the Literals in an annotation allow."""
    if get_origin(annotation) is not None:
        for inner in get_args(annotation):
            yield from literals(inner) if "Literal" in str(inner) else ()
            if "Literal" in str(get_origin(annotation)):
                yield inner


@pytest.mark.parametrize("task", RECIPES)
def test_a_setting_has_a_description_that_names_every_choice(task: str) -> None:
    recipe = load_recipe(task)
    for setting in settings_of(recipe):
        *section, name = setting.name.split(".")
        owner = getattr(recipe, section[0]) if section else recipe
        if name != "task":
            assert setting.description, f"{setting.name} of {task} has no description"
            for choice in literals(get_type_hints(type(owner), include_extras=True)[name]):
                assert f"`{choice}`" in setting.description, f"{setting.name} may be {choice}"


def test_choices_are_read() -> None:
    hints = get_type_hints(RECIPES["pretrain"], include_extras=True)
    assert list(literals(hints["mask"])) == ["random", "block", "grid"]
    assert list(literals(get_type_hints(hints["augment"], include_extras=True)["bits"])) == [8, 16]


@pytest.mark.parametrize(("task", "name"), BUILT_IN, ids=["-".join(pair) for pair in BUILT_IN])
def test_a_recipe_says_what_it_reached_and_how(task: str, name: str) -> None:
    about = recipe_about(task, name)
    assert about is not None
    assert about.command.startswith(f"paddlemae {task} {name} ")
    parsed(about.command)
    figures = FIGURE.findall(about.result)
    assert figures
    if about.evidence == "measured":
        results = (ROOT / "docs" / "RESULTS.md").read_text()
        assert [figure for figure in figures if figure not in results] == []
