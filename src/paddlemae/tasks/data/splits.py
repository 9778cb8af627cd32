"""The parts of a source, train and test, with labels where there are any."""

from __future__ import annotations

from typing import NamedTuple

from paddlemae.data.sources import BadLabel, MissingPart, Source, open_source

PARTS = ("train", "test")
ALL = "all"


class Opened(NamedTuple):
    """A part of a source; if it has no labels, `unlabelled` is why, and `is_fault` whether one is unusable."""

    name: str
    source: Source
    unlabelled: str | None
    is_fault: bool = False


def open_parts(spec: str, split: str) -> list[Opened]:
    """The parts that a split means: train, test, or all: both, where there are both.

    Raises:
        ValueError, FileNotFoundError: no such split, or as `open_source` says.
    """
    if split not in (*PARTS, ALL):
        raise ValueError(f"--split is {', '.join(PARTS)} or {ALL}; got {split!r}")
    found: list[Opened] = []
    missing: MissingPart | None = None
    for name in PARTS if split == ALL else (split,):
        try:
            found.append(open_part(spec, name, name))
        except MissingPart as fault:
            missing = fault
    if not found and missing:
        raise missing
    return found


def open_part(spec: str, split: str | None, name: str) -> Opened:
    """A split of a source, under a name; labels are not asked of images that have none."""
    try:
        return Opened(name, open_source(spec, split, labelled=True), None)
    except MissingPart:
        raise
    except ValueError as fault:
        return Opened(name, open_source(spec, split), str(fault), isinstance(fault, BadLabel))
