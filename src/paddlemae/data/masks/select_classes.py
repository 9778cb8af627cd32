"""Merge and drop the classes of masks."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from paddlemae.data.sources.source import IGNORE, MaskTargets, Source, SubsetMasks
from paddlemae.data.sources.splits import list_names

_REST = "*"


def select_classes(source: Source, wanted: Sequence[str]) -> Source:
    """Return a source whose masks have other classes, made of those that they have.

    Args:
        wanted: the classes to have, in their order: a name, or "NEW=NAME+NAME" for a class that several become.
            "NEW=*" takes all classes that no other entry names. Pixels of the remaining classes are ignored.
    Raises:
        ValueError: no masks, an unknown name, or one that is taken twice; fewer than two classes.
    """
    targets = source.masks
    members = _members(targets.classes, wanted)
    if len(members) < 2:
        raise ValueError(f"expected two classes or more to keep, got {list_names(list(members)) or 'none'}")
    number_of = np.full(len(targets.classes) + 1, IGNORE, np.int16)
    palette = np.zeros((len(members), 3), np.uint8)
    for number, olds in enumerate(members.values()):
        number_of[olds] = number
        palette[number] = targets.palette[olds[0]] if olds else 0
    reader = SubsetMasks(targets.reader, np.arange(len(source)), number_of)
    return replace(source, targets=MaskTargets(tuple(members), palette, reader))


def _members(classes: Sequence[str], wanted: Sequence[str]) -> dict[str, list[int]]:
    """Return new class -> the numbers of those that it is made of."""
    number_of = {name: number for number, name in enumerate(classes)}
    members: dict[str, list[int]] = {}
    taken: set[int] = set()
    rest: str | None = None
    for text in wanted:
        new, olds = _parse(text, number_of)
        if new in members:
            raise ValueError(f"class {new!r} is named twice among the classes to keep")
        if olds == [_REST] and rest is None:
            rest, olds = new, []
        for name in olds:
            if name not in number_of:
                raise ValueError(f"no class {name!r} to keep; the masks have {list_names(classes)}")
            if number_of[name] in taken:
                raise ValueError(f"class {name!r} is taken twice among the classes to keep")
            taken.add(number_of[name])
        members[new] = [number_of[name] for name in olds]
    if rest is not None:
        members[rest] = [number for number in range(len(classes)) if number not in taken]
    return members


def _parse(text: str, classes: dict[str, int]) -> tuple[str, list[str]]:
    """Return (new name, names of the classes that it is made of)."""
    if text in classes or "=" not in text:
        return text, [text]
    new, _, olds = text.partition("=")
    return new.strip(), [olds] if olds in classes else [name.strip() for name in olds.split("+")]
