"""Number the groups, such as patients or tiles, whose images must stay together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.sources.string_table import StringTable


def number_groups(values: Sequence[Any]) -> tuple[NDArray[np.int64], StringTable]:
    """Return (int64 [N]: of each image the number of its group; the groups' names), in the order of the values."""
    try:
        groups, numbers = np.unique(np.asarray(values), return_inverse=True)
    except TypeError:  # some are missing
        groups, numbers = np.unique([str(value) for value in values], return_inverse=True)
    return numbers.astype(np.int64), StringTable.of(map(str, groups.tolist()))
