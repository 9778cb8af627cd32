"""Where a tensor is computed, and whether a formula of this package may replace Paddle's there."""

from __future__ import annotations

from paddlemae.engine.safe_import import paddle


def on_cpu(x) -> bool:
    """Whether `x` is computed here and now, on CPU: not while a program is traced."""
    return paddle.in_dynamic_mode() and x.place.is_cpu_place()


def all_or_none_train(*tensors) -> bool:
    """Whether all of these get gradients, or none does: a PyLayer gives them to all that it is given."""
    return not paddle.is_grad_enabled() or len({tensor.stop_gradient for tensor in tensors}) == 1
