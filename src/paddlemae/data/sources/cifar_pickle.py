"""Read the dictionary in a published pickle of arrays and lists without running it: only NumPy's calls are allowed.

(`weights.formats.pickles` reads PyTorch's and Paddle's files; this small part is what data sets of protocol 2 need.)
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_ARRAY = {f"{module} _reconstruct" for module in _MULTIARRAY}
_DTYPE, _ENCODE = "numpy dtype", "_codecs encode"
_TYPES = {"u1": np.uint8, "i8": np.int64, "i4": np.int32}
_MARK = object()
_DEEPEST = 2


@dataclass(eq=False)
class _Call:
    """A call that a pickle asks for: what would be called, with what, and the state that it would get."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


def read_pickle(content: bytes, where: str) -> dict[str, Any]:
    """Read the dictionary of lists, numbers, strings and arrays in a pickle of protocol 2; else raise a ValueError."""
    try:
        values = _plain_value(_run(content))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, UnicodeError) as fault:
        raise ValueError(f"{where} is damaged, or not as published ({fault}); download it again") from fault
    if not isinstance(values, dict):
        raise ValueError(f"{where} is not as published: no dictionary; download it again")
    return {key if isinstance(key, str) else key.decode(): value for key, value in values.items()}


def _run(content: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for code, argument, _ in pickletools.genops(content):
        name, value = code.name, cast(Any, argument)
        if name == "STOP":
            return stack.pop()
        if name in ("PROTO", "FRAME"):
            continue
        if name.endswith("PUT"):
            memo[value] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[value])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "GLOBAL":
            stack.append(value)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name](value))
        elif name in _OPERATIONS:
            _OPERATIONS[name](stack)
        else:
            raise ValueError(f"it has {name}")
    raise ValueError("no end")


_CONSTANTS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "INT"), lambda value: value),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"), lambda value: value),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), lambda value: value),  # Python 2's, as latin-1 characters
    "NONE": lambda value: None,
    "NEWTRUE": lambda value: True,
    "NEWFALSE": lambda value: False,
    "EMPTY_LIST": lambda value: [],
    "EMPTY_DICT": lambda value: {},
    "EMPTY_TUPLE": lambda value: (),
}


def _since_mark(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1 - stack[::-1].index(_MARK)
    since = stack[place + 1 :]
    del stack[place:]
    return since


def _tuple(length: int) -> Callable[[list[Any]], None]:
    def make(stack: list[Any]) -> None:
        stack[-length:] = [tuple(stack[-length:])]

    return make


def _append_all(stack: list[Any]) -> None:
    items = _since_mark(stack)
    stack[-1].extend(items)


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    stack[-1][key] = value


def _set_items(stack: list[Any]) -> None:
    pairs = _since_mark(stack)
    stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))


def _reduce(stack: list[Any]) -> None:
    arguments, name = stack.pop(), stack.pop()
    if name not in _ARRAY | {_DTYPE, _ENCODE}:
        raise ValueError(f"it would call {name}")
    stack.append(_Call(name, arguments))


def _build(stack: list[Any]) -> None:
    state = stack.pop()
    stack[-1].state = state


_OPERATIONS: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": lambda stack: stack.append(tuple(_since_mark(stack))),
    "APPEND": lambda stack: stack[-2].append(stack.pop()),
    "APPENDS": _append_all,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "REDUCE": _reduce,
    "BUILD": _build,
}


def _plain_value(value: Any, depth: int = 0) -> Any:
    """Return plain values of what was read: a dictionary of values and lists of values."""
    if depth > _DEEPEST:  # lists that hold each other many times would take memory without end
        raise ValueError("it nests lists")
    if isinstance(value, dict):
        return {_plain_value(key, depth + 1): _plain_value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain_value(item, depth + 1) for item in value]
    if isinstance(value, _Call):
        return _encode(value) if value.name == _ENCODE else _make_array(value)
    return value


def _encode(call: _Call) -> bytes:
    text, coding = call.arguments
    if coding != "latin1":
        raise ValueError(f"it has bytes coded as {coding}")
    return text.encode("latin-1")


def _make_array(call: _Call) -> np.ndarray:
    _, shape, dtype, is_fortran, values = call.state
    kind = _TYPES[dtype.arguments[0]] if call.name in _ARRAY and dtype.name == _DTYPE else None
    values = _encode(values) if isinstance(values, _Call) else values
    content = values.encode("latin-1") if isinstance(values, str) else values
    return np.frombuffer(content, kind).reshape(shape, order="F" if is_fortran else "C")
