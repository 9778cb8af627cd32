"""What the channels of a source hold, as settings of a recipe, or as a recipe."""

from __future__ import annotations

import copy
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from paddlemae.data.decode.pixel_format import NAMES
from paddlemae.data.disk.errors import tell_unreadable
from paddlemae.data.inspect.statistics import ChannelStatistics, channel_statistics
from paddlemae.data.sources import open_source
from paddlemae.engine.cpus import usable_cpus
from paddlemae.recipe import build_recipe, recipe_content
from paddlemae.runs.progress import progress
from paddlemae.runs.runlog import command_line
from paddlemae.system.atomic import replace_text
from paddlemae.system.display_names import shown

WORTH_WORKERS = 2000  # images; of fewer, starting a process takes longer than they do
SPLITS = {"train": "train", "test": "test", "all": None}


def statistics(
    spec: str,
    *,
    split: str = "train",
    channels: int = 3,
    bits: int | None = None,
    workers: int | None = None,
    quiet: bool = False,
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
    if split not in SPLITS:
        raise ValueError(f"--split is {', '.join(SPLITS)}; got {split!r}")
    if bits not in (None, 8, 16):
        raise ValueError(f"--bits is 8 or 16; got {bits}")
    source = open_source(spec, SPLITS[split])
    named = 0

    def name(fault: Exception) -> None:
        nonlocal named
        named += 1
        tell_unreadable(named, fault)

    with progress("images", len(source), show=not quiet) as show:
        found = channel_statistics(
            source, channels, bits=bits, workers=workers_for(len(source), workers), on_skip=name, on_images=show
        )
    if flat := flat_channels(found):
        print(f"note: nothing varies in channel {flat}, and recipes refuse a std of 0", file=sys.stderr)
    return found


def workers_for(images: int, asked: int | None) -> int:
    """Processes to decode so many images with: those asked for, else one a core where they pay."""
    if asked is not None:
        return asked
    return usable_cpus() if images >= WORTH_WORKERS and usable_cpus() > 1 else 0


def settings(found: ChannelStatistics) -> str:
    """`mean=[...] std=[...]`, and `bits=16` where training would take 8 otherwise, to paste behind a command."""
    depth = " bits=16" if _needs_bits(found) else ""
    return f"mean={_listed(found.mean)} std={_listed(found.std)}{depth}"


def _needs_bits(found: ChannelStatistics) -> bool:
    return found.bits == 16 and len(found.mean) in NAMES


def for_a_recipe(found: ChannelStatistics) -> tuple[list[float], list[float]]:
    """(mean, std), with the digits that `settings` has.

    Raises:
        ValueError: nothing varies in a channel.
    """
    mean, std = ([float(f"{value:.6g}") for value in values] for values in (found.mean, found.std))
    if flat := flat_channels(found):
        raise ValueError(
            f"nothing varies in channel {flat}, and no recipe may have a std of 0; set mean and std by hand (1 as the "
            "std there), or leave that channel out of the images"
        )
    return mean, std


def flat_channels(found: ChannelStatistics) -> str:
    """The numbers, from 1, of those in which nothing varies; none of them is an empty text."""
    return ", ".join(str(channel + 1) for channel, std in enumerate(found.std) if not std)


def base_of(recipe: str | None, out: Path | None, overwrite: bool) -> dict[str, Any]:
    """What a recipe that is to be written, if one is, begins with; mistakes are better known before images are seen.

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
        raise ValueError(f"--out is the recipe to write, and ends in .yaml; got {out}")
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists already; add --overwrite to write it anew, or name another --out")
    if not out.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {out.parent} to write {out.name} to; make it, or name another --out"
        )
    content = recipe_content("pretrain", recipe)
    build_recipe("pretrain", content)  # refuses what is wrong with it
    return content


def asked_of(base: dict[str, Any], channels: int | None, bits: int | None) -> tuple[int, int | None]:
    """(channels, bits) to look at images with: those that are named, else the recipe's."""
    built = build_recipe("pretrain", base)
    return channels or built.model.channels, bits or built.augment.bits


def write_recipe(found: ChannelStatistics, spec: str, split: str, base: dict[str, Any], out: Path) -> None:
    """Write a recipe with the source and what was found in it, for `paddlemae pretrain`, and for `finetune` too unless
    `base` is one of pretraining.

    Raises:
        ValueError: a channel in which nothing varies.
    """
    content = copy.deepcopy(base)
    mean, std = for_a_recipe(found)
    content.update(data=spec, mean=mean, std=std)
    content.setdefault("model", {})["channels"] = len(mean)
    if _needs_bits(found) or "bits" in content.get("augment", {}):
        content.setdefault("augment", {})["bits"] = found.bits
    build_recipe("pretrain", content)
    lacking = f", without {found.unreadable} that can't be read" if found.unreadable else ""
    header = (
        f"mean and std of {found.images} images of {spec} ({split}), {found.bits} bits a value{lacking}; measured",
        f"source:   {shlex.join(command_line())}",
        f"command:  paddlemae pretrain {shlex.quote(str(out))} --out runs/{out.stem}",
    )
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
    replace_text(out, "".join(f"# {shown(line, None)}\n" for line in header) + text)


def as_json(found: ChannelStatistics) -> dict[str, Any]:
    """Everything that was found, in full precision."""
    return dataclasses.asdict(found)


def _listed(values: tuple[float, ...]) -> str:
    return f"[{','.join(f'{value:.6g}' for value in values)}]"
