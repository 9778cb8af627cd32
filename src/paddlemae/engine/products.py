"""Which library computes products, norms and softmax of the CPU kernels: oneDNN, or Paddle's own operations."""

from __future__ import annotations

import os

from paddlemae.engine import onednn_primitives
from paddlemae.engine.safe_import import paddle

VARIABLE = "PADDLEMAE_PRODUCTS"
KINDS = ("auto", "onednn", "paddle")
_by_onednn = False


def by_onednn() -> bool:
    """Return whether float32 numbers on CPU are computed by oneDNN."""
    return _by_onednn


def use_onednn(wanted: bool) -> None:
    """Set what `by_onednn` returns."""
    global _by_onednn
    _by_onednn = wanted


def choose() -> None:
    """Choose by the environment variable `PADDLEMAE_PRODUCTS`: "auto", "onednn" or "paddle".

    auto is oneDNN where the processor has AVX2 and Paddle's wheel the known version of it.

    Raises:
        ValueError: another value.
    """
    use_onednn(reason_against() is None)


def reason_against() -> str | None:
    """Return why oneDNN is not used, in one line; None if it is."""
    kind = os.environ.get(VARIABLE, "auto")
    if kind not in KINDS:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "paddle":
        return f"{VARIABLE} is paddle"
    try:
        onednn_primitives.library()
    except onednn_primitives.Unavailable as fault:
        return str(fault)
    return None


def description() -> str:
    """Return what computes, for a run's record: "onednn", or "paddle" with the reason."""
    if paddle.get_device() != "cpu":
        return "paddle (on an accelerator)"
    reason = reason_against()
    return "onednn" if reason is None else f"paddle ({reason})"
