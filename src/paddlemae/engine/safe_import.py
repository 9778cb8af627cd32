"""Import Paddle safely; every module of this package imports it from here.

It happens once, without Paddle's warnings and log, and without its answer to SIGTERM; MKL's matrix products are fast on
AMD processors too. Environment variables that are set for it are unset again, and the root logger stays as it was.

Raises:
    ModuleNotFoundError: no Paddle; the text says what to install.
    FileNotFoundError: the current folder was deleted.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import platform
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from paddlemae.system import signals
from paddlemae.system.limits import check_current_folder

INSTALL_HINT = (
    "PaddlePaddle is not installed; on a CPU run: pip install 'paddlemae[cpu]'; for a GPU, XPU or NPU install "
    "the paddlepaddle build that Paddle's installation page names for your device"
)
MKL_TYPE = "MKL_DEBUG_CPU_TYPE"


def import_paddle() -> None:
    """Import Paddle as this module's first lines say; `import paddle` does the same once this was done."""
    check_current_folder()
    if importlib.util.find_spec("paddle") is None:
        raise ModuleNotFoundError(INSTALL_HINT, name="paddle")
    was_idle = signals.set_idle(True)  # commands import before they begin
    try:
        with warnings.catch_warnings(), _sigterm_answered_as_before(), _logging_as_before(), _read_once_variables():
            warnings.simplefilter("ignore")  # of optional compilers, which nothing here needs
            import paddle  # noqa: F401
    finally:
        signals.set_idle(was_idle)


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
        if MKL_TYPE in ours and (mkl := matrix_library()):
            one = ctypes.byref(ctypes.c_float(1.0))
            sizes, scale = (1, 1, 1), ctypes.c_float(1.0)
            mkl.cblas_sgemm(101, 111, 111, *sizes, scale, one, 1, one, 1, scale, ctypes.byref(ctypes.c_float()), 1)
    finally:
        for name in ours:
            os.environ.pop(name, None)


def library_path(name: str) -> Path:
    """Return where a library in Paddle's wheel is, if the wheel has it."""
    import paddle

    return Path(paddle.__file__).parent / "libs" / name


@lru_cache(maxsize=1)
def matrix_library() -> ctypes.CDLL | None:
    """Return the matrix library in Paddle's wheel; None where that has another one."""
    found = library_path("libmklml_intel.so")
    return ctypes.CDLL(str(found)) if found.exists() else None


@contextmanager
def _sigterm_answered_as_before() -> Iterator[None]:
    """Keep SIGTERM's handler while Paddle is imported: Paddle's own prints a page of its frames.

    A signal that comes while Paddle is imported waits for the end of that. Threads inherit what waits: NumPy's must not
    be there before, or the signal would go to one of them, and meet Paddle's answer. So this module imports no NumPy,
    and commands import this module first.
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


def _mkl_variables() -> dict[str, str]:
    """Return what lets Paddle's MKL (2019.0.5) use AVX2 on AMD processors, or AVX-512 where they have it.

    Left alone it takes a slow path there: 40 against 110 GFLOP/s for a [448, 128] x [128, 512] product, measured on
    an AMD EPYC core. The variable is read at MKL's first product.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.exists():
        return {}
    text = cpuinfo.read_text()
    if "AuthenticAMD" not in text or " avx2 " not in text:
        return {}
    return {MKL_TYPE: "7" if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= set(text.split()) else "5"}


import_paddle()
import paddle  # noqa: E402
import paddle.nn.functional as F  # noqa: E402
from paddle import nn  # noqa: E402

__all__ = ["F", "nn", "paddle"]
