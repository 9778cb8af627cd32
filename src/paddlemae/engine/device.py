"""Paddle's device: chosen, and on a CPU made fast."""

from __future__ import annotations

import os
from pathlib import Path

from paddlemae.engine import products
from paddlemae.engine.cpus import threads_of
from paddlemae.engine.host import STRIDE_FLAG, host_as_before
from paddlemae.engine.memory import keep_freed_memory
from paddlemae.engine.precision import check_precision
from paddlemae.engine.safe_import import paddle
from paddlemae.engine.threads import set_product_threads

__all__ = ["host_as_before", "is_cpu", "prepare", "used_memory"]


def is_cpu() -> bool:
    """Return whether Paddle computes on the CPU."""
    return paddle.get_device() == "cpu"


def used_memory() -> int | None:
    """Return bytes of memory: on an accelerator the peak of all tensors so far, else this process's resident memory.

    None where the system does not say.
    """
    if not is_cpu():
        return int(paddle.device.max_memory_allocated())
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux
        return None


def prepare(device: str = "auto", threads: int | str = "auto", precision: str = "float32") -> str:
    """Choose Paddle's device, and on CPU make its kernels fast. Call before the first tensor.

    Args:
        device: "auto" (an accelerator if this Paddle build has one, else the CPU), "cpu", "gpu", "gpu:1", "xpu" ...
        threads: CPU threads of matrix products; "auto" takes every core that the process may use.
        precision: the one that will be computed in, see `engine.precision`; here it is only checked.
    Returns:
        the device's name, as Paddle gives it.
    Raises:
        ModuleNotFoundError: no Paddle.
        ValueError: a device that this Paddle build does not have, a precision that the device can't compute in, or an
            unknown `PADDLEMAE_PRODUCTS`.
    """
    if device != "auto":
        try:
            paddle.set_device(device)
        except Exception as fault:  # Paddle raises several kinds, with pages of text
            have = ", ".join(dict.fromkeys(["cpu", *paddle.device.get_available_device()]))  # it leaves out the CPU
            raise ValueError(f"device {device!r} is not available in this Paddle build; it has: {have}") from fault
    name = paddle.get_device()
    if name == "cpu":
        # views become copies, and reading them twice as fast pays for that; nothing here writes through a view
        paddle.set_flags({STRIDE_FLAG: False})
        set_product_threads(threads_of(threads))
        keep_freed_memory()
        products.choose()
    check_precision(precision)
    return name
