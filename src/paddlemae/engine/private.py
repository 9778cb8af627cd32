"""Hold every private name of Paddle that this package uses, each with its reason and its public replacement.

`tests/engine/test_private.py` runs all of them, and holds that no other module uses any: a new version of Paddle that
changes one of them fails there, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paddlemae.engine.safe_import import nn, paddle

_CPU = paddle.CPUPlace()


def set_num_threads(count: int) -> None:
    """Set the CPU threads of matrix products; Paddle has a flag for it only, which it reads at its import."""
    paddle.base.core.set_num_threads(count)


def fill_tensor(tensor: Any, array: np.ndarray) -> None:
    """Copy an array into a CPU tensor, shape included; `paddle.to_tensor` never gives back 112 bytes a call."""
    tensor.get_tensor().set(np.ascontiguousarray(array), paddle.CPUPlace())


def empty_on_cpu(shape: Sequence[int], dtype: Any) -> Any:
    """Return a CPU tensor without values yet; `paddle.empty` takes three times as long, which small models notice."""
    return paddle._C_ops.empty(list(shape), dtype, _CPU)


def rows_view(tensor: Any, start: int, stop: int) -> Any:
    """Return rows of a CPU tensor as a view of the same memory, without gradients; `tensor[start:stop]` copies.

    `Tensor._slice` would do, but loses 64 bytes a call.
    """
    view = paddle.empty([0], tensor.dtype)
    view.get_tensor()._share_data_with(tensor.get_tensor()._slice(start, stop))
    return view


def has_memory(tensor: Any) -> bool:
    """Return whether a tensor has memory; Paddle has no public name for that."""
    return tensor._is_initialized()


def share_memory(tensor: Any, other: Any) -> None:
    """Lay `other` where `tensor` is; Paddle has no public name for that."""
    tensor._share_buffer_to(other)


def parameter_without_memory(shape: Sequence[int], dtype: Any) -> Any:
    """Return a parameter without memory; `paddle.create_parameter` allocates and initializes it."""
    return paddle.base.framework.EagerParamBase(shape=shape, dtype=dtype)


def call_after_gradient(parameter: Any, call: Callable[..., None]) -> None:
    """Call once a backward pass, with the whole gradient there; `register_hook` calls before the sum of all uses."""
    parameter._register_backward_hook(call)


def layer_norm(x_RD: Any, weight: Any, bias: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """Return (layer norm of each row, mean [R], variance over D [R]); `F.layer_norm` keeps the last two to itself."""
    call = paddle._legacy_C_ops.layer_norm  # type: ignore[attr-defined]  # made when Paddle is imported
    return call(x_RD, weight, bias, "epsilon", epsilon, "begin_norm_axis", 1)


def epsilon_of(norm: nn.LayerNorm) -> float:
    """Return a layer norm's epsilon; Paddle shows it in the layer's `repr` only."""
    return norm._epsilon


def has_hooks(layer: nn.Layer) -> bool:
    """Return whether something is called before or after a layer's forward pass; Paddle shows its hooks nowhere."""
    return bool(layer._forward_pre_hooks or layer._forward_post_hooks)


def linear_in_program(x_RD: Any, weight: Any, bias: Any) -> Any:
    """Add `x @ weight + bias` to a static program as one operation; `F.linear` adds two, which takes 3% longer."""
    return paddle._C_ops.fc(x_RD, weight, bias, 1, "", False)


def rendezvous_store() -> Any:
    """Return the store of keys that all processes of a launch share; `paddle.distributed` shows none."""
    return paddle.base.core.create_or_get_global_tcp_store()
