"""Replacements for the calls in pickles of plain values and NumPy arrays.

Arguments are whatever the file says: no function may walk an argument that can be larger than the file, such as an
array, or turn one into text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddlemae.system.display_names import display_name
from paddlemae.weights.formats.state_dict import Opaque

MAX_KEY_PARTS = 16
MAX_NUMBERS_IN_CALL = 200
MAX_DIMENSIONS = 64  # NumPy's and PyTorch's
PLAIN_DTYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}

Functions = Mapping[str, Callable[..., Any]]


@dataclass(eq=False, slots=True)
class Unfinished:
    """An object that the pickle makes in two steps: first this, then the state that `finish` takes."""

    finish: Callable[[Any], Any]
    memo_key: int | None = None


def hashable(key: Any) -> Hashable:
    """Return the key if it is cheap to hash: hashing nested tuples recurses in C without a limit.

    Raises:
        ValueError: it is not a plain value or a short tuple of them.
    """
    parts = key if isinstance(key, tuple) and len(key) <= MAX_KEY_PARTS else (key,)
    for part in parts:
        if isinstance(part, int) and part.bit_length() > 64:
            raise ValueError("damaged pickle: a key of more than 64 bits")
        if not isinstance(part, (str, bytes, int, float, Opaque, np.generic, type(None))):
            raise ValueError(f"damaged pickle: a key that is or holds a {type(part).__name__}")
    return key


def _mapping(*args: Any) -> dict[Any, Any]:
    pairs = args[0] if args else ()
    if isinstance(pairs, dict):
        return dict(pairs)
    if not isinstance(pairs, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs
    ):
        raise TypeError("no list of pairs")
    _few_numbers(key for key, _ in pairs)
    return {hashable(key): value for key, value in pairs}


def _few_numbers(keys: Iterable[Any]) -> None:
    """Refuse many keys that are no text: their hashes are foreseeable, and equal ones take quadratic time."""
    if sum(not isinstance(key, str) for key in keys) > MAX_NUMBERS_IN_CALL:
        raise ValueError(f"more than {MAX_NUMBERS_IN_CALL} keys that are no text")


def _set(values: Any = ()) -> set[Any]:
    if not isinstance(values, (list, tuple, set)):
        raise TypeError(f"set of {type(values).__name__}")
    _few_numbers(values)
    return set(map(hashable, values))


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    """Encode text to bytes: protocol 2 writes bytes as the text whose letters have their values."""
    if not isinstance(text, str) or not isinstance(encoding, str):
        raise TypeError("no text")
    if encoding not in ("latin1", "latin-1", "iso-8859-1", "utf-8", "ascii"):
        raise TypeError(f"encoding {encoding}")
    return text.encode(encoding)


def _byte_string(*args: Any) -> bytes | memoryview:
    if not args:
        return b""
    if isinstance(args[0], str):
        return _encode(*args)
    values = args[0]
    if isinstance(values, (bytes, memoryview)):
        return values
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"bytes of {type(values).__name__}")
    return bytes(values)


def _complex(real: float, imaginary: float = 0.0) -> complex:
    if not all(isinstance(part, (int, float)) for part in (real, imaginary)):
        raise TypeError("parts that are no numbers")
    return complex(real, imaginary)


def _dtype(code: str, *flags: Any) -> Any:
    if not isinstance(code, str):
        raise TypeError("a NumPy type without a name")
    kind = code.lstrip("<>=|")
    if kind not in PLAIN_DTYPES:
        return Opaque(f"numpy.dtype({display_name(code, 20)})", (code, *flags))

    def finish(state: Any) -> np.dtype:
        order = state[1]
        if not isinstance(order, str) or order not in ("<", ">", "=", "|"):
            raise ValueError("a NumPy type of an unknown byte order")
        return np.dtype(order + kind)

    return Unfinished(finish)


def _as_dtype(dtype: Any) -> np.dtype | None:
    """Return a NumPy type, in this machine's byte order if the pickle sets none; None for another value."""
    return dtype.finish((3, "=")) if isinstance(dtype, Unfinished) else dtype if isinstance(dtype, np.dtype) else None


def _empty_array(kind: Any, shape: Any, code: Any) -> Any:
    if not isinstance(kind, Opaque) or kind.name != "numpy.ndarray":
        return Opaque(kind.name, (shape, code))
    return Unfinished(_array_of_state)


def _array_of_state(state: Any) -> Any:
    _, shape, dtype, fortran, raw = state
    return _array(raw, dtype, shape, "F" if fortran else "C")


def _array(raw: Any, dtype: Any, shape: Any, order: str) -> Any:
    """Return an array that is a view of the bytes, in the byte order of its type."""
    plain = _as_dtype(dtype)
    if plain is None:
        return Opaque("numpy.ndarray of " + getattr(dtype, "name", "?"), (dtype, shape))
    if not isinstance(raw, (bytes, memoryview)):
        raise ValueError("a NumPy array whose contents are no bytes; save it with Python 3")
    if not is_shape(shape) or not isinstance(order, str) or order not in ("C", "F"):
        raise ValueError("a NumPy array of an impossible shape")
    count = math.prod(shape)
    if count * plain.itemsize != len(raw):
        raise ValueError(f"a NumPy array of {count} x {plain.itemsize} bytes in {len(raw)} bytes")
    flat = np.frombuffer(raw, plain) if count else np.zeros(0, plain)
    return flat.reshape(shape, order=order)  # type: ignore[call-overload]


def is_shape(value: Any) -> bool:
    """Check that a value is a tuple of at most `MAX_DIMENSIONS` integers from 0 to 2^63 - 1."""
    return (
        isinstance(value, tuple)
        and len(value) <= MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 2**63 for n in value)
    )


def _scalar(dtype: Any, raw: Any) -> Any:
    plain = _as_dtype(dtype)
    if plain is None:
        return Opaque("numpy scalar of " + getattr(dtype, "name", "?"), (dtype,))
    return _array(raw, plain, (1,), "C")[0]


_NUMPY: Functions = {
    "multiarray._reconstruct": _empty_array,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _array,
}
_BUILTINS: Functions = {
    "set": _set,
    "frozenset": _set,
    "bytes": _byte_string,
    "bytearray": _byte_string,
    "complex": _complex,
}
PLAIN: Functions = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": lambda factory=None, *pairs: _mapping(*pairs),
    "_codecs.encode": _encode,
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.{name}": function for core in ("core", "_core") for name, function in _NUMPY.items()},
    **{f"{module}.{name}": function for module in ("builtins", "__builtin__") for name, function in _BUILTINS.items()},
}
