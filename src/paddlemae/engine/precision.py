"""The precision of a computation: float32, Paddle's autocast on accelerators, or products of bfloat16 on a CPU.

On a CPU bfloat16 has the numerics of autocast: products take operands that are rounded to bfloat16 and add up in
float32; weights, norms, softmax, losses and the optimizer stay float32. Paddle has no such kernels, so `model.kernels`
asks for its operands here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, get_args

from paddlemae.engine import onednn, products
from paddlemae.engine.onednn_primitives import AVX512, AVX512_BF16, BFLOAT16, FLOAT32, library
from paddlemae.engine.safe_import import paddle

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS = get_args(Precision)
EMULATE = "PADDLEMAE_EMULATE_BFLOAT16"
KINDS = {paddle.float32: FLOAT32, paddle.bfloat16: BFLOAT16}


def check_precision(precision: str) -> None:
    """Raise a ValueError for a precision that this device can't compute in.

    On CPU Paddle accepts bfloat16 and float16 and then silently computes in float32.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "float32" or paddle.get_device() != "cpu":
        return
    if precision == "float16":
        raise ValueError("precision float16 has no effect on CPU; use float32, or an accelerator")
    if reason := reason_against_bfloat16():
        raise ValueError(f"precision bfloat16 {reason}; use float32, or an accelerator")


def reason_against_bfloat16() -> str | None:
    """Return why a CPU can't compute in bfloat16, in one line; None if it can.

    The environment variable `PADDLEMAE_EMULATE_BFLOAT16=1` lets processors with AVX-512 do so in software: the numbers
    are the same, and it is slower than float32.
    """
    if not products.by_onednn():
        return f"needs oneDNN on CPU, which is not used: {products.reason_against() or 'no device was prepared'}"
    own = library()
    emulates = os.environ.get(EMULATE) == "1"
    if own.has(AVX512_BF16) or (emulates and own.has(AVX512)):
        return None
    found = "AVX-512 without either" if own.has(AVX512) else "AVX2"
    return f"needs a CPU with AVX512_BF16 or AMX_BF16, and this one has {found} (or ONEDNN_MAX_CPU_ISA says so)"


def autocast(precision: str) -> AbstractContextManager[Any]:
    """Return Paddle's autocast for bfloat16 and float16 on accelerators; nothing for float32 and on a CPU."""
    if precision == "float32" or paddle.get_device() == "cpu":
        return nullcontext()
    dtype: Any = precision
    return paddle.amp.auto_cast(dtype=dtype, level="O1")


def convert(x: paddle.Tensor, dtype: Any) -> paddle.Tensor:
    """Return a tensor on CPU in another type, float32 or bfloat16, without gradients; itself if it has that type."""
    if x.dtype == dtype:
        return x
    x, out = x.contiguous(), paddle.empty(x.shape, dtype)
    onednn.convert(x.size, KINDS[x.dtype], KINDS[dtype])(x.data_ptr(), out.data_ptr())
    return out


class Bfloat16Weights:
    """Weights rounded to bfloat16, each of them once until `clear`, which whoever changes weights must call."""

    def __init__(self) -> None:
        self.kept: dict[int, paddle.Tensor] = {}  # by address: replicas of a model share its weights' memory
        self.converting = threading.Lock()

    def of(self, weight: paddle.Tensor) -> paddle.Tensor:
        """Return a weight rounded to bfloat16."""
        if not weight.persistable:  # part of a weight, whose memory the next part may get
            return convert(weight, paddle.bfloat16)
        with self.converting:
            found = self.kept.get(weight.data_ptr())
            if found is None:
                found = self.kept[weight.data_ptr()] = convert(weight, paddle.bfloat16)
        return found

    def clear(self) -> None:
        """Forget the rounded weights."""
        self.kept.clear()


def weights_for(precision: str) -> Bfloat16Weights | None:
    """Return what `bfloat16_products` takes for a precision: None for all but bfloat16 on a CPU.

    Raises:
        ValueError: as `check_precision`.
    """
    check_precision(precision)
    return Bfloat16Weights() if precision == "bfloat16" and paddle.get_device() == "cpu" else None


class _Current(threading.local):
    """Hold what `bfloat16_products` has set in a thread."""

    weights: Bfloat16Weights | None = None


_current = _Current()


@contextmanager
def bfloat16_products(weights: Bfloat16Weights | None) -> Iterator[None]:
    """Let products of this thread have operands of bfloat16 inside the context; with None, of float32."""
    before, _current.weights = _current.weights, weights
    try:
        yield
    finally:
        _current.weights = before


def operands(*weights: paddle.Tensor) -> list[paddle.Tensor]:
    """Return weights as products take them here: themselves, or rounded to bfloat16."""
    kept = _current.weights
    return list(weights) if kept is None else [kept.of(weight) for weight in weights]
