"""Call oneDNN, the library in Paddle's wheel, on the memory of tensors through `ctypes`.

Paddle itself uses oneDNN in programs only. A primitive is prepared for fixed sizes and strides and kept per thread;
calls release Python's lock and use as many OpenMP threads as `engine.threads` says. `engine.onednn` has the operations.
"""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from paddlemae.engine import private
from paddlemae.engine.safe_import import library_path
from paddlemae.engine.threads import wanted_product_threads

VERSION = (3, 6)  # whose numbers of enumerations follow (dnnl_types.h)
AVX2, AVX512, AVX512_BF16 = 0x7, 0x27, 0xA7  # bits of `dnnl_get_effective_cpu_isa`; AMX includes the last ones
CPU, IN_ORDER, BFLOAT16, FLOAT32, USER_SCRATCHPAD = 1, 1, 2, 3, 1
FORWARD_TRAINING, BACKWARD = 64, 128
LINEAR, GELU_ERF, SOFTMAX, SCALE_AND_SHIFT = 0x26, 0x31, 0x30000, 0x6
BINARY_ADD, BINARY_MULTIPLY, BINARY_SUBTRACT = 0x1FFF0, 0x1FFF1, 0x1FFF5
QUERY_NAME, QUERY_SCRATCHPAD = 8, 136
SRC, DST, WEIGHTS, BIAS, MEAN, VARIANCE, SCALE, SHIFT, SCRATCHPAD = 1, 17, 33, 41, 49, 50, 51, 52, 80
DIFF_SRC, DIFF_DST, DIFF_SCALE, DIFF_SHIFT, POST_OP, SRC_1 = 129, 145, 255, 256, 32768, 2
KEPT = 1024  # primitives of a thread; a model's step has about a hundred
ALIGNMENT = 64


FLOAT_BYTES = 4
Operation = Callable[..., None]  # takes addresses

Made = TypeVar("Made")


class Layout(NamedTuple):
    """Sizes and strides of a tensor, in numbers, and the kind of these: `FLOAT32` or `BFLOAT16`."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    kind: int = FLOAT32


def dense(*sizes: int, kind: int = FLOAT32) -> Layout:
    """Return the layout of a contiguous tensor."""
    strides = [1]
    for size in reversed(sizes[1:]):
        strides.append(strides[-1] * size)
    return Layout(sizes, tuple(reversed(strides)), kind)


def transpose(layout: Layout) -> Layout:
    """Return a layout with its last two axes exchanged."""
    sizes, strides = ((*each[:-2], each[-1], each[-2]) for each in layout[:2])
    return Layout(sizes, strides, layout.kind)


class _Version(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("major", "minor", "patch")]


class _Argument(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int), ("memory", ctypes.c_void_p)]


class Unavailable(RuntimeError):
    """oneDNN can't be used here; the text says why, in one line."""


