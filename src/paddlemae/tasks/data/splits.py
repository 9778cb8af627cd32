"""Open the splits of a source, train and test, with labels where there are any."""

from __future__ import annotations

from typing import NamedTuple

from paddlemae.data.sources import BadLabel, MissingSplit, Source, open_source

SPLIT_NAMES = ("train", "test")
ALL_SPLITS = "all"


class OpenedSplit(NamedTuple):
    """A split of a source; if it has no labels, `unlabelled` is why, and `is_fault` whether one is unusable."""

    name: str
    source: Source
    unlabelled: str | None
    is_fault: bool = False
    start: int = 0  # the number of its first image among those of all splits that are compared


def open_splits(spec: str, split: str) -> list[OpenedSplit]:
    """Open a split: train, test, or all (both, where both exist); raise as `open_source` does."""
    if split not in (*SPLIT_NAMES, ALL_SPLITS):
        raise ValueError(f"--split must be {', '.join(SPLIT_NAMES)} or {ALL_SPLITS}; got {split!r}")
    opened: list[OpenedSplit] = []
    missing: MissingSplit | None = None
    for name in SPLIT_NAMES if split == ALL_SPLITS else (split,):
        try:
            opened.append(open_split(spec, name, name))
        except MissingSplit as fault:
            missing = fault
    if not opened and missing:
        raise missing
    return opened


def open_split(spec: str, split: str | None, name: str) -> OpenedSplit:
    """Open a split of a source under a name, without labels if it has none."""
    try:
        return OpenedSplit(name, open_source(spec, split, labelled=True), None)
    except MissingSplit:
        raise
    except ValueError as fault:
        return OpenedSplit(name, open_source(spec, split), str(fault), isinstance(fault, BadLabel))
