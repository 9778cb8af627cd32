"""Write a plan as recipes in which each value has its reason, and as a summary."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from paddlemae.system.atomic import replace_text
from paddlemae.system.display_names import display_name
from paddlemae.tasks.plan.plan import Plan, Settings

_YAML = (".yaml", ".yml")
_SECTIONS = ("", "model", "augment", "training")
_COLUMN = 36  # of the reasons
_TITLES = {
    "plan": "planning",
    "pretrain": "pretraining",
    "finetune": "fine-tuning",
    "segment": "segmenting",
    "reserve": "left over",
}


def output_paths(out: Path) -> dict[str, Path]:
    """Return the recipe's file of each task: in the folder `out`, or `out` itself and one next to it.

    Raises:
        FileExistsError: one of them is there.
        FileNotFoundError: no such folder.
    """
    if out.suffix in _YAML:
        after = {task: out.with_name(f"{out.stem}-{task}{out.suffix}") for task in ("finetune", "segment")}
        paths = {"pretrain": out, **after}
    else:
        paths = {task: out / f"{task}.yaml" for task in ("pretrain", "finetune", "segment")}
    if taken := [path for path in paths.values() if path.exists()]:
        raise FileExistsError(f"{taken[0]} exists already; remove it, or name another --out")
    if out.suffix in _YAML and not out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {out.parent} to write {out.name} to; make it, or name another")
    return paths


def cache_path(out: Path) -> str:
    """Return the folder next to the recipes for a packed copy of the images."""
    return str(out.with_name(f"{out.stem}-cache") if out.suffix in _YAML else out / "cache")


def write_plan(plan: Plan, out: Path) -> dict[str, Path]:
    """Write the recipes of a plan; nothing is replaced.

    Returns:
        task -> file.
    Raises:
        FileExistsError, FileNotFoundError: see `output_paths`.
    """
    paths = {task: path for task, path in output_paths(out).items() if task in plan.settings}
    for task, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, recipe_text(plan, task))
    return paths


def recipe_text(plan: Plan, task: str) -> str:
    """Return a recipe as YAML with the reason behind each value; `load_recipe` reads it."""
    header = f"# {task} of {plan.data}, planned for {plan.minutes:g} minutes on {plan.device}: {_minutes(plan, task)}"
    lines = [display_name(header, None), f"task: {task}"]
    lines += _lines(plan.settings[task])
    return "\n".join(lines) + "\n"


def _minutes(plan: Plan, task: str) -> str:
    return f"about {plan.times[task] / 60:.1f} minutes"


def _lines(settings: Settings) -> Iterator[str]:
    sections: dict[str, list[tuple[str, Any, str]]] = {}
    for key, (value, reason) in settings.items():
        section, _, leaf = key.rpartition(".")
        sections.setdefault(section, []).append((leaf, value, reason))
    for section, entries in sorted(sections.items(), key=lambda item: _SECTIONS.index(item[0])):
        if section:
            yield f"{section}:"
        for leaf, value, reason in entries:
            text = f"{'  ' if section else ''}{leaf}: {_show(value)}"
            yield f"{text:{_COLUMN}} # {display_name(reason, None)}"


def _show(value: Any) -> str:
    """Return a value as one line of YAML."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).strip().removesuffix("\n...")
    )


def summarize(plan: Plan) -> str:
    """Return the survey, the model and the times as text."""
    survey, pretrain = plan.survey, plan.settings["pretrain"]
    values = {key: choice.value for key, choice in pretrain.items()}
    height, width = survey.height, survey.width
    lines = [
        f"images      {survey.images:,}, of {height.least:.0f} x {width.least:.0f} to {height.largest:.0f} x "
        f"{width.largest:.0f} pixels (median {height.median:.0f} x {width.median:.0f}); {', '.join(survey.stored)}",
        f"labels      {_labels(plan)}",
        f"model       images of {_size(values['model.image_size'])} in patches of {values['model.patch_size']}, width "
        f"{values['model.embed_dim']}, {values['model.depth']} blocks",
    ]
    for task, settings in plan.settings.items():
        lines.append(
            f"{_TITLES[task]:11} {settings['training.epochs'].value:g} epochs, batches of "
            f"{settings['training.batch_size'].value}"
        )
    spent = [f"{_TITLES[name]} {seconds / 60:.1f}" for name, seconds in plan.times.items()]
    lines.append(f"minutes     {', '.join(spent)}: {round(plan.minutes, 1):g} in all")
    return "\n".join(lines + [f"note        {note}" for note in plan.notes])


def _labels(plan: Plan) -> str:
    counts: Mapping[str, int] = plan.survey.classes
    if masked := plan.survey.masked:
        test = f", {masked.test_images:,} more to evaluate on" if masked.test_images else ""
        return f"masks of {masked.images:,} images, {len(masked.classes)} classes{test}"
    if not counts:
        return "none"
    test = f", {plan.survey.test_images:,} images to evaluate on" if plan.survey.test_images else ""
    of_each = f"{min(counts.values()):,} to {max(counts.values()):,} of each"
    return f"{plan.survey.labelled:,} of {len(counts)} classes, {of_each}{test}"


def _size(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list) else f"{value} x {value}"


def commands(plan: Plan, paths: Mapping[str, Path]) -> list[str]:
    """Return the commands that run the plan."""
    first = paths["pretrain"]
    name = first.stem if first.stem != "pretrain" else first.parent.name
    run = f"runs/{name}"
    texts = [f"paddlemae pretrain {shlex.quote(str(first))} --out {shlex.quote(run)}"]
    for task, folder in (("finetune", f"{run}-finetuned"), ("segment", f"{run}-segmented")):
        if task in paths:
            names = (shlex.quote(name) for name in (str(paths[task]), run, folder))
            texts.append("paddlemae {} {} --init {} --out {}".format(task, *names))
    return texts