class Library:
    """The library's handles: one whose calls release Python's lock and one, for short calls, whose don't."""

    def __init__(self) -> None:
        path = library_path("libdnnl.so.3")
        if not path.exists():
            raise Unavailable("this Paddle build has no libdnnl.so.3")
        try:
            self.calls, self.short_calls = ctypes.CDLL(str(path)), ctypes.PyDLL(str(path))
            self.calls.dnnl_version.restype = ctypes.POINTER(_Version)
            found = self.calls.dnnl_version().contents
            self.set_threads = self.calls.omp_set_num_threads
        except (OSError, AttributeError) as fault:
            raise Unavailable(f"libdnnl.so.3 of this Paddle build can't be called: {fault}") from fault
        if (found.major, found.minor) != VERSION:
            raise Unavailable(f"Paddle's oneDNN is {found.major}.{found.minor}.{found.patch}, known is 3.6")
        if not self.has(AVX2):
            raise Unavailable("the processor has no AVX2, or ONEDNN_MAX_CPU_ISA forbids it")
        self.short_calls.dnnl_memory_set_data_handle.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self.calls.dnnl_primitive_execute.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        self.engine = self.new("engine_create", CPU, ctypes.c_size_t(0))

    def has(self, instructions: int) -> bool:
        """Return whether the processor has these instruction sets, and `ONEDNN_MAX_CPU_ISA` allows them."""
        return bool(self.calls.dnnl_get_effective_cpu_isa() & instructions == instructions)

    def new(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """Return the object that a `dnnl_..._create` function makes."""
        made = ctypes.c_void_p()
        self.check(getattr(self.calls, f"dnnl_{name}")(ctypes.byref(made), *arguments), name)
        return made

    def check(self, status: int, name: str) -> None:
        if status:
            raise RuntimeError(f"oneDNN's {name} failed with status {status}")


@lru_cache(maxsize=1)
def library() -> Library:
    """Return the library.

    Raises:
        Unavailable: it is missing, of another version or not for this processor.
    """
    return Library()


class _Thread(threading.local):
    """Hold what one thread needs: a stream, OpenMP threads, a scratchpad and prepared primitives, last used last."""

    def __init__(self) -> None:
        self.threads = 0
        self.stream = library().new("stream_create", library().engine, IN_ORDER)
        self.scratchpad, self.scratchpad_address = ctypes.create_string_buffer(0), 0
        self.primitives: OrderedDict[Any, Any] = OrderedDict()

    def reserve(self, size: int) -> int:
        """Return the address of a scratchpad of at least `size` bytes."""
        if len(self.scratchpad) < size + ALIGNMENT:
            self.scratchpad = ctypes.create_string_buffer(size + ALIGNMENT)
            self.scratchpad_address = -(-ctypes.addressof(self.scratchpad) // ALIGNMENT) * ALIGNMENT
        return self.scratchpad_address

    def find(self, build: Callable[..., Made], *key: Any) -> Made:
        """Return what `build(*key)` made, kept from an earlier call if there was one."""
        if self.threads != (wanted := wanted_product_threads()):
            # OpenMP's setting is a thread's own, and part of what is prepared. Of two OpenMP libraries in the process
            # Paddle and oneDNN use one, and that which `libdnnl` names may be the other.
            library().set_threads(wanted)
            private.set_num_threads(wanted)
            self.threads = wanted
            self.primitives.clear()
        found: Made | None = self.primitives.get((build, key))
        if found is None:
            found = self.primitives[build, key] = build(*key)
            if len(self.primitives) > KEPT:
                self.primitives.popitem(last=False)
        else:
            self.primitives.move_to_end((build, key))
        return found


_local: list[_Thread] = []  # made with the library's first use
_making = threading.Lock()


def _thread() -> _Thread:
    if not _local:
        with _making:
            if not _local:
                _local.append(_Thread())
    return _local[0]


class Primitive:
    """An operation prepared for given layouts; call it with the addresses of its arguments.

    Its `name` is that of oneDNN's implementation, such as "gemm:jit:f32".

    Args:
        descriptor: its `dnnl_primitive_desc_t`.
        arguments: (kind, memory descriptor) of each, in the order of the addresses.
    """

    def __init__(self, descriptor: ctypes.c_void_p, arguments: Sequence[tuple[int, ctypes.c_void_p]]):
        own = library()
        query = own.calls.dnnl_primitive_desc_query_md
        query.restype = ctypes.c_void_p
        scratchpad = ctypes.c_void_p(query(descriptor, QUERY_SCRATCHPAD, 0))
        size = own.calls.dnnl_memory_desc_get_size
        size.restype = ctypes.c_size_t
        self.scratchpad_size = size(scratchpad)
        every = [*arguments, (SCRATCHPAD, scratchpad)] if self.scratchpad_size else list(arguments)
        self.memories = [own.new("memory_create", layout, own.engine, None).value for _, layout in every]
        self.primitive, self.name = own.new("primitive_create", descriptor).value, _name_of(descriptor)
        self.arguments = (_Argument * len(every))(*[_Argument(kind, it) for (kind, _), it in zip(every, self.memories)])
        self.address, self.count = ctypes.addressof(self.arguments), len(every)
        self.set_address, self.execute = own.short_calls.dnnl_memory_set_data_handle, own.calls.dnnl_primitive_execute

    def __call__(self, *addresses: int) -> None:
        for memory, address in zip(self.memories, addresses):
            self.set_address(memory, address)
        thread = _thread()
        if self.scratchpad_size:
            self.set_address(self.memories[-1], thread.reserve(self.scratchpad_size))
        if status := self.execute(self.primitive, thread.stream, self.count, self.address):
            raise RuntimeError(f"a primitive of oneDNN failed with status {status}")

    def __del__(self) -> None:
        own = library()
        for memory in self.memories:
            own.calls.dnnl_memory_destroy(ctypes.c_void_p(memory))
        own.calls.dnnl_primitive_destroy(ctypes.c_void_p(self.primitive))


class Builder(ExitStack):
    """Makes descriptors, and destroys them at the end of its context; a primitive keeps copies."""

    def new(self, name: str, *arguments: Any, destroy: str) -> ctypes.c_void_p:
        made = library().new(name, *arguments)
        self.callback(getattr(library().calls, f"dnnl_{destroy}_destroy"), made)
        return made

    def memory(self, layout: Layout) -> ctypes.c_void_p:
        sizes, strides, kind = layout
        numbers = ctypes.c_int64 * len(sizes)
        arguments = len(sizes), numbers(*sizes), kind, numbers(*strides)
        return self.new("memory_desc_create_with_strides", *arguments, destroy="memory_desc")

    def attributes(
        self, scale: float = 1.0, then: Sequence[tuple[int, ctypes.c_void_p]] = (), accumulates: bool = False
    ) -> ctypes.c_void_p:
        """Return attributes: the scratchpad is the caller's; the result is multiplied, then combined with others.

        Args:
            then: (algorithm, memory descriptor) of each of these.
            accumulates: whether it is then added to what is there.
        """
        calls, check = library().calls, library().check
        made = self.new("primitive_attr_create", destroy="primitive_attr")
        check(calls.dnnl_primitive_attr_set_scratchpad_mode(made, USER_SCRATCHPAD), "attribute")
        after = self.new("post_ops_create", destroy="post_ops")
        if scale != 1:
            numbers = ctypes.c_float(scale), ctypes.c_float(0)
            check(calls.dnnl_post_ops_append_eltwise(after, LINEAR, *numbers), "post-operation")
        for algorithm, other in then:
            check(calls.dnnl_post_ops_append_binary(after, algorithm, other), "post-operation")
        if accumulates:
            check(calls.dnnl_post_ops_append_sum(after, ctypes.c_float(1), 0, 0), "post-operation")
        check(calls.dnnl_primitive_attr_set_post_ops(made, after), "post-operation")
        return made

    def descriptor(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        whole = f"{name}_primitive_desc_create"
        return self.new(whole, library().engine, *arguments, destroy="primitive_desc")


def prepared(build: Callable[..., Made], *key: Any) -> Made:
    """Return `build(*key)`, which is kept in this thread like a primitive, and prepared again for other threads."""
    return _thread().find(build, *key)


def take_named(descriptor: ctypes.c_void_p, name: str) -> bool:
    """Advance to the implementation whose name begins like this; false, and the last one, if there is none."""
    while not _name_of(descriptor).startswith(name):
        if library().calls.dnnl_primitive_desc_next_impl(descriptor):
            return False
    return True


def _name_of(descriptor: ctypes.c_void_p) -> str:
    found = ctypes.c_char_p()
    library().calls.dnnl_primitive_desc_query(descriptor, QUERY_NAME, 0, ctypes.byref(found))
    return (found.value or b"").decode()
