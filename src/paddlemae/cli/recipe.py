"""`paddlemae recipe`: show the recipes, and explain the settings of one."""

from __future__ import annotations

from typing import Annotated

import typer


def recipe(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK] [NAME] [KEY=VALUE]...", help="A recipe and settings to change."),
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the recipes: task, name, description, result.")
    ] = False,
) -> None:
    """List the recipes, or print one as a recipe file in which every setting is explained.

    TASK is pretrain, finetune or probe. NAME is a recipe of --list or a .yaml file; TASK alone prints its defaults,
    NAME alone is enough if only one task has a recipe of that name.

    Examples:

    `paddlemae recipe --list`

    `paddlemae recipe pretrain base`

    `paddlemae recipe pretrain cifar10 epochs=20 > mine.yaml`
    """
    from paddlemae.recipe import describe, parse_overrides

    names = [word for word in words or () if "=" not in word]
    if show_list or not words:
        print(*describe.list_recipes(), sep="\n")
        return
    task, name = describe.find_recipe(names)
    overrides = parse_overrides([word for word in words if "=" in word])
    print(describe.describe_recipe(task, name, overrides), end="")
