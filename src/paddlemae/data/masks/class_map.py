"""Map what masks store, ids or colours, to indices of classes; name, merge and drop classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.masks.colours import colours_for_ids, pack, pack_one, unknown_colours
from paddlemae.data.masks.mask_file import StoredMask
from paddlemae.data.sources.source import IGNORE, BadMask, Mask
from paddlemae.data.sources.splits import list_names

_UNKNOWN = -2
_MOST_VALUES = 65536


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The classes of masks.

    Args:
        classes: their names.
        palette: uint8 [classes, 3], their colours.
        index_of: id in a mask -> index of a class, or IGNORE.
        index_of_colour: (red, green, blue) in a mask -> the same; None if masks store ids.
        ignores_nodata: whether a value that a file itself names as nodata is ignored.
    """

    classes: tuple[str, ...]
    palette: NDArray[np.uint8]
    index_of: Mapping[int, int]
    index_of_colour: Mapping[tuple[int, int, int], int] | None = None
    ignores_nodata: bool = True

    def apply(self, stored: StoredMask, name: str) -> Mask:
        """Return the class of each pixel, int16 [H, W]; `name` is the mask's, for errors.

        Raises:
            BadMask: a value that is of no class and not ignored.
        """
        if stored.is_colour:
            return self._of_colours(stored.values, name)
        if stored.palette is not None and self._knows(stored.palette, stored.values):
            return self._of_colours(stored.palette[stored.values], name)
        index_of = dict(self.index_of)
        if stored.nodata is not None and self.ignores_nodata:
            index_of[stored.nodata] = IGNORE
        return self._of_ids(stored.values, index_of, name)

    def _of_ids(self, values_HW: NDArray[Any], index_of: Mapping[int, int], name: str) -> Mask:
        if values_HW.dtype == np.bool_:
            values_HW = values_HW.astype(np.uint8) * np.uint8(255)
        largest = int(values_HW.max(initial=0))
        if int(values_HW.min(initial=0)) < 0 or largest >= _MOST_VALUES:
            raise BadMask(f"mask {name!r} has the value {largest}; expected class ids of 0 to {_MOST_VALUES - 1}")
        table = np.full(256 if largest < 256 else _MOST_VALUES, _UNKNOWN, np.int16)
        for value, index in index_of.items():
            if 0 <= value < len(table):
                table[value] = index
        mask = table[values_HW]
        if mask.min(initial=0) == _UNKNOWN:
            raise BadMask(self._unknown_ids(values_HW, mask == _UNKNOWN, name))
        return mask

    def _unknown_ids(self, values_HW: NDArray[Any], is_unknown: NDArray[np.bool_], name: str) -> str:
        unknown, present = np.unique(values_HW[is_unknown]).tolist(), np.unique(values_HW).tolist()
        known = sorted(value for value, index in self.index_of.items() if index != IGNORE)
        text = (
            f"mask {name!r} has the value{'s' * (len(unknown) > 1)} {list_numbers(unknown)}, and the "
            f"{len(self.classes)} classes have the ids {list_numbers(known)}"
        )
        if unknown == [255] and set(present) <= {0, 255}:
            return f"{text}: a mask of two classes as black and white; add ::binary=true"
        if known and unknown == [known[-1] + 1] and 0 in present:
            return (
                f"{text}: perhaps the classes are listed from id 1; add ::zero_is_background=true (0 is a class of its "
                "own) or ::zero_is_background=false (0 is ignored)"
            )
        return f"{text}; name all classes, or ignore a value with ::ignore=VALUE"

    def _knows(self, palette: NDArray[np.uint8], values_HW: NDArray[Any]) -> bool:
        """Return whether the palette gives every value in a mask the colour of a class."""
        if self.index_of_colour is None:
            return False
        present = np.unique(values_HW).tolist()
        return present[-1] < len(palette) and all(
            (*palette[value].tolist(),) in self.index_of_colour for value in present
        )

    def _of_colours(self, values_HW3: NDArray[Any], name: str) -> Mask:
        if self.index_of_colour is None:
            raise BadMask(colours_for_ids(values_HW3, name))
        packed = pack(values_HW3)
        colours = np.array(sorted(pack_one(colour) for colour in self.index_of_colour), np.int64)
        indices = {pack_one(colour): index for colour, index in self.index_of_colour.items()}
        numbers = np.array([indices[colour] for colour in colours.tolist()], np.int16)
        places = np.searchsorted(colours, packed).clip(max=len(colours) - 1)
        is_known = colours[places] == packed
        if not is_known.all():
            raise BadMask(unknown_colours(packed[~is_known], packed.size, name))
        return numbers[places]


def list_numbers(numbers: Sequence[int]) -> str:
    """Return numbers for a message, runs shortened: "0 to 10, 255"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(a) if a == b else f"{a} to {b}" if b > a + 1 else f"{a}, {b}" for a, b in runs]
    more = f" and {len(texts) - 10} more" if len(texts) > 10 else ""
    return ", ".join(texts[:10]) + more


def select_classes(class_map: ClassMap, wanted: Sequence[str]) -> ClassMap:
    """Merge and drop classes.

    Args:
        wanted: the classes to keep, in their new order: a name, or "NEW=NAME+NAME" for a class that several become;
            "NEW=*" takes all classes that no other entry names. Pixels of the other classes are ignored.
    Raises:
        ValueError: an unknown name, or one that is taken twice.
    """
    number_of = {name: number for number, name in enumerate(class_map.classes)}
    members: dict[str, list[int]] = {}
    for text in wanted:
        new, _, olds = text.partition("=") if "=" in text and text not in number_of else (text, "", text)
        names = [each.strip() for each in (olds.split("+") if olds not in number_of else [olds])]
        new = new.strip()
        if unknown := [name for name in names if name not in number_of and name != "*"]:
            raise ValueError(f"no class {unknown[0]!r}; the masks have {list_names(class_map.classes)}")
        if new in members:
            raise ValueError(f"class {new!r} is named twice in the classes to keep")
        members[new] = [-1 if name == "*" else number_of[name] for name in names]
    taken = [number for numbers in members.values() for number in numbers]
    if twice := [number for number in taken if taken.count(number) > 1]:
        name = "*" if twice[0] < 0 else class_map.classes[twice[0]]
        raise ValueError(f"class {name!r} is taken twice in the classes to keep")
    rest = [number for number in range(len(number_of)) if number not in taken]
    new_of = np.full(len(number_of) + 1, IGNORE, np.int64)
    palette = np.zeros((len(members), 3), np.uint8)
    for new_number, numbers in enumerate(members.values()):
        numbers = rest if numbers == [-1] else numbers
        new_of[numbers] = new_number
        palette[new_number] = class_map.palette[numbers[0]] if numbers else 0
    return replace(
        class_map,
        classes=tuple(members),
        palette=palette,
        index_of={value: int(new_of[index]) for value, index in class_map.index_of.items()},
        index_of_colour=class_map.index_of_colour
        and {colour: int(new_of[index]) for colour, index in class_map.index_of_colour.items()},
    )
