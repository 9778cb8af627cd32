"""Write the tables of docs/settings.md, recipes.md and finetune.md from the recipes and their settings.

python scripts/recipe_pages.py
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paddlemae.recipe import RECIPES, load_recipe, open_names, recipe_about, recipe_names, settings_of
from paddlemae.recipe.describe import explain
from paddlemae.recipe.label_defaults import BANDS

DOCS = Path(__file__).parent.parent / "docs"
PAGES = (DOCS / "settings.md", DOCS / "recipes.md", DOCS / "finetune.md")
TABLE = re.compile(r"(<!-- generated: (\w+) -->\n)\n(?:\|.*\n)*\n?")
ABSENT = "–"
BY_LABELS = "by labels"
LABEL_SETTINGS = ("batch_size", "weight_decay", "label_smoothing", "drop_path", "mixup", "cutmix", "randaugment")
LABEL_SETTINGS += ("crop_scale",)


def main() -> None:
    for page in PAGES:
        page.write_text(with_tables(page.read_text()))
        print(f"wrote {page}")


def with_tables(page: str) -> str:
    """Return a page with every table behind a line `<!-- generated: NAME -->` written again."""
    return TABLE.sub(lambda mark: f"{mark[1]}\n{table_of(mark[2])}\n", page).rstrip() + "\n"


def table_of(name: str) -> str:
    """Return the recipes of a task, the settings of a section, or "labels": those by the number of labelled images."""
    if name == "labels":
        return label_table()
    return recipe_table(name) if name in RECIPES else settings_table(name)


def settings_table(section: str) -> str:
    """Return the settings of a section, "top" for those outside of any, with the default of each task."""
    defaults: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for task in RECIPES:
        for setting in settings_of(load_recipe(task)):
            if setting.name != "task" and setting.name.rpartition(".")[0] == ("" if section == "top" else section):
                default = BY_LABELS if setting.name in open_names(load_recipe(task)) else show(setting.value)
                defaults[setting.name, explain(setting)][task] = default
    rows = [
        [f"`{name}`", *(values.get(task, ABSENT) for task in RECIPES), text]
        for (name, text), values in defaults.items()
    ]
    return table(["setting", *RECIPES, "meaning"], rows)


def label_table() -> str:
    """Return the defaults of a fine-tuning by the number of labelled images."""
    head, lowest = ["labelled images"], 0
    rows: dict[str, list[str]] = defaultdict(list)
    for band in BANDS:
        head.append(f"from {lowest:,}" if math.isinf(band.below) else f"{lowest:,} to {int(band.below) - 1:,}")
        lowest = int(band.below) if not math.isinf(band.below) else 0
        steps = f"{band.steps:,} steps"
        rows["length"].append(f"{band.epochs:g} epochs, at least {steps}" if band.epochs else steps)
        rows["peak learning rate"].append(f"{band.lr:g}")
        for name in LABEL_SETTINGS:
            rows[f"`{name}`"].append(show(asdict(band)[name]))
    return table(head, [[name, *values] for name, values in rows.items()])


def recipe_table(task: str) -> str:
    """Return the recipes of a task, with their `about:` blocks."""
    rows = []
    for name in recipe_names(task):
        about = recipe_about(task, name)
        assert about is not None
        link = f"[`{name}`](../src/paddlemae/recipes/{task}/{name}.yaml)"
        result = f"*{about.evidence}*: {about.result}"
        rows.append([link, about.what, about.source, about.hardware or ABSENT, about.time or ABSENT, result])
    return table(["recipe", "what it is", "source", "hardware", "time", "result"], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *rows])


def show(value: Any) -> str:
    """Return a default as a page shows it, in YAML's words."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(show, value))}]"
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return f"{value:.5g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
