"""Pickles are read and never run: what they mean, what they may not do, and what they may not cost."""

import collections
import pickle
import struct
import time
import tracemalloc
from argparse import Namespace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from paddlemae.weights.formats import pickle_machine, pickles
from paddlemae.weights.formats.pickle_calls import PLAIN
from paddlemae.weights.formats.pickles import read_pickle
from paddlemae.weights.formats.state_dict import Opaque
from tests.support.weight_files import (
    LAUGHS,
    ORDERED,
    Call,
    Get,
    Global,
    Persistent,
    Put,
    Raw,
    attacks,
    numpy_array,
    opcodes,
    pickled,
)


def read(code: bytes, **named):
    return read_pickle(memoryview(code), functions=PLAIN, **named)[0]


def assert_same(one, other) -> None:
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            assert_same(a, b)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        assert_same(list(one.values()), list(other.values()))
    else:
        assert one == other


PLAIN_VALUES = [
    None,
    [True, False],
    [0, 255, 256, 65535, 65536, -1, 2**31 - 1, -(2**31), 2**63, -(10**30), 2**1000],
    [0.0, 1.5, -1e300, float("inf")],
    ["", "weights", "Gewichte ä 重み", "line\nbreak", "x" * 70_000],
    [b"", b"\x00\xff" * 9],
    ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    {"a": {"b": {1: [2.5]}}, ("x", 1): 2, None: 3, 1.5: 4, b"k": 5},
    {1, 2},
    [1 + 2j, {"s": frozenset([1])}],
    [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 3)), np.array(7)],
    [np.asfortranarray(np.arange(6).reshape(2, 3)), np.array([True, False]), np.arange(3, dtype=">i4")],
    [np.arange(20_000, dtype=dtype) for dtype in (np.float16, np.float64, np.uint8, np.int64, np.complex64)],
    [np.float64(0.1), np.int32(7), np.bool_(True), np.float32(2)],
]


def test_plain_values_and_arrays_come_back() -> None:
    for protocol, place in product(range(1, 6), range(len(PLAIN_VALUES))):
        value = PLAIN_VALUES[place]
        got = read(pickle.dumps(value, protocol))
        if place == 9:  # frozensets are sets here
            assert got == value
        else:
            assert_same(got, value)


def test_mappings_are_dicts() -> None:
    for protocol in range(2, 6):
        ordered = collections.OrderedDict(b=1, a=2)
        ordered._metadata = {"": {"version": 1}}  # as PyTorch's state dicts have
        several = collections.defaultdict(list, {"x": [1]})
        assert_same(read(pickle.dumps([ordered, several], protocol)), [{"b": 1, "a": 2}, {"x": [1]}])


def test_python_2_writes_mappings_as_pairs_and_text_as_bytes() -> None:
    code = b"\x80\x02ccollections\nOrderedDict\nq\x00]q\x01]q\x02(U\x01aq\x03K\x07ea\x85q\x04Rq\x05."
    assert read(code) == {"a": 7}
    assert read(b"\x80\x02T\x02\x00\x00\x00\xff\xfe.") == b"\xff\xfe"


def test_shared_values_stay_shared() -> None:
    array, shared = np.arange(3), ["x"]
    first, second, third = read(pickle.dumps([array, array, {"k": shared, "l": shared}], 4))
    assert first is second and third["k"] is third["l"]


def test_what_follows_a_long_text_is_not_taken_for_it() -> None:
    long, short, shared = "x" * 70_000, "name", ["list"]
    for protocol in (2, 4):
        got = read(pickle.dumps([long, short, shared, {short: shared, "again": long}], protocol))
        assert_same(got, [long, short, shared, {short: shared, "again": long}])


def test_the_texts_that_old_protocols_write_bytes_as_are_not_kept() -> None:
    """The pickler memorises them, and the arguments that they are, though nothing refers to them."""
    array = np.random.default_rng(0).random(1_000_000)
    code = pickle.dumps([array, array[:1]], 2)
    tracemalloc.start()
    got = read(code)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert_same(got, [array, array[:1]])
    assert kept < 1.2 * array.nbytes
    arguments = Put(0, ("x" * 70_000, "latin1"))
    with pytest.raises(ValueError, match="the arguments of an earlier call"):
        read(pickled([arguments, Get(0)]))


