"""What the channels of a source hold, as settings of a recipe."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from paddlemae.data.channels import NAMES
from paddlemae.data.sources import open_source
from paddlemae.data.statistics import ChannelStatistics, channel_statistics
from paddlemae.device import usable_cpus
from paddlemae.report.progress import progress

NAMED = 5  # unreadable images that are named on stderr
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
        if named <= NAMED:
            print(f"skipped: {fault}", file=sys.stderr)
        elif named == NAMED + 1:
            print("skipped: more images, which are not named here", file=sys.stderr)

    with progress("images", len(source), show=not quiet) as show:
        found = channel_statistics(
            source, channels, bits=bits, workers=workers_for(len(source), workers), on_skip=name, on_images=show
        )
    if flat := [str(channel + 1) for channel, std in enumerate(found.std) if not std]:
        print(f"note: nothing varies in channel {', '.join(flat)}, and recipes refuse a std of 0", file=sys.stderr)
    return found


def workers_for(images: int, asked: int | None) -> int:
    """Processes to decode so many images with: those asked for, else one a core where they pay."""
    if asked is not None:
        return asked
    return usable_cpus() if images >= WORTH_WORKERS and usable_cpus() > 1 else 0


def settings(found: ChannelStatistics) -> str:
    """`mean=[...] std=[...]`, and `bits=16` where training would take 8 otherwise, to paste behind a command."""
    depth = " bits=16" if found.bits == 16 and len(found.mean) in NAMES else ""
    return f"mean={_listed(found.mean)} std={_listed(found.std)}{depth}"


def as_json(found: ChannelStatistics) -> dict[str, Any]:
    """Everything that was found, in full precision."""
    return dataclasses.asdict(found)


def _listed(values: tuple[float, ...]) -> str:
    return f"[{','.join(f'{value:.6g}' for value in values)}]"
