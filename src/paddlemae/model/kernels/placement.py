"""Tell where a tensor is computed, and whether a formula of this package may replace Paddle's there."""

from __future__ import annotations

from typing import Any

from paddlemae.engine import products
from paddlemae.engine.safe_import import paddle


def on_cpu(x: paddle.Tensor) -> bool:
    """Return whether operations on `x` run at once on CPU; false on accelerators and while a program is traced."""
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()


def by_onednn(x: paddle.Tensor) -> bool:
    """Return whether `primitives` compute with `x`, which is on CPU."""
    return products.by_onednn() and x.dtype in (paddle.float32, paddle.bfloat16)


def all_or_none_train(*tensors: Any) -> bool:
    """Return whether all tensors need gradients or none does; a PyLayer can't leave some of its inputs out."""
    return not paddle.is_grad_enabled() or len({tensor.stop_gradient for tensor in tensors}) == 1
