"""Pickles of the hostile corpus, within files of every format: code to run, nonsense for the machine, and bombs."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.weight_files import (
    FLOATS,
    MB,
    NUMPY,
    ORDERED,
    RAW,
    WEIGHTS,
    Call,
    Get,
    Global,
    Put,
    Raw,
    attacks,
    opcodes,
    pickled,
    row,
    torch_legacy,
    torch_zip,
)

Made = tuple[str, bytes, str]  # name, content, how opening it ends


# Code


def code(witness: Path) -> Iterator[Made]:
    for name, value in {**attacks(witness), **more_attacks(witness)}.items():
        zipped, legacy = {"model": {"w": row(24)}, "x": value}, {"model": {"w": row(24, legacy=True)}, "x": value}
        yield f"zip, next to weights: {name}", torch_zip(zipped, {"0": RAW}), "loaded"
        yield f"legacy, next to weights: {name}", torch_legacy(legacy, {"0": FLOATS}), "loaded"
        yield f"pickle, next to weights: {name}", pickled({"model": {"w": WEIGHTS}, "x": value}), "loaded"
        plain = row(24)
        for place, made in {
            "storage": plain._replace(args=(value, *plain.args[1:])),
            "size": plain._replace(args=(*plain.args[:2], value, (1,))),
        }.items():
            yield f"zip, as a tensor's {place}: {name}", torch_zip({"w": made, "v": plain}, {"0": RAW}), "refused"
        yield f"pickle, as an array's state: {name}", pickled({"w": array_of_state(value)}), "refused"
        yield f"pickle, whole: {name}", pickled(value), "refused"


def array_of_state(state: Any) -> Call:
    return Call(Global(NUMPY, "_reconstruct"), (Global("numpy", "ndarray"), (0,), b"b"), state)


def more_attacks(witness: Path) -> dict[str, Any]:
    """Return calls by way of whatever Python, NumPy and PyTorch have that runs, loads or writes something."""
    text, touch = str(witness), f"open({str(witness)!r}, 'w').close()"
    shell = f"touch {witness}"
    imported = Call(Global("builtins", "__import__"), ("os",))
    inner = b"cos\nsystem\nX" + struct.pack("<I", len(shell)) + shell.encode() + b"\x85R."
    return {
        "import and getattr": Call(Call(Global("builtins", "getattr"), (imported, "system")), (shell,)),
        "attrgetter": Call(Call(Global("operator", "attrgetter"), ("system",)), (imported,)),
        "partial": Call(Call(Global("functools", "partial"), (Global("os", "system"), shell)), ()),
        "map over a list": Call(
            Global("builtins", "list"), (Call(Global("builtins", "map"), (Global("os", "system"), [shell])),)
        ),
        "compiled code": Call(Global("builtins", "exec"), (Call(Global("builtins", "compile"), (touch, "x", "exec")),)),
        "marshalled function": Call(
            Call(Global("types", "FunctionType"), (Call(Global("marshal", "loads"), (b"\xe3",)), {})), ()
        ),
        "copyreg": Call(Global("copyreg", "_reconstructor"), (Global("os", "system"), Global("os", "system"), shell)),
        "a pickle in a pickle": Call(Global("pickle", "loads"), (inner,)),
        "torch's pickled storage": Call(Global("torch.storage", "_load_from_bytes"), (inner,)),
        "torch.load": Call(Global("torch", "load"), (text,)),
        "torch.hub": Call(Global("torch.hub", "load"), ("a/b", "c")),
        "rebuilt from a type": Call(
            Global("torch._tensor", "_rebuild_from_type_v2"),
            (Global("os", "system"), Global("torch", "Tensor"), (shell,), {}),
        ),
        "module of numpy that runs text": Call(Global("numpy.testing._private.utils", "runstring"), (touch, {})),
        "pathlib writes": Call(
            Global("pathlib", "Path.write_text"), (Call(Global("pathlib", "PosixPath"), (text,)), "x")
        ),
        "timeit": Call(Global("timeit", "timeit"), (touch,)),
        "pty": Call(Global("pty", "spawn"), (["touch", text],)),
        "profiler": Call(Global("cProfile", "run"), (touch,)),
        "debugger": Call(Global("bdb", "Bdb.run"), (Call(Global("bdb", "Bdb"), ()), touch)),
        "ctypes": Call(Global("ctypes", "CDLL"), ("libc.so.6",)),
        "socket": Call(Global("socket", "create_connection"), (("127.0.0.1", 9),)),
        "browser": Call(Global("webbrowser", "open"), ("http://127.0.0.1:9/",)),
        "removal": Call(Global("shutil", "rmtree"), (text,)),
        "exit": Call(Global("os", "_exit"), (3,)),
        "signal": Call(Global("os", "kill"), (0, 9)),
        "input": Call(Global("builtins", "input"), ()),
        "a codec": Call(Global("_codecs", "lookup"), ("zlib_codec",)),
        "OrderedDict's state": Call(ORDERED, (), {"__class__": Global("os", "system")}),
        "attributes by slots": Call(
            Global("argparse", "Namespace"), (), (None, {"__setattr__": Global("os", "system")})
        ),
    }


# The machine that pickles are programs for


def machine() -> Iterator[Made]:
    good = opcodes({"w": WEIGHTS})

    def with_weights(junk: bytes) -> bytes:  # a value next to good weights
        return b"\x80\x02}(X\x05\x00\x00\x00model" + good + b"X\x01\x00\x00\x00x" + junk + b"u."

    nonsense = {
        "EXT1": b"\x82\x01",
        "EXT2": b"\x83\x01\x00",
        "EXT4": b"\x84\x01\x00\x00\x00",
        "a buffer outside": b"\x97",
        "a read-only buffer": b"N\x98",
        "PERSID": b"Pid\n",
        "BINPERSID": b"NQ",
        "protocol 0 text": b"S'a'\n",
        "protocol 0 unicode": b"Va\n",
        "unknown opcode": b"\xff",
        "tuple without a mark": b"000t",
        "LONG4 of 2 GB": b"\x8b\xff\xff\xff\x7f",
        "LONG4 of -1": b"\x8b\xff\xff\xff\xff",
        "LONG4 of 64 KB": b"\x8b\x00\x00\x01\x00" + b"\1" * 65536,
        "BINUNICODE of 4 GB": b"X\xff\xff\xff\xff",
        "BINUNICODE8 of 2^63": b"\x8d" + struct.pack("<Q", 2**63),
        "BINBYTES8 of 2^64": b"\x8e" + b"\xff" * 8,
        "BYTEARRAY8 of 2^62": b"\x96" + struct.pack("<Q", 2**62),
        "BINSTRING of -1": b"T\xff\xff\xff\xff",
        "unknown memo": b"j\xff\xff\xff\xff",
        "text memo": b"gxyz\n",
        "GLOBAL without an end": b"c" + b"os" * 3000,
        "INST of nothing": b"ios\nsystem\n",
        "OBJ of nothing": b"(o",
        "STACK_GLOBAL of numbers": b"K\x01K\x02\x93",
        "REDUCE of a number": b"K\x01)R",
        "APPEND to a tuple": b")Na",
        "SETITEM to a list": b"]NNs",
        "SETITEMS of one": b"}(Nu",
        "ADDITEMS to a dict": b"}(N\x90",
        "BUILD of a number": b"K\x01Nb",
        "list as a key": b"}]Ns",
        "dict in a set": b"\x8f(}\x90",
        "number of 2000 digits": b"I" + b"9" * 2000 + b"\n",
        "text that is no UTF-8": b"X\x01\x00\x00\x00\xff",
        "no number": b"Fabc\n",
        "holds itself": b"]\x94h\x00a]q\x09h\x09a",
        "key of 10 bytes": b"}\x8a\x0a" + b"\x7f" * 10 + b"Ns",
    }
    for name, junk in nonsense.items():
        yield name, with_weights(junk), "refused"
    yield "FRAME of 2^64", with_weights(b"\x95" + b"\xff" * 8 + b"N"), "loaded"
    yield "memo of 2^32 - 1", with_weights(b"Nr\xff\xff\xff\xff"), "loaded"
    yield "protocol 255 within", with_weights(b"\x80\xffN"), "loaded"
    yield (
        "a known function's memo overwritten",
        pickled(
            [
                Put(1, Global("collections", "OrderedDict")),
                Put(1, Global("os", "system")),
                Call(Get(1), ("ls",)),
                WEIGHTS,
            ]
        ),
        "refused",
    )
    yield "ends before its value", b"\x80\x02" + good[:-1], "refused"
    yield "POP of a mark and of a key", with_weights(b"(00"), "loaded"
    yield "two values", b"\x80\x02" + good + good + b".", "loaded"
    yield "stops at once", b"\x80\x02.", "refused"
    yield "more after the end", pickled({"w": WEIGHTS}) + b"x", "refused"


# Bombs


def bombs() -> Iterator[Made]:
    laughs = b"(" + opcodes(Put(0, ["x"])) + b"".join(opcodes(Put(n + 1, [Get(n)] * 10)) for n in range(50)) + b"l"
    tuples = b"(" + opcodes(Put(0, ("x",))) + b"".join(opcodes(Put(n + 1, (Get(n),) * 10)) for n in range(50)) + b"t"
    weights = {"w": WEIGHTS}
    for name, junk, ends in (
        ("billion laughs of lists", laughs, "loaded"),
        ("billion laughs of tuples", tuples, "loaded"),
        ("laughs as a key", b"}" + tuples + b"Ns", "refused"),
        ("laughs as a set", tuples[:-1] + b"\x91", "refused"),
        ("laughs as a mapping's pairs", opcodes(Call(ORDERED, (Raw(tuples),))), "refused"),
        ("laughs as a dtype", opcodes(Call(Global("numpy", "dtype"), (Raw(tuples),))), "refused"),
        ("laughs as a codec", opcodes(Call(Global("_codecs", "encode"), ("x", Raw(tuples)))), "refused"),
        ("lists 100,000 deep", b"]" * 100_000 + b"a" * 99_999, "refused"),
        ("tuples 100,000 deep", b")" + b"\x85" * 100_000, "refused"),
        ("dicts 100,000 deep", b"}" * 100_000 + b"0" * 99_999, "loaded"),
        ("placeholders 30,000 deep", b"ca\nb\nq\x000N" + b"\x85q\x010h\x00h\x01R" * 30_000, "loaded"),
        ("states 100,000 deep", b"ca\nb\n" * 20_000 + b"b" * 19_999, "loaded"),
        ("a mark 200,000 times", b"(" * 200_000 + b"1" * 200_000 + b"N", "loaded"),
        ("1,000,000 steps", b"N0" * 500_000 + b"N", "refused"),
        ("1,000,000 sets", b"(" + b"\x8f" * 1_000_000 + b"l", "refused"),
        ("1,000,000 dicts", b"(" + b"}" * 1_000_000 + b"l", "refused"),
        ("200,000 numbers", b"(" + b"M\x00\x10" * 200_000 + b"l", "loaded"),
        ("500,000 placeholders", b"(" + b"ca\nb\n" * 500_000 + b"l", "refused"),
        ("500,000 memo entries", b"N" + b"\x94" * 500_000, "refused"),
        ("a long text 200 times", opcodes([Put(0, "x" * MB), *[Get(0)] * 200]), "refused"),
        ("a text of wide letters 60 times", opcodes([Put(0, "x" * MB + "\U0001f600"), *[Get(0)] * 60]), "refused"),
        ("12 texts of wide letters", opcodes(["x" * MB + "\U0001f600"] * 12), "loaded"),
        ("60,000 short texts of wide letters", opcodes(["x" * 900 + "\U0001f600"] * 60_000), "refused"),
        (
            "encoded 100 times",
            opcodes([Put(0, "x" * MB), *[Call(Global("_codecs", "encode"), (Get(0), "latin1"))] * 100]),
            "refused",
        ),
        (
            "a set made 300 times",
            opcodes([Put(0, ["a"] * 50_000), *[Call(Global("builtins", "set"), (Get(0),))] * 300]),
            "refused",
        ),
        (
            "a mapping made 300 times",
            opcodes([Put(0, [("a", 1)] * 50_000), *[Call(ORDERED, (Get(0),))] * 300]),
            "refused",
        ),
        (
            "bytes made 300 times",
            opcodes([Put(0, [0] * 50_000), *[Call(Global("builtins", "bytes"), (Get(0),))] * 300]),
            "refused",
        ),
        ("bytes of a number", opcodes(Call(Global("builtins", "bytes"), (2**40,))), "refused"),
        ("bytearray of a number", opcodes(Call(Global("builtins", "bytearray"), (2**40,))), "refused"),
        ("a codec that inflates", opcodes(Call(Global("_codecs", "encode"), ("x", "zlib_codec"))), "refused"),
        ("keys of equal hash", equal_hashes(), "refused"),
        (
            "a set of equal hashes",
            b"\x8f(" + b"".join(opcodes(n * (2**61 - 1) + 7) for n in range(-7, 8)) * 20_000 + b"\x90",
            "refused",
        ),
        (
            "100,000 numbers as keys",
            b"}(" + b"".join(b"J" + struct.pack("<i", n) + b"N" for n in range(100_000)) + b"u",
            "refused",
        ),
        ("array of 2^62 numbers", opcodes(array_of_state((1, (2**62,), dtype("f4"), False, b"\0" * 8))), "refused"),
        (
            "array of 2^62 x 0 numbers",
            opcodes(array_of_state((1, (2**62, 2**62, 0), dtype("f4"), False, b""))),
            "refused",
        ),
        (
            "array of 1000 dimensions",
            opcodes(array_of_state((1, (1,) * 1000, dtype("f4"), False, b"\0" * 4))),
            "refused",
        ),
        (
            "array of objects",
            opcodes(array_of_state((1, (1,), dtype("O8"), False, [Global("os", "system")]))),
            "loaded",
        ),
        ("array of voids", opcodes(array_of_state((1, (1,), dtype("V2147483647"), False, b""))), "loaded"),
    ):
        yield name, pickled({"model": weights, "x": Raw(junk)}), ends
    shared = Put(7, {f"k{n}": None for n in range(20_000)})
    many = {"model": weights, "first": shared, **{f"s{n}": Get(7) for n in range(20_000)}}
    yield "a dict named by 20,000 keys", pickled(many), "loaded"
    call = Put(7, Call(Global("a", "b"), tuple([None] * 20_000)))
    yield (
        "a call named by 20,000 keys",
        pickled({"w": WEIGHTS, "c": call, **{f"s{n}": Get(7) for n in range(20_000)}}),
        "loaded",
    )
    deep: Any = weights
    for _ in range(99):
        deep = {"model": deep, **{f"x{n}": n for n in range(50)}}
    yield "wrappers 100 deep", pickled({"model": deep}), "refused"
    sliced = {"w": {"OriginShape": (2**40,), "slices": ["a"] * 10_000}}
    yield "slices named many times", pickled({"a": WEIGHTS, "UnpackBigParamInfor@@": sliced}), "refused"
    huge = {"w": {"OriginShape": (2**62, 2**62), "slices": ["a"]}}
    yield "slices of absurd shape", pickled({"a": WEIGHTS, "UnpackBigParamInfor@@": huge}), "refused"


def dtype(name: str) -> Call:
    return Call(Global("numpy", "dtype"), (name, False, True), (3, "<", None, None, None, -1, -1, 0))


def equal_hashes() -> bytes:
    """Return a dict whose keys, tuples of powers of 2^61, all have one hash: filling it takes quadratic time."""
    powers = b"".join(b"G" + struct.pack(">d", 2.0 ** (61 * n)) + bytes([ord("q"), n]) + b"0" for n in range(16))
    keys = (b"".join(b"h" + bytes([n >> shift & 15]) for shift in (0, 4, 8, 12)) for n in range(40_000))
    return powers + b"}(" + b"".join(b"(" + key + b"tN" for key in keys) + b"u"
