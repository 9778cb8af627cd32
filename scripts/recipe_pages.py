"""Write the tables of docs/settings.md, recipes.md, finetune.md and plan.md from recipes, settings and rules.

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
from paddlemae.tasks.plan import detail, measured, pretraining_settings, rules, segmentation_settings, time_split

DOCS = Path(__file__).parent.parent / "docs"
PAGES = (DOCS / "settings.md", DOCS / "recipes.md", DOCS / "finetune.md", DOCS / "plan.md")
TABLE = re.compile(r"(<!-- generated: (\w+) -->\n)\n(?:\|.*\n)*\n?")
ABSENT = "–"
BY_LABELS = "by labels"
LABEL_SETTINGS = (
    "batch_size",
    "weight_decay",
    "label_smoothing",
    "drop_path",
    "mixup",
    "cutmix",
    "randaugment",
    "erasing",
)
LABEL_SETTINGS += ("crop_scale",)


def main() -> None:
    for page in PAGES:
        page.write_text(with_tables(page.read_text()))
        print(f"wrote {page}")


def with_tables(page: str) -> str:
    """Return a page with every table behind a line `<!-- generated: NAME -->` written again."""
    return TABLE.sub(lambda mark: f"{mark[1]}\n{table_of(mark[2])}\n", page).rstrip() + "\n"


def table_of(name: str) -> str:
    """Return the recipes of a task, the settings of a section, or one of the tables that have a function here."""
    tables = {
        "labels": label_table,
        "sides": side_table,
        "models": model_table,
        "rules": rule_table,
        "masks": mask_table,
    }
    if name in tables:
        return tables[name]()
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


def side_table() -> str:
    """Return the image sizes that a plan chooses from."""
    rows = [
        ["short side, pixels", *map(str, rules.PATCHES)],
        ["`patch_size`", *map(str, rules.PATCHES.values())],
        ["patches of a square", *(str((side // patch) ** 2) for side, patch in rules.PATCHES.items())],
    ]
    return table(rows[0], rows[1:])


def model_table() -> str:
    """Return the models that a plan chooses from."""
    head = ["width x depth, heads", "decoder", "from views", "from images", f"peak lr at a batch of {rules.LR_BATCH}"]
    rows = [
        [
            f"{model.width} x {model.depth}, {model.heads}",
            f"{model.decoder_width} x {model.decoder_depth}, {model.decoder_heads}",
            f"{model.views:,}",
            f"{model.images:,}",
            f"{model.peak_lr:g}",
        ]
        for model in rules.MODELS
    ]
    return table(head, rows)


def rule_table() -> str:
    """Return what a plan decides by which rule."""
    keeps, enough = rules.LEAST_KEPT, rules.MOST_KEPT
    warmup, warmup_of_few = pretraining_settings.WARMUP, pretraining_settings.WARMUP_OF_FEW
    rows = [
        [
            "time",
            f"{time_split.PRETRAIN_SHARE:.0%} pretraining, {time_split.FINETUNE_SHARE:.0%} fine-tuning or segmentation "
            f"(up to {time_split.MOST_FINETUNE_SHARE:.0%} where it would have less than "
            f"{measured.FEW_FINETUNING_STEPS} or {measured.FEW_SEGMENTATION_STEPS:,} steps; what it does not need goes "
            f"to pretraining); without labels and masks {time_split.PRETRAIN_SHARE_ALONE:.0%} pretraining. "
            "The rest is a reserve",
        ],
        [
            "`image_size`",
            f"the smallest side of the table below that keeps {keeps.structure:.0%} of the images' variance and "
            f"{keeps.detail:.0%} of the energy of their gradients, or all of smaller images; a smaller one where the "
            f"time does not allow {rules.FEW_VIEWS:,} views, or {rules.FEW_EPOCHS} epochs, with the smallest model; a "
            f"larger one, up to {enough.detail:.0%} of the gradients, where it allows {rules.MANY_VIEWS:,} views with "
            "the second. A rectangle where the images have one shape (width / height varies by less than "
            f"{rules.SAME_RATIO:.0%}), else a square. Of images with masks: windows of {rules.WINDOW} x {rules.WINDOW} "
            f"pixels in patches of {rules.WINDOW_PATCH}",
        ],
        ["`patch_size`", "by the short side"],
        ["`embed_dim`, `depth`, decoder", "the largest model for whose views and images the time and the data suffice"],
        ["`mask_ratio`", f"0.75; 0.6 with fewer than {rules.FEW_PATCHES} patches"],
        [
            "`channels`, `bits`",
            "as stored: 1 where all colours are gray, the number of bands where there are more than 4; 16 bits where "
            "images have them",
        ],
        ["`mean`, `std`", "of the images that were read"],
        [
            "`norm_pix_floor`",
            f"{detail.FLAT:g} where more than {rules.MOSTLY_FLAT:.0%} of the patches vary by less than a tenth of what "
            "all images do, which is little but noise; else 0",
        ],
        [
            "`crop_scale`",
            f"[0.4, 1] for images of up to {rules.SMALL_SIDE} pixels, [0.2, 1] for those that are at least twice as "
            "large as their views, else [0.3, 1]; `crop_ratio` of rectangles is 3/4 to 4/3 of their own. Of images "
            "with masks: from half to twice what a window of the segmentation shows",
        ],
        [
            "`fit`",
            f"`stretch` where a centre crop would show less than {rules.LEAST_SEEN:.0%} of one image in twenty, else "
            "`crop`",
        ],
        ["`flip`", "true; nothing in the images says that left and right differ, so set it to false where they do"],
        [
            "`epochs`",
            f"all views that the time allows, at most {rules.MOST_EPOCHS} epochs, or {rules.MOST_UPDATES_OF_FEW:,} "
            "updates where that is more",
        ],
        [
            "`batch_size`",
            f"{rules.SMALLEST_BATCH}, doubled up to {rules.LARGEST_BATCH} (accelerators "
            f"{rules.LARGEST_ACCELERATOR_BATCH:,}) as long as {rules.UPDATES:,} updates remain; no more than images",
        ],
        ["`base_lr`", f"the model's peak, for a batch of {rules.LR_BATCH}; it grows with the root of the batch size"],
        [
            "`warmup_epochs`",
            f"{warmup:.0%} of the run, {warmup_of_few:.0%} below {pretraining_settings.FEW_UPDATES:,} updates",
        ],
        [
            "`cache`",
            f"a packed copy where it saves {rules.LEAST_SAVED:.0%} of the time, its making included, and fits into a "
            "quarter of the free space",
        ],
        [
            "`workers`",
            f"none where reading takes less than {rules.SLOW_READING:.0%} of a step; else on a CPU up to half of the "
            "cores, next to an accelerator as many as keep up with it",
        ],
        ["`precision`", "`bfloat16` on accelerators"],
    ]
    return table(["setting", "rule"], rows)


def mask_table() -> str:
    """Return what a plan decides about a segmentation by which rule."""
    side, largest = rules.SCENE_SIDE, rules.LARGEST_SCENE
    rows = [
        ["`head`", f"`{segmentation_settings.HEAD}`"],
        [
            "`short_side`",
            f"{side} pixels for images whose short side is above {rules.NEAR_SCENE * side:.0f} and up to {largest:,} "
            "pixels; others, such as maps, keep their scale",
        ],
        [
            "`dice`, `sampling`, `rare_crops`",
            f"1, `balanced` and 1 where one class has more than {segmentation_settings.MOSTLY_ONE:.0%} of the pixels; "
            f"`dice` 1 also with {segmentation_settings.FEW_CLASSES} classes",
        ],
        ["`batch_size`", str(segmentation_settings.BATCH_SIZE)],
        ["`val_fraction`", f"{segmentation_settings.TEST_SHARE:.0%} where no split is there to evaluate on"],
        ["`epochs`, `base_lr`, `layer_decay`", "the defaults of `segment`, fewer epochs where the time is short"],
    ]
    return table(["setting", "rule"], rows)


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
