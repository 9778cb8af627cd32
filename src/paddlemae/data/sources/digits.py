"""The embedded digits."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.sources.readers import ArrayReader, load_once
from paddlemae.data.sources.source import ClassTargets, Source
from paddlemae.data.sources.splits import TEST_ONLY, VAL_ONLY, MissingSplit
from paddlemae.data.sources.subsets import view_of

_FILE = Path(__file__).parents[1] / "digits.npz"
# First and last of each class's 500 images, in the file's order.
_SPLITS = {"train": (0, 400), "test": (400, 500), "fit": (0, 350), "val": (350, 400)}


def open_digits(split: str | None) -> Source:
    """Open a split of the 28 x 28 digits; None means "train"."""
    split = "test" if split == TEST_ONLY else split or "train"
    if split == VAL_ONLY:  # "val" is part of "train"
        raise MissingSplit("digits have no images of val that are not in train")
    if split not in _SPLITS:
        raise ValueError(f"expected one of digits' splits {', '.join(_SPLITS)}, got {split!r}")
    labels = load_once(_read, ("labels",)).astype(np.int64)
    reader = ArrayReader("digits", len(labels), _read, ("images",))
    digits = Source("digits", reader, ClassTargets(labels, tuple("0123456789")))
    first, last = _SPLITS[split]
    indices = np.concatenate([np.flatnonzero(labels == digit)[first:last] for digit in range(10)])
    return view_of(digits, indices, f"digits ({split})")


def _read(name: str) -> NDArray[Any]:
    with np.load(_FILE) as arrays:
        return arrays[name]
