"""Find which values masks have, where no list of classes says it."""

import hashlib
from dataclasses import dataclass

import numpy as np

from paddlemae.data.masks.mask_file import StoredMask
from paddlemae.data.masks.readers import RawMasks


@dataclass(frozen=True)
class Values:
    """The values that masks have.

    Args:
        values: ids, ascending.
        palette: of the first mask that has one, (red, green, blue) each.
        colour_mask: the number of a mask that stores colours; None if all store ids.
    """

    values: tuple[int, ...]
    palette: tuple[tuple[int, int, int], ...] | None = None
    colour_mask: int | None = None


_scanned: dict[tuple[str, int | None], Values] = {}  # by the masks' stamps: training and held-out ones share a scan


def scan_values(masks: RawMasks, until: int | None = None) -> Values:
    """Return the values of all masks, or of those up to the first with the value `until`.

    Raises:
        BadMask: one that can't be read.
    """
    digest = hashlib.sha256()
    for i in range(len(masks)):
        digest.update(masks.stamp(i).encode("utf-8", "surrogateescape") + b"\n")
    key = (digest.hexdigest(), until)
    if key not in _scanned:
        _scanned[key] = _scan(masks, until)
    return _scanned[key]


def _scan(masks: RawMasks, until: int | None) -> Values:
    present: set[int] = set()
    palette: tuple[tuple[int, int, int], ...] | None = None
    for i in range(len(masks)):
        stored = masks.read_stored(i)
        if stored.is_colour:
            return Values(tuple(sorted(present)), palette, i)
        if palette is None and stored.palette is not None:
            palette = tuple((int(r), int(g), int(b)) for r, g, b in stored.palette)
        present.update(values_of(stored))
        if until in present:
            break
    return Values(tuple(sorted(present)), palette)


def values_of(stored: StoredMask) -> list[int]:
    """Return the ids in a mask, ascending, without that of nodata."""
    values = stored.values if stored.nodata is None else stored.values[stored.values != stored.nodata]
    if values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    if values.dtype == np.bool_:
        return [255 * int(value) for value in np.unique(values)]
    return [int(value) for value in np.unique(values)]
