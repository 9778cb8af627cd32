"""Paddle made ready: found, on a device, with the CPU settings that cost nothing and save half."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paddlemae import signals
from paddlemae.limits import check_current_folder, cpu_quota

INSTALL_HINT = (
    "PaddlePaddle is not installed; on a CPU run: pip install 'paddlemae[cpu]'; for a GPU, XPU or NPU install "
    "the paddlepaddle build that Paddle's installation page names for your device"
)
# glibc's mallopt parameters (malloc.h) and values that keep a step's buffers instead of giving them back, in one place
# for all threads: with an arena each, what one thread frees is of no use to the others (5.3 against 4.5 GB, ViT-Base)
MALLOC_SETTINGS = {
    -1: 1 << 30,  # trim threshold
    -2: 64 << 20,  # top pad
    -3: 16 << 20,  # mmap threshold: holes of larger buffers would stay unused (3.45 against 3.65 GB, ViT-Base)
    -8: 1,  # arenas
}
LOCAL_SIZE = "PADDLE_LOCAL_SIZE"  # processes of a launch on this host
# giving back smaller buffers would cost too many page faults (2 MB: 2.5 times the time of 8 MB)
FRUGAL_MALLOC_SETTINGS = {-2: 1 << 20, -3: 3 << 20}


def load_paddle() -> None:
    """Import Paddle without its warnings and log, with its matrix products set free and without its answer to SIGTERM.

    Raises:
        ModuleNotFoundError: no Paddle; the text says what to install.
        FileNotFoundError: the current folder was deleted.
    """
    check_current_folder()
    if importlib.util.find_spec("paddle") is None:
        raise ModuleNotFoundError(INSTALL_HINT, name="paddle")
    _unlock_mkl_on_amd()
    os.environ.setdefault("GLOG_minloglevel", "2")  # what is no error is no user's business
    was_idle = signals.set_idle(True)  # commands call this before they begin
    try:
        with warnings.catch_warnings(), _sigterm_answered_as_before():
            warnings.simplefilter("ignore")  # of optional compilers, which nothing here needs
            import paddle  # noqa: F401
    finally:
        signals.set_idle(was_idle)


@contextmanager
def _sigterm_answered_as_before() -> Iterator[None]:
    """Paddle's answer is a page of its frames, to whoever stops a training before it has begun.

    A signal that comes while Paddle is imported waits for the end of that. Threads inherit what waits: NumPy's must not
    be there before, or the signal would go to one of them, and meet Paddle's answer. So this module imports no NumPy.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    can_wait = hasattr(signal, "pthread_sigmask")  # Windows can't
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}) if can_wait else set()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)  # Python's own notion, which Paddle passed by
        if can_wait:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def usable_cpus() -> int:
    """CPUs that this process may use: those it is bound to, or fewer where a container has a quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return bound if quota is None else min(bound, max(1, round(quota)))


def threads_of(threads: int | str) -> int:
    """CPU threads that a setting means; "auto" is every core that it may use, shared out among a launch's processes."""
    return max(1, usable_cpus() // int(os.environ.get(LOCAL_SIZE, "1"))) if threads == "auto" else int(threads)


def is_cpu() -> bool:
    """Whether Paddle computes on the CPU."""
    import paddle

    return paddle.get_device() == "cpu"


def used_memory() -> int | None:
    """Bytes of memory: on an accelerator the most that tensors took so far, else what this process has resident.

    None where that can't be told.
    """
    import paddle

    if not is_cpu():
        return int(paddle.device.max_memory_allocated())
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux
        return None


def tensor_of(array: Any) -> Any:
    """`paddle.to_tensor` of a NumPy array, for what is done every step.

    On CPU Paddle 3.3.1's own never gives back 112 bytes a call (measured over 6,000 calls), which in a training of days
    become gigabytes.
    """
    import numpy as np
    import paddle

    if not is_cpu():
        return paddle.to_tensor(array)
    tensor = paddle.empty([0], array.dtype.name)
    tensor.get_tensor().set(np.ascontiguousarray(array), paddle.CPUPlace())
    return tensor


def rows_view(tensor: Any, start: int, stop: int) -> Any:
    """Rows of a CPU tensor, as a view of the same memory, without gradients; `Tensor._slice` loses 64 bytes a call."""
    import paddle

    view = paddle.empty([0], tensor.dtype)
    view.get_tensor()._share_data_with(tensor.get_tensor()._slice(start, stop))
    return view


def prepare(device: str = "auto", threads: int | str = "auto") -> str:
    """Choose Paddle's device, and on CPU make its kernels fast. Call before the first tensor.

    Args:
        device: "auto" (an accelerator if this Paddle build has one, else the CPU), "cpu", "gpu", "gpu:1", "xpu" ...
        threads: CPU threads of matrix products; "auto" takes every core that the process may use.
    Returns:
        the device's name, as Paddle gives it.
    Raises:
        ModuleNotFoundError: no Paddle.
        ValueError: a device that this Paddle build does not have.
    """
    load_paddle()
    import paddle

    if device != "auto":
        try:
            paddle.set_device(device)
        except Exception as fault:  # Paddle raises several kinds, with pages of text
            have = ", ".join(dict.fromkeys(["cpu", *paddle.device.get_available_device()]))  # it leaves out the CPU
            raise ValueError(f"device {device!r} is not available in this Paddle build; it has: {have}") from fault
    name = paddle.get_device()
    if name == "cpu":
        # views become copies, and reading them twice as fast pays for that; nothing here writes through a view
        paddle.set_flags({"FLAGS_use_stride_kernel": 0})
        _set_product_threads(threads_of(threads))
        keep_freed_memory()
    return name


_current_product_threads = 1  # Paddle doesn't say how many it has


def _set_product_threads(count: int) -> None:
    import paddle

    global _current_product_threads
    _current_product_threads = count
    paddle.base.core.set_num_threads(count)


@contextmanager
def product_threads(count: int) -> Iterator[None]:
    """Inside, each matrix product uses so many CPU threads, in all of this process's threads."""
    before = _current_product_threads
    _set_product_threads(count)
    try:
        yield
    finally:
        _set_product_threads(before)


def _unlock_mkl_on_amd() -> None:
    """Let Paddle's MKL (2019.0.5) use AVX2 on AMD processors.

    Left alone it takes a slow path there: 40 against 110 GFLOP/s for a [448, 128] x [128, 512] product, measured on
    an AMD EPYC core. The variable is read at MKL's first call and has no effect on other processors.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() == "x86_64" and cpuinfo.exists():
        text = cpuinfo.read_text()
        if "AuthenticAMD" in text and " avx2 " in text:
            os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")


def keep_freed_memory() -> None:
    """Stop glibc from returning every step's buffers to the system: page faults, not arithmetic, cost then.

    Without effect on other C libraries.
    """
    _set_malloc(MALLOC_SETTINGS)


@contextmanager
def little_memory(wanted: bool) -> Iterator[None]:
    """Inside, where memory is what matters, large buffers are given back when they are freed."""
    if wanted:
        _set_malloc(FRUGAL_MALLOC_SETTINGS)
    try:
        yield
    finally:
        if wanted:
            _set_malloc(MALLOC_SETTINGS)


def _set_malloc(settings: dict[int, int]) -> None:
    if libc := _glibc():
        for parameter, value in settings.items():
            libc.mallopt(parameter, value)


def give_back_memory() -> None:
    """Return what is free now, such as the remains of building a model, which a step's buffers would lie beside."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None
