"""Decide which classes masks have: from a list, from options, and where there is no list from the masks themselves."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paddlemae.data.masks.class_file import Colour, ListedClass
from paddlemae.data.masks.class_map import ClassMap, list_numbers
from paddlemae.data.masks.colours import colours_for_ids
from paddlemae.data.masks.options import MaskOptions
from paddlemae.data.masks.palette import palette_of
from paddlemae.data.masks.readers import RawMasks
from paddlemae.data.masks.scan import Values, scan_values, values_of
from paddlemae.data.sources.source import IGNORE, BadMask
from paddlemae.data.sources.splits import note
from paddlemae.data.sources.subsets import spread_over

BACKGROUND, FOREGROUND = "background", "foreground"
WHITE = 255
IGNORED_NAMES = ("void", "ignore", "ignored", "unlabelled", "unlabeled")
NOTHING_IGNORED = "none"
_MANY = 2000  # masks, whose reading takes some seconds
_MOST_TRIED = 20  # masks, whether they are black and white
_MOST_IN_8_BITS = 255  # classes, of which the last value is to be ignored


@dataclass(frozen=True)
class _Numbered:
    """A class with the id that it has in masks."""

    name: str
    value: int
    colour: Colour | None


def find_classes(listed: Sequence[ListedClass] | None, masks: RawMasks, options: MaskOptions, where: str) -> ClassMap:
    """Return the classes of masks.

    Args:
        listed: classes in their order; None if none are listed, which makes ids their names.
        masks: of all splits, so that all have the same classes; read only where the list leaves something open.
        where: what has them, for errors.
    Raises:
        BadMask, ValueError: values or options from which no classes follow.
    """
    if listed is None and len(masks) > _MANY:
        note(f"{where}: all {len(masks):,} masks are read to find their classes; a classes.txt there saves the time")
    is_binary = _is_binary(listed, masks, options, where)
    if is_binary:
        names = listed or (ListedClass(BACKGROUND), ListedClass(FOREGROUND))
        numbered = [_Numbered(each.name, value, each.colour) for each, value in zip(names, (0, WHITE))]
    elif listed is None:
        numbered = _number_values(scan_values(masks), masks, options, where)
    else:
        numbered = _number_listed(listed, options, where)
        _check_depth(numbered, masks, options, where)
        _note_black_and_white(numbered, masks, options, where)
    return _make_map(numbered, _ignored_values(numbered, options, is_binary), options, where)


def _is_binary(listed: Sequence[ListedClass] | None, masks: RawMasks, options: MaskOptions, where: str) -> bool:
    """Return whether masks are black and white, 0 and 255, of two classes."""
    if options.binary is not None:
        if options.binary and listed and len(listed) != 2:
            raise ValueError(f"{where}: binary=true means two classes, and {len(listed)} are listed")
        return options.binary
    if (options.ignore is not None and WHITE in options.ignore) or options.zero_is_background is not None:
        return False
    if listed is not None and (len(listed) != 2 or any(each.value is not None for each in listed)):
        return False
    found = scan_values(masks, until=1)
    if found.colour_mask is not None or set(found.values) != {0, WHITE}:
        return False
    if listed is not None:
        note(f"{where}: the masks have the values 0 and 255, read as {listed[0].name!r} and {listed[1].name!r}")
    return True


def _number_listed(listed: Sequence[ListedClass], options: MaskOptions, where: str) -> list[_Numbered]:
    if all(each.value is not None for each in listed):
        return [_Numbered(each.name, each.value or 0, each.colour) for each in listed]
    if options.zero_is_background is None:
        return [_Numbered(each.name, value, each.colour) for value, each in enumerate(listed)]
    numbered = [_Numbered(each.name, value, each.colour) for value, each in enumerate(listed, start=1)]
    if not options.zero_is_background:
        return numbered
    if any(each.name == BACKGROUND for each in listed):
        raise ValueError(
            f"{where}: zero_is_background=true adds a class {BACKGROUND!r}, and the class list has one; remove either"
        )
    return [_Numbered(BACKGROUND, 0, None), *numbered]


def _number_values(found: Values, masks: RawMasks, options: MaskOptions, where: str) -> list[_Numbered]:
    """Return a class for each id up to the largest one that masks have."""
    if found.colour_mask is not None:
        i = found.colour_mask
        raise BadMask(colours_for_ids(masks.read_stored(i).values, masks.describe(i)))
    ignored = {value for value in (options.ignore or (WHITE,)) if isinstance(value, int)}
    ids = [value for value in found.values if value not in ignored]
    if options.zero_is_background is False:
        ids = [value for value in ids if value != 0]
    largest, first = max(ids, default=0), options.zero_is_background is False
    if len(ids) < 2:
        raise BadMask(
            f"{where}: of the values {list_numbers(found.values)} in the masks, {list_numbers(ids) or 'none'} is the "
            "only class that is not ignored; expected two or more"
        )
    if 2 * len(ids) < largest + 1 - first:
        raise BadMask(
            f"{where}: the masks have the values {list_numbers(found.values)}, which are no class ids from 0 on; name "
            "the classes with ::classes=FILE, a line 'ID NAME' for each"
        )
    colours = found.palette or ()
    names = {0: BACKGROUND} if options.zero_is_background else {}
    return [
        _Numbered(names.get(value, str(value)), value, colours[value] if value < len(colours) else None)
        for value in range(int(first), largest + 1)
    ]


def _check_depth(numbered: Sequence[_Numbered], masks: RawMasks, options: MaskOptions, where: str) -> None:
    """Raise a `BadMask` for more classes than masks of 8 bits can have."""
    largest = max(each.value for each in numbered)
    if largest < WHITE or options.ignore is not None or not len(masks):
        return
    stored = masks.read_stored(0)
    if not stored.is_colour and stored.values.dtype == np.uint8:
        raise BadMask(
            f"{where}: classes with ids up to {largest} are listed, and masks of 8 bits such as {masks.describe(0)!r} "
            "hold ids up to 254, as 255 is ignored; save the masks with 16 bits, or name what is ignored with "
            "::ignore=VALUE or ::ignore=none"
        )


def _note_black_and_white(numbered: Sequence[_Numbered], masks: RawMasks, options: MaskOptions, where: str) -> None:
    """Say that masks look black and white, though other classes than two are listed."""
    if options.ignore is not None or options.binary is False or any(each.value == WHITE for each in numbered):
        return
    present: set[int] = set()
    for i in spread_over(len(masks), _MOST_TRIED).tolist():
        with contextlib.suppress(BadMask):  # reading it again says why
            stored = masks.read_stored(i)
            present.update([1] if stored.is_colour else values_of(stored))
        if present - {0, WHITE}:
            return
    if WHITE in present:
        note(
            f"{where}: masks have the values 0 and 255 only, and 255 is ignored; if they are black and white masks of "
            "two classes, list these two"
        )


def _ignored_values(numbered: Sequence[_Numbered], options: MaskOptions, is_binary: bool) -> set[int | Colour]:
    """Return the ids and colours that count nowhere."""
    ignored: set[int | Colour] = set()
    if options.zero_is_background is False:
        ignored.add(0)
    if options.ignore is None:
        if len(numbered) > _MOST_IN_8_BITS:
            ignored.add(65535)
        elif not is_binary and all(each.value != WHITE for each in numbered):
            ignored.add(WHITE)
        return ignored
    for each in options.ignore:
        if not isinstance(each, str):
            ignored.add(each)
    return ignored


def _ignored_names(numbered: Sequence[_Numbered], options: MaskOptions, where: str) -> set[str]:
    names = [each.name for each in numbered]
    if options.ignore is None:
        usual = {name for name in names if name.lower() in IGNORED_NAMES}
        if usual:
            note(f"{where}: class {', '.join(map(repr, sorted(usual)))} is ignored; keep it with ::ignore=none")
        return usual
    wanted = {each for each in options.ignore if isinstance(each, str)} - {NOTHING_IGNORED}
    if unknown := sorted(wanted - set(names)):
        raise ValueError(f"{where}: no class {unknown[0]!r} to ignore; there are {', '.join(map(repr, names))}")
    return wanted


def _make_map(numbered: Sequence[_Numbered], ignored: set[int | Colour], options: MaskOptions, where: str) -> ClassMap:
    dropped = _ignored_names(numbered, options, where)
    kept = [each for each in numbered if each.name not in dropped and each.value not in ignored]
    if len(kept) < 2:
        names = ", ".join(repr(each.name) for each in kept) or "none"
        raise ValueError(f"{where}: {names} is the only class that is not ignored; expected two or more")
    index_of = {each.value: IGNORE for each in numbered}
    index_of |= {value: IGNORE for value in ignored if isinstance(value, int)}
    index_of |= {each.value: index for index, each in enumerate(kept)}
    colours = {each.colour: IGNORE for each in numbered if each.colour}
    colours |= {each.colour: index for index, each in enumerate(kept) if each.colour}
    colours |= {colour: IGNORE for colour in ignored if isinstance(colour, tuple)}
    if len({each.colour for each in numbered if each.colour}) < sum(each.colour is not None for each in numbered):
        colours = {}  # which distinguish no classes
    palette = palette_of([each.name for each in kept], [each.colour for each in kept])
    ignores_nodata = options.ignore != (NOTHING_IGNORED,)
    return ClassMap(tuple(each.name for each in kept), palette, index_of, colours or None, ignores_nodata)
