"""Which images belong together, of one patient or tile say: numbers and names of the groups that a column tells."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.sources.string_table import StringTable


def number_groups(values: Sequence[Any]) -> tuple[NDArray[np.int64], StringTable]:
    """(int64 [N]: of each image the number of its group; their names), in the order of the values."""
    try:
        found, numbers = np.unique(np.asarray(values), return_inverse=True)
    except TypeError:  # some are missing
        found, numbers = np.unique([str(value) for value in values], return_inverse=True)
    return numbers.astype(np.int64), StringTable.of(map(str, found.tolist()))
