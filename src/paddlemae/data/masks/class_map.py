"""Map what masks store, ids or colours, to indices of classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.masks.colours import colours_for_ids, pack, pack_one, unknown_colours
from paddlemae.data.masks.mask_file import StoredMask
from paddlemae.data.sources.source import IGNORE, BadMask, Mask

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
        if stored.nodata is None or not self.ignores_nodata:
            return self._of_ids(stored.values, name)
        is_nodata = stored.values == stored.nodata
        known = next((value for value, index in self.index_of.items() if index != IGNORE), 0)
        mask = self._of_ids(np.where(is_nodata, np.array(known, stored.values.dtype), stored.values), name)
        mask[is_nodata] = IGNORE
        return mask

    def _of_ids(self, values_HW: NDArray[Any], name: str) -> Mask:
        if values_HW.dtype == np.bool_:
            values_HW = values_HW.astype(np.uint8) * np.uint8(255)
        least, largest = int(values_HW.min(initial=0)), int(values_HW.max(initial=0))
        if least < 0 or largest >= _MOST_VALUES:
            strange = least if least < 0 else largest
            raise BadMask(f"mask {name!r} has the value {strange}; expected class ids of 0 to {_MOST_VALUES - 1}")
        table = np.full(256 if largest < 256 else _MOST_VALUES, _UNKNOWN, np.int16)
        for value, index in self.index_of.items():
            if 0 <= value < len(table):
                table[value] = index
        mask = np.take(table, values_HW)
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
