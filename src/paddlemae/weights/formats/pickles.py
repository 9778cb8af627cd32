"""Read a pickle without running it: plain values and NumPy arrays are created, all else becomes `Opaque`.

A pickle is a program for a small stack machine (Python's `pickletools` documents each opcode). Here the machine has no
way to import or call anything: a global is only a name, and "calling" it looks the name up in a table of functions of
ours. Whatever a hostile file can make grow (the number of objects, their nesting, copies of long values) has a limit.
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

# A ViT-Huge with its AdamW (2,000 tensors) takes 70,000 steps and is charged 11 MB (measured).
MAX_STEPS = 500_000
MAX_DEPTH = 100
MAX_INT_BYTES = 256
MAX_NUMBERS_AS_KEYS = 5000  # an optimizer's state has one a tensor
LONG_BYTES = 65_536  # longer byte strings stay views of the file

# What a pickle may make costs memory beyond the file's size: bytes for all of it, and what each thing is charged.
FREE_BYTES = 40 * 2**20
STEP_BYTES = 40  # a number and its place on the stack
OBJECT_BYTES = 250  # an empty set, dict or placeholder, and what walking the tree notes of it
SLOT_BYTES = 100  # a place in a dict, a set or the memo, which grow in leaps

FORGOTTEN = object()  # in the memo, for what nothing refers to again and would fill the memory


def read_pickle(
    data: memoryview,
    start: int = 0,
    *,
    functions: Functions,
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """Read one pickle.

    Args:
        data: the file, read-only; long byte strings and arrays in the result are views of it.
        start: where the pickle begins.
        functions: "module.name" -> what stands for a call of it. It may return `Opaque` for what it does not know.
        persistent: what stands for a persistent id.
    Returns:
        (value, where the pickle ends). The value's lists and dicts are nested at most `MAX_DEPTH` deep.
    Raises:
        ValueError: not a pickle, cut off, or beyond the limits.
    """
    machine = _Machine(data, start, functions, persistent)
    try:
        value = machine.run()
        check_depth(value)
    except struct.error:
        raise ValueError("the pickle is cut off within a number; download or copy the file again") from None
    except (IndexError, KeyError, TypeError, OverflowError, RecursionError) as fault:
        raise ValueError(f"damaged pickle before byte {machine.position} ({type(fault).__name__})") from fault
    return value, machine.position


class _Machine:
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

    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            if self.position >= len(self.data):
                raise ValueError("the pickle is cut off; download or copy the file again")
            self.step_at = self.position
            self.spend(STEP_BYTES)
            code = self.data[self.position]
            self.position += 1
            if code == STOP:
                return self.pop()
            step = STEPS.get(code)
            if step is None:
                raise ValueError(f"no pickle: unknown opcode {code:#04x} at byte {self.position - 1}")
            step(self)
        raise ValueError(f"the pickle takes more than {MAX_STEPS:,} steps, more than any weights file needs")

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


STOP = ord(".")
DOUBLE, INT4 = struct.Struct(">d"), struct.Struct("<i")
UINT1, UINT2, UINT4, UINT8 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<Q"))
# pickletools.opcodes says what each does.
STEPS: dict[int, Callable[[_Machine], object]] = {
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord("0"): _Machine.drop,
    ord("1"): _Machine.pop_mark,
    ord("2"): lambda m: m.push(m.top()),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("F"): lambda m: m.push(float(m.line())),
    ord("G"): lambda m: m.push(m.unpack(DOUBLE)),
    ord("I"): _Machine.decimal,
    ord("L"): _Machine.decimal,
    ord("J"): lambda m: m.push(m.unpack(INT4)),
    ord("K"): lambda m: m.push(m.unpack(UINT1)),
    ord("M"): lambda m: m.push(m.unpack(UINT2)),
    0x8A: lambda m: m.integer(m.unpack(UINT1)),
    0x8B: lambda m: m.integer(m.unpack(UINT4)),
    ord("S"): _Machine.refuse_text,
    ord("T"): lambda m: m.old_text(bytes(m.take(m.unpack(INT4)))),
    ord("U"): lambda m: m.old_text(bytes(m.take(m.unpack(UINT1)))),
    ord("V"): _Machine.refuse_text,
    ord("X"): lambda m: m.text(m.take(m.unpack(UINT4))),
    0x8C: lambda m: m.text(m.take(m.unpack(UINT1))),
    0x8D: lambda m: m.text(m.take(m.unpack(UINT8))),
    ord("B"): lambda m: m.byte_string(m.take(m.unpack(UINT4))),
    ord("C"): lambda m: m.byte_string(m.take(m.unpack(UINT1))),
    0x8E: lambda m: m.byte_string(m.take(m.unpack(UINT8))),
    0x96: lambda m: m.byte_string(m.take(m.unpack(UINT8))),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push_object(tuple(m.pop_mark())),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("]"): lambda m: m.push_object([]),
    ord("l"): lambda m: m.push_object(m.pop_mark()),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_mark()),
    ord("}"): lambda m: m.push_object({}),
    ord("d"): _Machine.dict_of_mark,
    ord("s"): _Machine.set_item,
    ord("u"): lambda m: m.set_items(m.pop_mark()),
    0x8F: lambda m: m.push_object(set()),
    0x90: lambda m: m.add_items(m.pop_mark()),
    0x91: lambda m: m.push_object(frozenset(map(m.key, m.pop_mark()))),
    ord("p"): lambda m: m.put(int(m.line())),
    ord("q"): lambda m: m.put(m.unpack(UINT1)),
    ord("r"): lambda m: m.put(m.unpack(UINT4)),
    0x94: lambda m: m.put(len(m.memo)),
    ord("g"): lambda m: m.get(int(m.line())),
    ord("h"): lambda m: m.get(m.unpack(UINT1)),
    ord("j"): lambda m: m.get(m.unpack(UINT4)),
    ord("c"): lambda m: m.global_name(m.line(), m.line()),
    0x93: _Machine.stack_global,
    ord("R"): _Machine.reduce,
    0x81: _Machine.reduce,  # cls.__new__(cls, *args), which is a call here
    0x92: _Machine.call_with_names,
    ord("i"): _Machine.instance,
    ord("o"): _Machine.new_object,
    ord("b"): _Machine.build,
    ord("P"): lambda m: m.persistent_id(m.line()),
    ord("Q"): lambda m: m.persistent_id(m.pop()),
    0x80: lambda m: m.take(1),  # the protocol: later ones only add opcodes
    0x95: lambda m: m.take(8),  # a frame's length, for readers that fetch ahead
    **dict.fromkeys((0x82, 0x83, 0x84, 0x97, 0x98), _Machine.refuse),
}


def check_depth(tree: Any) -> None:
    """Refuse lists and dicts that hold themselves or are nested deeper than `MAX_DEPTH`: code that walks them recurses.

    Raises:
        ValueError: they do, or something in them was never finished.
    """
    done: dict[int, int] = {}  # id -> how deep it is; the tree keeps everything alive, so ids stay
    open_: set[int] = set()
    todo = [tree]
    while todo:
        value = todo[-1]
        if isinstance(value, Unfinished):
            raise ValueError("damaged pickle: an array without contents")
        if not isinstance(value, (list, tuple, dict, set, frozenset)) or id(value) in done:
            todo.pop()
            continue
        parts = list(value.values()) if isinstance(value, dict) else value
        if id(value) in open_:
            depth = 1 + max((done.get(id(part), 0) for part in parts), default=0)
            if depth > MAX_DEPTH:
                raise ValueError(f"the pickle is nested more than {MAX_DEPTH} deep; no weights file is")
            open_.remove(id(value))
            done[id(value)] = depth
            todo.pop()
            continue
        open_.add(id(value))
        for part in parts:
            if id(part) in open_:
                raise ValueError("the pickle holds itself; no weights file does")
            if isinstance(part, (list, tuple, dict, set, frozenset, Unfinished)) and id(part) not in done:
                todo.append(part)


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
