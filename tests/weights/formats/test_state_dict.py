"""The state dict in the content of a file: which one is read, and how the rest is described."""

import numpy as np
import pytest

from paddlemae.weights.formats.state_dict import BFloat16, Opaque, describe, tensors_of

ONE, TWO = {"w": np.ones((2, 3), np.float32)}, {"w": np.zeros(2, np.float16)}
NAMESPACE = Opaque("argparse.Namespace", (), {"lr": 0.1})


def test_the_usual_places_are_found_and_the_rest_is_named() -> None:
    for tree, taken, others in [
        (ONE, "", {}),
        ({"model": ONE}, "model", {}),
        ({"state_dict": ONE, "epoch": 3}, "state_dict", {"epoch": "int"}),
        ({"model_state": ONE, "x": [1, 2]}, "model_state", {"x": "list of 2"}),
        ({"model_state_dict": ONE, "lr": 0.1}, "model_state_dict", {"lr": "float"}),
        ({"module": ONE, "args": NAMESPACE}, "module", {"args": "argparse.Namespace"}),
        ({"state_dict": {"model": ONE, "n": 1}, "m": 2}, "state_dict.model", {"m": "int", "state_dict.n": "int"}),
        ({"model": ONE, "model_ema": TWO}, "model", {"model_ema": "state dict of 1 tensors"}),
        ({"model": ONE, "mean": np.ones(3)}, "model", {"mean": "float64 [3]"}),
        ({"model": ONE, "state_dict": TWO}, "model", {"state_dict": "state dict of 1 tensors"}),
        ({"model": {}, "state_dict": ONE}, "state_dict", {"model": "dict of 0"}),
        ({"model": 7, "state_dict": ONE}, "state_dict", {"model": "int"}),
    ]:
        found = tensors_of(tree)
        assert (found.place, found.others) == (taken, others)
        assert found.tensors["w"] is ONE["w"] and found.dtypes == {"w": "float32"} and not found.skipped


def test_other_places_are_taken_when_asked() -> None:
    tree = {"student": ONE, "teacher": TWO, "ema": {"inner": ONE}}
    with pytest.raises(ValueError, match="name where they are: student, teacher, ema"):
        tensors_of(tree)
    assert tensors_of(tree, "teacher").tensors["w"] is TWO["w"]
    assert tensors_of(tree, "teacher").dtypes == {"w": "float16"}
    assert tensors_of(tree, "ema.inner").place == "ema.inner"
    assert tensors_of({"model": TWO, "model_ema": ONE}, "model_ema").tensors["w"] is ONE["w"]
    with pytest.raises(
        ValueError, match=r"no key .tutor. in the file; .* holds student \(state dict of 1 tensors\), teacher"
    ):
        tensors_of(tree, "tutor")
    with pytest.raises(ValueError, match="^student.w is no state dict but float32"):
        tensors_of(tree, "student.w")


def test_what_is_no_tensor_is_named() -> None:
    found = tensors_of(
        {"w": ONE["w"], "version": 2, "head._extra_state": None, "b": BFloat16(np.array([0x3F80], "u2"))}
    )
    assert found.skipped == {"version": "int", "head._extra_state": "NoneType"}
    assert found.dtypes == {"w": "float32", "b": "bfloat16"}
    assert found.tensors["b"].tolist() == [1.0]


def test_tensors_that_are_not_understood_are_refused() -> None:
    strange = Opaque("torch._utils._rebuild_sparse_tensor", (1, 2))
    with pytest.raises(ValueError, match="head.w was saved as torch._utils._rebuild_sparse_tensor, which is not"):
        tensors_of({**ONE, "head.w": strange})
    with pytest.raises(ValueError, match="w was saved as mine.pack, which is not supported; save it as a plain tensor"):
        tensors_of({"w": Opaque("mine.pack", (np.ones(2),))})


def test_a_tree_without_weights_says_what_it_holds() -> None:
    for tree, message in [
        (None, "the file is no state dict but NoneType"),
        ([ONE], "the file is no state dict but list of 1"),
        (ONE["w"], r"the file is no state dict but float32 \[2, 3\]"),
        ({}, "no weights in the file, it holds nothing"),
        ({"epoch": 3, "args": NAMESPACE}, r"it holds epoch \(int\), args \(argparse.Namespace\); a state dict of"),
        ({"a": {"b": 1}}, "no weights under model, state_dict, .*; name where they are: a"),
        ({"model": {"epoch": 1}}, r"no weights in the file, it holds epoch \(int\)"),
        (Opaque("x.Net", (), {"_parameters": {}}), r"the file is a whole model object \(x.Net\); save its state_dict"),
        ({"net": Opaque("x.Net", (), {"_parameters": {}})}, r"net \(x.Net\) is a whole model object"),
        ({str(i): i for i in range(50)}, r"9 \(int\) and 40 more"),
    ]:
        with pytest.raises(ValueError, match=message) as fault:
            tensors_of(tree)
        assert "\n" not in str(fault.value)


def test_bfloat16_widens_every_value_of_any_layout() -> None:
    bits = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for view in (bits, bits.T, bits[::3, 1::2], bits[5, 5], np.broadcast_to(bits[0], (3, 256))):
        wide = BFloat16(view).to_float32()
        assert wide.dtype == np.float32 and wide.shape == view.shape
        np.testing.assert_array_equal(wide.view(np.uint32), view.astype(np.uint32) << 16)


def test_texts_of_a_file_are_tamed() -> None:
    assert describe(Opaque("evil\nname", ())) == r"evil\nname"
