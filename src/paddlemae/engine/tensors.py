"""Make tensors of NumPy arrays without extra memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from paddlemae.engine import private
from paddlemae.engine.device import is_cpu
from paddlemae.engine.safe_import import paddle


def tensor_of(array: np.ndarray) -> Any:
    """Return `paddle.to_tensor` of a NumPy array, for what is done every step.

    On CPU Paddle 3.3.1's own never gives back 112 bytes a call (measured over 6,000 calls), which in a training of days
    become gigabytes.
    """
    if not is_cpu():
        return paddle.to_tensor(array)
    tensor = paddle.empty([0], array.dtype.name)  # type: ignore[arg-type]
    private.fill_tensor(tensor, array)
    return tensor
