"""Open the splits of a source, with labels where there are any."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from paddlemae.data.sources import BadLabel, MissingSplit, Source, SourceNote, open_source
from paddlemae.data.sources.splits import TEST_ONLY, VAL_ONLY

SPLIT_NAMES = ("train", "test")
ALL_SPLITS = "all"


class OpenedSplit(NamedTuple):
    """A split of a source; if it has no labels, `unlabelled` is why, and `is_fault` whether one is unusable.

    If only some of its images have labels, those of the others are -1.
    """

    name: str
    source: Source
    unlabelled: str | None
    is_fault: bool = False
    start: int = 0  # the number of its first image among those of all splits that are compared


def open_splits(spec: str, split: str, *, multi_label: bool = False) -> list[OpenedSplit]:
    """Open a split: train, test, or all (both, where both exist); raise as `open_source` does."""
    if split not in (*SPLIT_NAMES, ALL_SPLITS):
        raise ValueError(f"--split must be {', '.join(SPLIT_NAMES)} or {ALL_SPLITS}; got {split!r}")
    return _open_present(spec, SPLIT_NAMES if split == ALL_SPLITS else (split,), multi_label)


def open_three_splits(spec: str) -> list[OpenedSplit]:
    """Open those of train, val and test that a source has, multi-label or not; raise as `open_source` does."""
    return _open_present(spec, ("train", VAL_ONLY, TEST_ONLY), multi_label=True)


def _open_present(spec: str, names: Sequence[str], multi_label: bool) -> list[OpenedSplit]:
    opened: list[OpenedSplit] = []
    missing: MissingSplit | None = None
    for name in names:
        try:
            opened.append(open_split(spec, name, name.removesuffix("-only"), multi_label=multi_label))
        except MissingSplit as fault:
            missing = fault
    if not opened and missing:
        raise missing
    return opened


def open_masked_splits(spec: str, split: str) -> list[Source]:
    """Return the sources of `open_masked_parts`."""
    return [part.source for part in open_masked_parts(spec, split)]


def open_masked_parts(spec: str, split: str) -> list[OpenedSplit]:
    """Open a split of images with masks: train, test, or all: those of train, val and test that there are."""
    if split not in (*SPLIT_NAMES, ALL_SPLITS):
        raise ValueError(f"--split must be {', '.join(SPLIT_NAMES)} or {ALL_SPLITS}; got {split!r}")
    opened: list[OpenedSplit] = []
    missing: MissingSplit | None = None
    for name in ("train", VAL_ONLY, TEST_ONLY) if split == ALL_SPLITS else (split,):
        try:
            opened.append(OpenedSplit(name.removesuffix("-only"), open_source(spec, name, masks=True), None))
        except MissingSplit as fault:
            missing = fault
    if not opened and missing:
        raise missing
    return opened


def open_split(spec: str, split: str | None, name: str, *, multi_label: bool = False) -> OpenedSplit:
    """Open a split of a source under a name, without labels if it has none."""
    try:
        source = open_source(spec, split, labelled=True, keep_unlabelled=True, multi_label=multi_label)
        return OpenedSplit(name, source, None)
    except MissingSplit:
        raise
    except ValueError as fault:
        return OpenedSplit(name, open_source(spec, split), str(fault), isinstance(fault, BadLabel))


@contextmanager
def collect_notes() -> Iterator[list[str]]:
    """Collect the notes of how sources were understood; other warnings are given at the end."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SourceNote)
        yield texts
    for warning in caught:
        if issubclass(warning.category, SourceNote):
            texts.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    texts[:] = dict.fromkeys(texts)