def test_long_contents_are_views_and_read_only() -> None:
    code = pickle.dumps({"w": np.arange(100_000.0), "raw": b"a" * 100_000}, 4)
    got = read(code)
    assert np.shares_memory(got["w"], np.frombuffer(code, np.uint8))
    assert not got["w"].flags.writeable and got["raw"].readonly
    assert bytes(got["raw"]) == b"a" * 100_000


def test_objects_become_placeholders_with_all_that_the_file_says() -> None:
    namespace = read(pickle.dumps(Namespace(lr=0.1, betas=[0.9]), 2))
    assert isinstance(namespace, Opaque)
    made = Call(Global("argparse", "Namespace"), (), {"lr": 0.1})
    settings = read(pickled(made))
    assert (settings.name, settings.args, settings.state) == ("argparse.Namespace", (), {"lr": 0.1})
    kind = read(pickled(Global("torch", "float32")))
    assert (kind.name, kind.args) == ("torch.float32", None)
    config = read(pickled(Raw(opcodes(Call(Global("cfg", "Node"), ())) + opcodes("k") + b"K\x05s")))
    assert config.items == [("k", 5)]
    path = read(pickle.dumps(Path("a/b")))
    assert path.name.startswith("pathlib.") and "/".join(path.args) == "a/b"
    assert "lr" not in repr(settings)


