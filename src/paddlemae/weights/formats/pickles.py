"""Read a pickle without running it: plain values and NumPy arrays are created, all else becomes `Opaque`.

A pickle is a program for a small stack machine; Python's `pickletools` documents each opcode, and `pickle_machine` is
ours. The number of steps and the nesting of the result are limited, too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from paddlemae.weights.formats.pickle_calls import Functions, Unfinished
from paddlemae.weights.formats.pickle_machine import STEP_BYTES, Machine

# A ViT-Huge with its AdamW (2,000 tensors) takes 70,000 steps and is charged 11 MB (measured).
MAX_STEPS = 500_000
MAX_DEPTH = 100


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
    machine = Machine(data, start, functions, persistent)
    try:
        value = _run(machine)
        check_depth(value)
    except struct.error:
        raise ValueError("the pickle is cut off within a number; download or copy the file again") from None
    except (IndexError, KeyError, TypeError, OverflowError, RecursionError) as fault:
        raise ValueError(f"damaged pickle before byte {machine.position} ({type(fault).__name__})") from fault
    return value, machine.position


def _run(machine: Machine) -> Any:
    """Return what the steps of a pickle leave on the stack."""
    for _ in range(MAX_STEPS):
        if machine.position >= len(machine.data):
            raise ValueError("the pickle is cut off; download or copy the file again")
        machine.step_at = machine.position
        machine.spend(STEP_BYTES)
        code = machine.data[machine.position]
        machine.position += 1
        if code == STOP:
            return machine.pop()
        step = STEPS.get(code)
        if step is None:
            raise ValueError(f"no pickle: unknown opcode {code:#04x} at byte {machine.position - 1}")
        step(machine)
    raise ValueError(f"the pickle takes more than {MAX_STEPS:,} steps, more than any weights file needs")


STOP = ord(".")
DOUBLE, INT4 = struct.Struct(">d"), struct.Struct("<i")
UINT1, UINT2, UINT4, UINT8 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<Q"))
# pickletools.opcodes says what each does.
STEPS: dict[int, Callable[[Machine], object]] = {
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord("0"): Machine.drop,
    ord("1"): Machine.pop_mark,
    ord("2"): lambda m: m.push(m.top()),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("F"): lambda m: m.push(float(m.line())),
    ord("G"): lambda m: m.push(m.unpack(DOUBLE)),
    ord("I"): Machine.decimal,
    ord("L"): Machine.decimal,
    ord("J"): lambda m: m.push(m.unpack(INT4)),
    ord("K"): lambda m: m.push(m.unpack(UINT1)),
    ord("M"): lambda m: m.push(m.unpack(UINT2)),
    0x8A: lambda m: m.integer(m.unpack(UINT1)),
    0x8B: lambda m: m.integer(m.unpack(UINT4)),
    ord("S"): Machine.refuse_text,
    ord("T"): lambda m: m.old_text(bytes(m.take(m.unpack(INT4)))),
    ord("U"): lambda m: m.old_text(bytes(m.take(m.unpack(UINT1)))),
    ord("V"): Machine.refuse_text,
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
    ord("d"): Machine.dict_of_mark,
    ord("s"): Machine.set_item,
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
    0x93: Machine.stack_global,
    ord("R"): Machine.reduce,
    0x81: Machine.reduce,  # cls.__new__(cls, *args), which is a call here
    0x92: Machine.call_with_names,
    ord("i"): Machine.instance,
    ord("o"): Machine.new_object,
    ord("b"): Machine.build,
    ord("P"): lambda m: m.persistent_id(m.line()),
    ord("Q"): lambda m: m.persistent_id(m.pop()),
    0x80: lambda m: m.take(1),  # the protocol: later ones only add opcodes
    0x95: lambda m: m.take(8),  # a frame's length, for readers that fetch ahead
    **dict.fromkeys((0x82, 0x83, 0x84, 0x97, 0x98), Machine.refuse),
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
