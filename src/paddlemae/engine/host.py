"""A program that calls this library finds Paddle after a call as it was before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from paddlemae.engine import products
from paddlemae.engine.memory import share_process
from paddlemae.engine.safe_import import paddle
from paddlemae.engine.threads import current_product_threads, set_product_threads

STRIDE_FLAG = "FLAGS_use_stride_kernel"
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
    device = paddle.get_device()  # a thread's own
    with _calls_change:
        if _calls == 0:
            _host.append(_HostSettings())
            share_process(True)
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
        self.is_dynamic, self.dtype = paddle.in_dynamic_mode(), paddle.get_default_dtype()
        self.flags = paddle.get_flags([STRIDE_FLAG])
        self.threads = current_product_threads()
        self.by_onednn = products.by_onednn()
        self.random = {place: paddle.get_rng_state(place) for place in {"cpu", paddle.get_device()}}

    def put_back(self) -> None:
        if not self.is_dynamic:
            paddle.enable_static()
        paddle.set_default_dtype(self.dtype)
        paddle.set_flags(self.flags)
        set_product_threads(self.threads)
        products.use_onednn(self.by_onednn)
        for place, state in self.random.items():
            paddle.set_rng_state(state, place)
        share_process(False)


_host: list[_HostSettings] = []  # what the first of `_calls` found
