"""The stack machine that a pickle is a program for, without a way to import or call anything.

A global is only a name, and "calling" it looks the name up in a table of functions of ours. Whatever a hostile file can
make grow (the number of objects, copies of long values) has a limit.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from paddlemae.system.display_names import display_name
from paddlemae.weights.formats.mapped_file import release
from paddlemae.weights.formats.pickle_calls import Functions, Unfinished, hashable
from paddlemae.weights.formats.state_dict import Opaque

MAX_INT_BYTES = 256
MAX_NUMBERS_AS_KEYS = 5000  # an optimizer's state has one a tensor
LONG_BYTES = 65_536  # longer byte strings stay views of the file

# What a pickle may make costs memory beyond the file's size: bytes for all of it, and what each thing is charged.
FREE_BYTES = 40 * 2**20
STEP_BYTES = 40  # a number and its place on the stack
OBJECT_BYTES = 250  # an empty set, dict or placeholder, and what walking the tree notes of it
SLOT_BYTES = 100  # a place in a dict, a set or the memo, which grow in leaps

FORGOTTEN = object()  # in the memo, for what nothing refers to again and would fill the memory


class Machine:
    """The stack, the memo and the position in the file."""

    def __init__(
        self, data: memoryview, start: int, functions: Functions, persistent: Callable[[Any], Any] | None
    ) -> None:
        self.data, self.position = data, start
        self.functions, self.persistent = functions, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.step_at = start
        self.long_text: slice | None = None  # where the last long text lies
        self.numbers_as_keys = 0
        self.to_spend = 2 * len(data) + FREE_BYTES

    # Reading

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise ValueError(f"the pickle is cut off: it claims {count} bytes at byte {self.position}")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def unpack(self, form: struct.Struct) -> Any:
        start = self.position
        self.position += form.size
        return form.unpack_from(self.data, start)[0]

    def line(self) -> str:
        text = bytes(self.data[self.position : self.position + 1024])
        end = text.find(b"\n")
        if end < 0:
            raise ValueError(f"damaged pickle: no end of line after byte {self.position}")
        self.position += end + 1
        return text[:end].decode("utf-8", "replace")

    def spend(self, count: int) -> None:
        """Account for memory, which a short pickle could ask for without end: objects, and copies of long values."""
        self.to_spend -= count
        if self.to_spend < 0:
            raise ValueError("the pickle would expand beyond the limit for a file of its size; no weights file does")

    # The stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_object(self, value: Any) -> None:
        self.spend(OBJECT_BYTES)
        self.stack.append(value)

    def pop(self) -> Any:
        self.top("take")
        return self.stack.pop()

    def top(self, purpose: str = "change") -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError(f"damaged pickle: nothing to {purpose} at byte {self.position - 1}")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    # The memo

    def put(self, key: int) -> None:
        self.spend(SLOT_BYTES)
        value = self.top()
        if isinstance(value, Unfinished):
            value.memo_key = key
        # A long text is an array of an old protocol: nobody asks for it again, so it is not kept but could be reread.
        if _is_encoded(value):
            value = FORGOTTEN
        just_read = self.long_text is not None and self.long_text.stop == self.step_at
        self.memo[key] = self.long_text if just_read else value

    def get(self, key: int) -> None:
        value = self.memo[key]
        if value is FORGOTTEN:
            raise ValueError("the pickle refers to the arguments of an earlier call; no weights file does")
        if isinstance(value, slice):
            raw = self.data[value]
            self.spend(_letter_bytes(raw) * len(raw))
            value = str(raw, "utf-8", "surrogatepass")
        self.push(value)

    # Values

    def text(self, raw: memoryview) -> None:
        is_long = len(raw) > LONG_BYTES
        if is_long:
            self.long_text = slice(self.position - len(raw), self.position)
            self.spend(_letter_bytes(raw) * len(raw))
        text = str(raw, "utf-8", "surrogatepass")
        if is_long:
            release(raw)
        else:
            self.spend(text.__sizeof__())
        self.push(text)

    def byte_string(self, raw: memoryview) -> None:
        self.push(raw if len(raw) > LONG_BYTES else bytes(raw))

    def old_text(self, raw: bytes) -> None:
        """Push a string of Python 2, which is a name here; bytes where it is no text."""
        self.spend(len(raw))
        try:
            self.push(raw.decode("utf-8"))
        except UnicodeDecodeError:
            self.push(raw)

    def integer(self, size: int) -> None:
        if size > MAX_INT_BYTES:
            raise ValueError(f"the pickle has a number of {size} bytes; no weights file needs one")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def decimal(self) -> None:
        text = self.line().removesuffix("L")
        self.push({"00": False, "01": True}[text] if text in ("00", "01") else int(text))

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push_object(tuple(values[::-1]))

    def append(self, values: list[Any]) -> None:
        self.fill(list, list.extend, values, "appends to")

    def set_items(self, values: list[Any]) -> None:
        pairs = list(zip(values[::2], values[1::2], strict=True))
        self.fill(
            dict, lambda to, items: to.update((self.key(key), value) for key, value in items), pairs, "sets items of"
        )

    def add_items(self, values: list[Any]) -> None:
        self.fill(set, lambda to, items: to.update(map(self.key, items)), values, "adds to")

    def fill(self, kind: type, add: Callable[[Any, list[Any]], object], values: list[Any], words: str) -> None:
        target = self.top()
        if isinstance(target, Opaque):
            target.items.extend(values)
        elif isinstance(target, kind):
            add(target, values)
        else:
            raise ValueError(f"damaged pickle: {words} {type(target).__name__}")

    def key(self, key: Any) -> Hashable:
        self.spend(SLOT_BYTES)
        if not isinstance(key, str):
            self.numbers_as_keys += 1
            if self.numbers_as_keys > MAX_NUMBERS_AS_KEYS:
                raise ValueError(f"the pickle has more than {MAX_NUMBERS_AS_KEYS:,} keys that are no text")
        return hashable(key)

    # Globals, which are names and nothing else

    def global_name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("damaged pickle: a global whose name is no text")
        self.spend(module.__sizeof__() + name.__sizeof__())
        self.push_object(Opaque(f"{module}.{name}"))

    def call(self, function: Any, args: Any) -> None:
        if not isinstance(function, Opaque) or not isinstance(args, tuple):
            raise ValueError(f"damaged pickle: calls {type(function).__name__} with {type(args).__name__}")
        ours = self.functions.get(function.name) if function.args is None else None
        if ours is None:
            self.push_object(Opaque(function.name, args))
            return
        self.spend(sum(map(_copy_bytes, args)))
        try:
            self.push_object(ours(*args))
        except (TypeError, KeyError, IndexError, AttributeError, OverflowError, UnicodeError) as fault:
            raise ValueError(
                f"{display_name(function.name)} with arguments that no such call has: {display_name(fault)}"
            ) from fault

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Unfinished):
            value = target.finish(state)
            self.stack[-1] = value
            if target.memo_key is not None:
                self.memo[target.memo_key] = value
        elif isinstance(target, Opaque):
            target.state = state
        elif not isinstance(target, dict):  # a dict's attributes (a state dict's `_metadata`) are no weights
            raise ValueError(f"damaged pickle: sets the state of {type(target).__name__}")

    def persistent_id(self, value: Any) -> None:
        if self.persistent is None:
            raise ValueError("the pickle refers to data outside the file; it was written by another program")
        self.push_object(self.persistent(value))

    def instance(self) -> None:
        module, name = self.line(), self.line()
        args = tuple(self.pop_mark())
        self.global_name(module, name)
        self.call(self.pop(), args)

    def new_object(self) -> None:
        function, *args = self.pop_mark()
        self.call(function, tuple(args))

    def call_with_names(self) -> None:
        named, args, function = self.pop(), self.pop(), self.pop()
        if not isinstance(args, tuple):
            raise ValueError("damaged pickle: arguments that are no tuple")
        self.call(function, (*args, named) if named else args)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.global_name(module, name)

    def reduce(self) -> None:
        args, function = self.pop(), self.pop()
        self.call(function, args)

    def dict_of_mark(self) -> None:
        values = self.pop_mark()
        self.push_object({})
        self.set_items(values)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def drop(self) -> None:
        if self.marks and len(self.stack) == self.marks[-1]:
            self.marks.pop()
        else:
            self.pop()

    def refuse_text(self) -> None:
        raise ValueError("a pickle of protocol 0, which neither PyTorch nor Paddle writes; save it with their defaults")

    def refuse(self) -> None:
        raise ValueError("the pickle uses extension codes or buffers outside of itself, which no weights file needs")


def _is_encoded(value: Any) -> bool:
    """Check for the arguments as which protocol 2 writes long bytes."""
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], str)
        and len(value[0]) > LONG_BYTES
        and isinstance(value[1], str)
        and value[1] == "latin1"
    )


def _letter_bytes(raw: memoryview) -> int:
    """Return the bytes that Python uses per letter of a UTF-8 text: 1, 2 or 4, by its greatest letter."""
    greatest = np.frombuffer(raw, np.uint8).max()
    return 1 if greatest <= 0xC3 else 2 if greatest < 0xF0 else 4


def _copy_bytes(value: Any) -> int:
    """Return the bytes that a function may allocate for an argument that it copies."""
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        return SLOT_BYTES * len(value)
    return value.__sizeof__() if isinstance(value, (str, bytes)) else 0