def test_nothing_runs(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for name, value in attacks(witness).items():
        for code in (pickled(value), pickled({"model": value})):
            try:
                read(code)
            except ValueError as fault:
                assert "\n" not in str(fault), name
            assert not witness.exists(), name
    # the attacks are real: Python's own reader runs them
    for name in ("os.system", "eval", "INST", "NEWOBJ_EX", "dotted name", "in a list", "setstate by build"):
        try:
            pickle.loads(pickled(attacks(witness)[name]))
        except Exception:
            if name != "NEWOBJ_EX" and name != "setstate by build":
                raise
        else:
            assert witness.exists(), name
            witness.unlink()


def test_a_call_of_a_call_is_no_call() -> None:
    """A placeholder named like a known function must not become it."""
    twice = read(pickled(Call(Call(Global("x", "y"), ()), (1,))))
    assert isinstance(twice, Opaque)
    posing = Call(Global(NUMPY, "_reconstruct"), (ORDERED, (0,), b"b"))
    assert read(pickled(posing)).name == "collections.OrderedDict"
    assert isinstance(read(pickled(Call(posing, ([("a", 1)],)))), Opaque)


def test_nonsense_is_refused() -> None:
    for code, message in [
        (b"", "cut off"),
        (b"\x80\x02]", "cut off"),
        (b"\x80\x02X\xff\xff\xff\xff", "cut off: it claims 4294967295 bytes"),
        (b"\x80\x04\x8e" + b"\xff" * 8, "cut off: it claims"),
        (b"\x80\x04\x96" + struct.pack("<Q", 2**62), "cut off: it claims"),
        (b"\x80\x02T\xff\xff\xff\xff", "cut off: it claims -1 bytes"),
        (b"\x80\x02\xff.", "unknown opcode 0xff at byte 2"),
        (b"\x80\x02.", "nothing to take"),
        (b"(0.", "nothing to take"),
        (b"K\x01(0a.", "nothing"),
        (b"t.", "damaged pickle"),
        (b"h\x07.", "damaged pickle"),
        (b"\x80\x02\x82\x01.", "extension codes"),
        (b"\x80\x02\x83\x01\x00.", "extension codes"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "extension codes"),
        (b"\x80\x05\x97.", "buffers outside"),
        (b"\x80\x05N\x98.", "buffers outside"),
        (b"Pstorage\n.", "refers to data outside"),
        (b"NQ.", "refers to data outside"),
        (b"\x80\x02K\x01K\x02\x93.", "a global whose name is no text"),
        (b"\x80\x02cposix", "no end of line"),
        (b"\x80\x02K\x01)R.", "calls int with tuple"),
        (b"\x80\x02]NR.", "calls list with NoneType"),
        (b"\x80\x02ca\nb\nNR.", "with NoneType"),
        (b"\x80\x02K\x01Nb.", "sets the state of int"),
        (b"\x80\x02)Na.", "appends to tuple"),
        (b"\x80\x02]NNs.", "sets items of list"),
        (b"\x80\x02}(Nu.", "argument 2|damaged"),
        (b"\x80\x04}(N\x90.", "adds to dict"),
        (b"\x80\x02}]Ns.", "a key that is or holds a list"),
        (b"\x80\x02}\x8a\x0a" + b"\x7f" * 10 + b"Ns.", "a key of more than 64 bits"),
        (b"\x80\x02\x8b\x00\x00\x01\x00" + b"\x01" * 65536 + b".", "a number of 65536 bytes"),
        (b"I" + b"9" * 2000 + b"\n.", "no end of line"),
        (b"S'ab'\n.", "protocol 0"),
        (b"Vab\n.", "protocol 0"),
        (b"X\x01\x00\x00\x00\xff.", "damaged pickle|can't decode"),
    ]:
        with pytest.raises(ValueError, match=message) as fault:
            read(code)
        assert "\n" not in str(fault.value)


@pytest.mark.parametrize("end", [1, 10, 20, 50, 100, -1])
def test_every_cut_is_found(end: int) -> None:
    with pytest.raises(ValueError):
        read(pickle.dumps({"w": np.arange(5.0), "n": Namespace(a=1)}, 4)[:end])


NUMPY = "numpy.core.multiarray"


def array_of(shape, code="f4", raw=b"\0" * 8, fortran=False):
    state = (1, shape, Call(Global("numpy", "dtype"), (code, False, True)), fortran, raw)
    return Call(Global(NUMPY, "_reconstruct"), (Global("numpy", "ndarray"), (0,), b"b"), state)


def test_impossible_values_are_refused() -> None:
    for value, message in [
        (array_of((3,)), r"3 x 4 bytes in 8 bytes"),
        (array_of((2**40,)), "in 8 bytes"),
        (array_of((2**62, 4, 0)), "in 8 bytes|too big|array is"),
        (array_of((-2, -1)), "an impossible shape"),
        (array_of(("2",)), "an impossible shape"),
        (array_of((2**62,) * 1000), "an impossible shape"),
        (array_of(LAUGHS), "an impossible shape"),
        (Call(Global("numpy", "dtype"), (LAUGHS,)), "no such call has"),
        (Call(Global("numpy", "dtype"), ("f4",), LAUGHS), "unknown byte order"),
        (Call(Global("_codecs", "encode"), ("x", LAUGHS)), "no such call has: no text"),
        (Call(ORDERED, (LAUGHS,)), "no such call has|key"),
        (Call(ORDERED, ("ab",)), "no such call has"),
        (Call(ORDERED, (numpy_array(np.zeros((9, 2))),)), "no such call has"),
        (Call(Global("builtins", "set"), (numpy_array(np.zeros(9)),)), "no such call has"),
        ({LAUGHS: 1}, "a key that is or holds a tuple"),
        (LAUGHS._replace(code=LAUGHS.code[:-1] + b"\x91"), "a key that is or holds a tuple"),
        (array_of([2]), "an impossible shape"),
        (array_of((2,), raw="text"), "no bytes"),
        (array_of((2,), raw=[1, 2]), "no bytes"),
        (Call(Global(NUMPY, "_reconstruct"), (Global("numpy", "ndarray"), (0,), b"b")), "without contents"),
        (Call(Global(NUMPY, "_reconstruct"), (1, (0,), b"b")), "arguments that no such call has|damaged"),
        (Call(Global(NUMPY, "_reconstruct"), (Global("numpy", "ndarray"), (0,), b"b"), 7), "damaged"),
        (Call(Global("numpy", "dtype"), ("f4",), (3, "!")), "unknown byte order"),
        (Call(Global("_codecs", "encode"), ("x", "rot13")), "no such call has: encoding rot13"),
        (Call(Global("_codecs", "encode"), ("x", "zip")), "no such call has"),
        (Call(Global("builtins", "bytes"), (2**40,)), "no such call has"),
        (Call(Global("builtins", "bytearray"), (2**40,)), "no such call has"),
        (Call(Global("builtins", "complex"), ("1",)), "no such call has"),
        (Call(ORDERED, (7,)), "no such call has"),
        (Call(ORDERED, ([1],)), "no such call has"),
        (Call(Global("builtins", "set"), ([[1]],)), "a key that is or holds a list"),
    ]:
        with pytest.raises(ValueError, match=message) as fault:
            read(pickled(value))
        assert "\n" not in str(fault.value)


def test_arrays_of_objects_and_text_stay_unread() -> None:
    tree = read(pickle.dumps({"o": np.array([print], object), "t": np.array(["a"]), "f": np.ones(2)}, 4))
    assert isinstance(tree["o"], Opaque) and isinstance(tree["t"], Opaque)
    assert "O8" in tree["o"].name
    np.testing.assert_array_equal(tree["f"], np.ones(2))


def test_a_subclass_of_arrays_stays_unread() -> None:
    made = read(pickled(Call(Global(NUMPY, "_reconstruct"), (Global("evil", "array"), (0,), b"b"), {"a": 1})))
    assert made.name == "evil.array" and made.state == {"a": 1}


# Costs


def test_nesting_has_an_end() -> None:
    for code in (b"]" * 50_000 + b"a" * 49_999 + b".", b")" + b"\x85" * 50_000 + b"."):
        with pytest.raises(ValueError, match="nested more than 100 deep"):
            read(code)
    deep = [[]]
    for _ in range(90):
        deep = [deep]
    assert_same(read(pickle.dumps(deep)), deep)


def test_deep_keys_are_not_hashed() -> None:
    with pytest.raises(ValueError, match="a key that is or holds a tuple"):
        read(b"})" + b"\x85" * 100_000 + b"Ns.")


def test_deep_placeholders_are_harmless() -> None:
    tree = read(b"ca\nb\nq\x000N" + b"\x85q\x010h\x00h\x01R" * 50_000 + b".")
    assert isinstance(tree, Opaque)
    del tree


def test_a_tree_that_holds_itself_is_refused() -> None:
    for code in (b"]q\x00h\x00a.", b"}q\x00K\x01h\x00s.", b"]q\x00h\x00\x85a."):
        with pytest.raises(ValueError, match="holds itself"):
            read(code)


def test_a_bomb_of_references_takes_no_time() -> None:
    """Each list holds the one before ten times: 10^50 leaves, 51 lists."""
    value = Put(0, ["x"])
    body = opcodes(value)
    for level in range(50):
        body += opcodes(Put(level + 1, [Get(level)] * 10))
    start = time.monotonic()
    tree = read(b"(" + body + b"l.")
    assert len(tree) == 51 and len(tree[50]) == 10
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "function", [Global("_codecs", "encode"), Global("builtins", "set"), ORDERED, Global("builtins", "bytes")]
)
def test_a_bomb_of_copies_is_stopped(function: Global, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "FREE_BYTES", 2**20)
    long = {"encode": "x" * 60_000, "set": [0] * 60_000, "OrderedDict": [(1, 2)] * 20_000, "bytes": [0] * 60_000}
    bomb = Put(0, long[function.name])
    copies = [Call(function, (Get(0), "latin1") if function.name == "encode" else (Get(0),))] * 100
    with pytest.raises(ValueError, match="beyond the limit|takes more than"):
        read(pickled([bomb, *copies]))


