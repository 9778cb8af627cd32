"""Draw the picture of `paddlemae data check`: examples of each class, duplicates, names that can't be read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.inspect.small_pictures import small_picture
from paddlemae.data.sources.subsets import spread_over
from paddlemae.runs.contact_sheet import TILE, Block, draw_sheet
from paddlemae.tasks.data.check_masks import mask_sections
from paddlemae.tasks.data.check_result import CheckResult, class_counts
from paddlemae.tasks.data.splits import OpenedSplit

MOST_CLASSES, MOST_EXAMPLES, MOST_GROUPS, MOST_UNREADABLE = 20, 10, 20, 20  # that are shown at most
_OF_A_GROUP = 2


def draw_check(result: CheckResult, path: Path) -> None:
    """Draw what is worth seeing of a check."""
    sections = [
        (f"{split.name}: {len(split.source):,} images", list(_examples(result, split))) for split in result.splits
    ]
    sections += mask_sections(result.masks, result.channels)
    spread = [group for group, _ in result.leaks]
    for title, groups in (
        ("In more than one split", spread),
        ("Exact duplicates", result.exact_duplicates()),
        ("Near duplicates", result.near_duplicates()),
    ):
        if blocks := list(_groups(result, groups)):
            sections.append((f"{title}: the first {len(blocks)} groups", blocks))
    if result.looks.faults:
        faults = list(islice(result.looks.faults.items(), MOST_UNREADABLE))
        lines = [Block(f"{result.describe(i)}: {reason}") for i, reason in faults]
        sections.append((f"Unreadable: {len(lines)} of {len(result.looks.faults):,}", lines))
    draw_sheet(path, sections)


def _examples(result: CheckResult, split: OpenedSplit) -> Iterator[Block]:
    readable = np.flatnonzero(result.looks.readable_N[split.start : split.start + len(split.source)])
    targets = split.source.targets
    if targets is None:
        yield Block("unlabelled", _pictures(result, split.start + _spread(readable)))
        return
    for label, (name, count) in enumerate(islice(class_counts(split).items(), MOST_CLASSES)):
        images = readable[targets.having(label)[readable]]
        yield Block(f"{name}: {count:,}", _pictures(result, split.start + _spread(images)))


def _spread(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return at most `MOST_EXAMPLES` of the numbers, evenly spaced from the first to the last."""
    return numbers[spread_over(len(numbers), MOST_EXAMPLES)]


def _groups(result: CheckResult, groups: Iterable[NDArray[np.int64]]) -> Iterator[Block]:
    for group in islice(groups, MOST_GROUPS):
        shown = group[[0, -1]] if len(group) > _OF_A_GROUP else group  # of a leak one of each split
        names = " = ".join("/".join(PurePath(result.describe(i)).parts[-2:]) for i in shown)  # with the class's folder
        yield Block(f"{len(group)}: {names}", _pictures(result, shown))


def _pictures(result: CheckResult, numbers: Iterable[int]) -> list[np.ndarray]:
    pictures = []
    for i in numbers:
        split, number = result.place(i)
        with contextlib.suppress(UnreadableImage):  # it went away since it was looked at
            pictures.append(small_picture(split.source, number, result.channels, TILE))
    return pictures
