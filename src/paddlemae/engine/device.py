"""Paddle made ready: found, on a device, with the CPU settings that cost nothing and save half."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import platform
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from paddlemae.system import signals
from paddlemae.system.limits import check_current_folder, cpu_quota

INSTALL_HINT = (
    "PaddlePaddle is not installed; on a CPU run: pip install 'paddlemae[cpu]'; for a GPU, XPU or NPU install "
    "the paddlepaddle build that Paddle's installation page names for your device"
)
# glibc's mallopt parameters (malloc.h) and values that keep a step's buffers instead of giving them back, in one place
# for all threads: with an arena each, what one thread frees is of no use to the others (5.3 against 4.5 GB, ViT-Base)
ARENAS = -8
MALLOC_SETTINGS = {
    -1: 1 << 30,  # trim threshold
    -2: 64 << 20,  # top pad
    -3: 16 << 20,  # mmap threshold: holes of larger buffers would stay unused (3.45 against 3.65 GB, ViT-Base)
    ARENAS: 1,
}
# what glibc itself takes once a program has given back blocks of 32 MB; what it began with can't be had again
HOST_MALLOC_SETTINGS = {-1: 64 << 20, -2: 128 << 10, -3: 32 << 20}
STRIDE_FLAG = "FLAGS_use_stride_kernel"
MKL_TYPE = "MKL_DEBUG_CPU_TYPE"
LOCAL_SIZE = "PADDLE_LOCAL_SIZE"  # processes of a launch on this host
# giving back smaller buffers would cost too many page faults (2 MB: 2.5 times the time of 8 MB)
FRUGAL_MALLOC_SETTINGS = {-2: 1 << 20, -3: 3 << 20}


_is_loaded = False  # by this module: a program may have imported it itself before


def load_paddle() -> None:
    """Import Paddle without its warnings and log, with its matrix products set free and without its answer to SIGTERM.

    Variables of the environment that this takes are as before afterwards, and so is the root of `logging`.

    Raises:
        ModuleNotFoundError: no Paddle; the text says what to install.
        FileNotFoundError: the current folder was deleted.
    """
    global _is_loaded
    check_current_folder()
    if importlib.util.find_spec("paddle") is None:
        raise ModuleNotFoundError(INSTALL_HINT, name="paddle")
    if _is_loaded:
        return
    was_idle = signals.set_idle(True)  # commands call this before they begin
    try:
        with warnings.catch_warnings(), _sigterm_answered_as_before(), _logging_as_before(), _read_once_variables():
            warnings.simplefilter("ignore")  # of optional compilers, which nothing here needs
            import paddle  # noqa: F401
    finally:
        signals.set_idle(was_idle)
    _is_loaded = True


@contextmanager
def _logging_as_before() -> Iterator[None]:
    """Keep the root logger's level and handlers; Paddle's import brings its own, through which everyone's notes go."""
    level, handlers = logging.root.level, list(logging.root.handlers)
    try:
        yield
    finally:
        logging.root.setLevel(level)
        logging.root.handlers[:] = handlers


@contextmanager
def _read_once_variables() -> Iterator[None]:
    """Set variables that Paddle and MKL read once, unless the user did, and unset them again: for no child process."""
    wanted = {"GLOG_minloglevel": "2", **_mkl_variables()}  # what is no error is no user's business
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
        if MKL_TYPE in ours and (mkl := _mkl()):
            one = ctypes.byref(ctypes.c_float(1.0))
            sizes, scale = (1, 1, 1), ctypes.c_float(1.0)
            mkl.cblas_sgemm(101, 111, 111, *sizes, scale, one, 1, one, 1, scale, ctypes.byref(ctypes.c_float()), 1)
    finally:
        for name in ours:
            os.environ.pop(name, None)


@lru_cache(maxsize=1)
def _mkl() -> ctypes.CDLL | None:
    """Return the matrix library in Paddle's wheel; None where that has another one."""
    import paddle

    found = Path(paddle.__file__).parent / "libs" / "libmklml_intel.so"
    return ctypes.CDLL(str(found)) if found.exists() else None


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
        paddle.set_flags({STRIDE_FLAG: False})
        _set_product_threads(threads_of(threads))
        keep_freed_memory()
    return name


_last_product_threads: int | None = None  # that were set here