def test_a_bomb_of_long_texts_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "FREE_BYTES", 2**16)
    text = "x" * 100_000
    assert read(pickled([Put(0, text), "y", Get(0)])) == [text, "y", text]
    with pytest.raises(ValueError, match="beyond the limit"):
        read(pickled([Put(0, text), *[Get(0)] * 50]))


def test_a_memo_index_costs_nothing() -> None:
    assert read(pickled([Put(2**32 - 1, 1), Get(2**32 - 1)])) == [1, 1]


def test_steps_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_STEPS", 1000)
    with pytest.raises(ValueError, match="takes more than 1,000 steps"):
        read(b"N0" * 1000 + b".")


def test_messages_stay_on_one_line() -> None:
    name = "évil\x1b[31m" + "x" * 5000
    with pytest.raises(ValueError) as fault:
        read(pickled(Call(Global("_codecs", "encode"), ("x", f"{name}\nnext"))))
    assert "\n" not in str(fault.value) and "\x1b" not in str(fault.value) and len(str(fault.value)) < 300


def test_persistent_ids_are_the_callers_to_judge() -> None:
    assert read(pickled([Persistent((1, "a"))]), persistent=lambda value: ("seen", value)) == [("seen", (1, "a"))]


def test_handmade_arrays_are_numpys() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for latin in (False, True):
        np.testing.assert_array_equal(pickle.loads(pickled(numpy_array(array, latin=latin))), array)
        np.testing.assert_array_equal(read(pickled(numpy_array(array, latin=latin))), array)
