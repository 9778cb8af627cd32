"""Measure the channels of a source, as settings of a recipe or as a recipe: `paddlemae data stats`."""

from __future__ import annotations

import copy
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml

from paddlemae.data.disk.errors import report_unreadable
from paddlemae.data.inspect.statistics import (
    ChannelStatistics,
    channel_statistics,
    constant_channels,
    needs_bits,
    recipe_values,
)
from paddlemae.data.masks.holds_masks import holds_masks
from paddlemae.data.masks.survey import survey_masks
from paddlemae.data.sources import BadMask, SourceNote, open_source
from paddlemae.data.sources.mask_folders import MASKS_LEFT_OUT
from paddlemae.data.workers import workers_for
from paddlemae.recipe import build_recipe, recipe_content
from paddlemae.runs.progress import progress
from paddlemae.runs.runlog import command_line
from paddlemae.system.atomic import replace_text
from paddlemae.system.display_names import display_name

SPLIT_OPTIONS = {"train": "train", "test": "test", "all": None}


def measure_source(
    spec: str, *, split: str, channels: int, bits: int | None, workers: int | None, quiet: bool
) -> ChannelStatistics:
    """Look at every image that `spec` names; those that can't be read are counted, the first of them said on stderr.

    Args:
        spec: as `open_source` takes it.
        split: train, test, or all.
        channels, bits: as `channel_statistics` takes them.
        workers: processes that decode; None is one a core where the images are many.
    Raises:
        ValueError: another split or depth, or nothing that can be read.
        FileNotFoundError: no such path.
    """
    if split not in SPLIT_OPTIONS:
        raise ValueError(f"--split must be one of {', '.join(SPLIT_OPTIONS)}; got {split!r}")
    if bits not in (None, 8, 16):
        raise ValueError(f"--bits must be 8 or 16; got {bits}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f".*{MASKS_LEFT_OUT}", SourceNote)  # `count_mask_pixels` looks at them
        source = open_source(spec, SPLIT_OPTIONS[split])
    named = 0

    def name(fault: Exception) -> None:
        nonlocal named
        named += 1
        report_unreadable(named, fault)

    with progress("images", len(source), show=not quiet) as show:
        statistics = channel_statistics(
            source, channels, bits=bits, workers=workers_for(len(source), workers), on_skip=name, on_images=show
        )
    if flat := constant_channels(statistics):
        print(f"note: nothing varies in channel {flat}, and recipes refuse a std of 0", file=sys.stderr)
    return statistics


def count_mask_pixels(spec: str, split: str, workers: int | None, quiet: bool) -> dict[str, Any] | None:
    """Count the pixels of each class in the masks that `spec` has; None without masks.

    Returns:
        {"masks": number, "pixels": {class: number}, "images": {class: number of masks with it}, "ignored": pixels}.
    Raises:
        BadMask: the first mask that can't be used.
    """
    if not holds_masks(spec):
        return None
    source = open_source(spec, SPLIT_OPTIONS[split], masks=True)
    with progress("masks", len(source), show=not quiet) as show:
        looks = survey_masks(source, workers=workers_for(len(source), workers), on_masks=show)
    if looks.faults:
        raise BadMask(next(iter(looks.faults.values())))
    return {
        "masks": len(source),
        "pixels": dict(zip(source.classes, looks.pixels.tolist())),
        "images": dict(zip(source.classes, looks.images.tolist())),
        "ignored": int(looks.pixels_NK[:, -1].sum()),
    }


def describe_mask_pixels(found: dict[str, Any]) -> str:
    """Format the result of `count_mask_pixels` as text."""
    total = max(1, sum(found["pixels"].values()))
    shares = ", ".join(f"{display_name(name, 40)} {count / total:.2%}" for name, count in found["pixels"].items())
    return f"masks: {shares} of the counted pixels; {found['ignored'] / (total + found['ignored']):.2%} ignored"


def load_base(recipe: str | None, out: Path | None, overwrite: bool) -> dict[str, Any]:
    """Return the content that a new recipe begins with; check the arguments before images are read.

    Args:
        recipe: one for pretraining, as `load_recipe` takes it; by default nothing is named.
    Raises:
        ValueError, FileNotFoundError: no such recipe, or a file that can't be written.
    """
    if out is None:
        if recipe is not None:
            raise ValueError("--recipe is what --out adds the statistics to; add --out FILE.yaml")
        return {}
    if out.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--out must be a recipe file that ends in .yaml; got {out}")
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists already; add --overwrite to replace it, or name another --out")
    if not out.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {out.parent} to write {out.name} to; make it, or name another --out"
        )
    content = recipe_content("pretrain", recipe)
    build_recipe("pretrain", content)  # refuses what is wrong with it
    return content


def choose_channels(base: dict[str, Any], channels: int | None, bits: int | None) -> tuple[int, int | None]:
    """Return (channels, bits) to look at images with: those that are named, else the recipe's."""
    built = build_recipe("pretrain", base)
    return channels or built.model.channels, bits or built.augment.bits


def write_recipe(statistics: ChannelStatistics, spec: str, split: str, base: dict[str, Any], out: Path) -> None:
    """Write a recipe with the source and what was found in it, for `paddlemae pretrain`, and for `finetune` too unless
    `base` is one of pretraining.

    Raises:
        ValueError: a channel in which nothing varies.
    """
    content = copy.deepcopy(base)
    mean, std = recipe_values(statistics)
    content.update(data=spec, mean=mean, std=std)
    content.setdefault("model", {})["channels"] = len(mean)
    if needs_bits(statistics) or "bits" in content.get("augment", {}):
        content.setdefault("augment", {})["bits"] = statistics.bits
    build_recipe("pretrain", content)
    count = statistics.images
    lacking = f", without {statistics.unreadable} that can't be read" if statistics.unreadable else ""
    header = (
        f"mean and std of {count} images of {spec} ({split}), {statistics.bits} bits a value{lacking}; measured",
        f"source:   {shlex.join(command_line())}",
        f"command:  paddlemae pretrain {shlex.quote(str(out))} --out runs/{out.stem}",
    )
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
    replace_text(out, "".join(f"# {display_name(line, None)}\n" for line in header) + text)
