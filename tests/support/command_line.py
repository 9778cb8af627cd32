"""The command line as Typer parses it."""

from __future__ import annotations

import shlex

import typer

from paddlemae.cli import app, training
from paddlemae.recipe import load_recipe, parse_overrides


def commands() -> dict:
    return app.command_line().commands  # type: ignore[attr-defined]


def parsed(command: str) -> typer.Context:
    """Parse a command line as `paddlemae` does, its recipe and settings too; nothing is run."""
    program, name, *arguments = shlex.split(command)
    assert program == "paddlemae"
    context = commands()[name].make_context(name, arguments)
    if "overrides" in context.params:
        task = "finetune" if name == "study" else name
        named = (context.params[key] for key in ("recipe", "overrides", "data", "init"))
        recipe, overrides = training.name_and_overrides(*named)
        if name == "study":
            overrides |= parse_overrides([f"{context.params['vary']}={value}" for value in context.params["value"]])
        load_recipe(task, recipe, overrides)
    return context