def _product_threads() -> int:
    """Return how many CPU threads a matrix product uses; Paddle doesn't say, MKL does."""
    if mkl := _mkl():
        return int(mkl.MKL_Get_Max_Threads())
    begun_with = os.environ.get("OMP_NUM_THREADS", "")  # Paddle's import sets it to 1 if it is not set
    return _last_product_threads or (int(begun_with) if begun_with.isdigit() else 1)


def _set_product_threads(count: int) -> None:
    import paddle

    global _last_product_threads
    _last_product_threads = count
    paddle.base.core.set_num_threads(count)


_calls = 0  # of `host_as_before` that are not left
_calls_change = threading.Lock()


@contextmanager
def host_as_before() -> Iterator[None]:
    """Leave Paddle as the program around this call has it: for entry points of the library; commands own their process.

    That is the device, the strided kernels, the threads of matrix products and the random numbers. Inside, Paddle is
    in dynamic mode, has gradients and makes float32 numbers, whatever the program has chosen. Calls may overlap in
    several threads: the last one that returns puts back what the first one found. Of glibc's allocator, which can't be
    asked, the thresholds become the largest ones that it takes by itself, and the number of arenas is not touched.
    """
    global _calls
    load_paddle()
    import paddle

    device = paddle.get_device()  # a thread's own
    with _calls_change:
        if _calls == 0:
            _host.append(_HostSettings())
            paddle.disable_static()
            paddle.set_default_dtype("float32")
        _calls += 1
    try:
        with paddle.enable_grad():
            yield
    finally:
        with _calls_change:
            _calls -= 1
            if _calls == 0:
                _host.pop().put_back()
        if paddle.get_device() != device:
            paddle.set_device(device)


class _HostSettings:
    """Paddle's settings for a whole process, as they are when this is made."""

    def __init__(self) -> None:
        import paddle

        self.is_dynamic, self.dtype = paddle.in_dynamic_mode(), paddle.get_default_dtype()
        self.flags = paddle.get_flags([STRIDE_FLAG])
        self.threads = _product_threads()
        self.random = {place: paddle.get_rng_state(place) for place in {"cpu", paddle.get_device()}}

    def put_back(self) -> None:
        import paddle

        if not self.is_dynamic:
            paddle.enable_static()
        paddle.set_default_dtype(self.dtype)
        paddle.set_flags(self.flags)
        _set_product_threads(self.threads)
        for place, state in self.random.items():
            paddle.set_rng_state(state, place)
        _set_malloc(HOST_MALLOC_SETTINGS)


_host: list[_HostSettings] = []  # what the first of `_calls` found


@contextmanager
def product_threads(count: int) -> Iterator[None]:
    """Inside, each matrix product uses so many CPU threads, in all of this process's threads."""
    before = _product_threads()
    _set_product_threads(count)
    try:
        yield
    finally:
        _set_product_threads(before)


def _mkl_variables() -> dict[str, str]:
    """Return what lets Paddle's MKL (2019.0.5) use AVX2 on AMD processors.

    Left alone it takes a slow path there: 40 against 110 GFLOP/s for a [448, 128] x [128, 512] product, measured on
    an AMD EPYC core. The variable is read at MKL's first product.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.exists():
        return {}
    text = cpuinfo.read_text()
    return {MKL_TYPE: "5"} if "AuthenticAMD" in text and " avx2 " in text else {}


def keep_freed_memory() -> None:
    """Stop glibc from returning every step's buffers to the system: page faults, not arithmetic, cost then.

    Without effect on other C libraries. The number of arenas can't be put back, so only commands choose it.
    """
    _set_malloc({name: value for name, value in MALLOC_SETTINGS.items() if name != ARENAS or not _calls})


@contextmanager
def little_memory(wanted: bool) -> Iterator[None]:
    """Inside, where memory is what matters, large buffers are given back when they are freed."""
    if wanted:
        _set_malloc(FRUGAL_MALLOC_SETTINGS)
    try:
        yield
    finally:
        if wanted:
            keep_freed_memory()


def _set_malloc(settings: dict[int, int]) -> None:
    if libc := _glibc():
        for parameter, value in settings.items():
            libc.mallopt(parameter, value)


def give_back_memory() -> None:
    """Return what is free now, such as the remains of building a model, which a step's buffers would lie beside."""
    if libc := _glibc():
        libc.malloc_trim(0)


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" else None
