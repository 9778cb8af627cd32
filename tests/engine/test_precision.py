"""bfloat16 on a CPU: refused in one line where it can't be computed; weights are rounded once, for this thread only."""

import threading
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemae.engine import device, onednn_primitives, precision, products
from paddlemae.engine.precision import bfloat16_products, check_precision, convert, operands
from tests.support.bfloat16 import in_bfloat16, needs_avx512
from tests.support.python_process import python

CHECK = """
import os
os.environ.update({variables})
from paddlemae.engine import device, precision
device.prepare("cpu", threads=1)
precision.check_precision("bfloat16")
"""


def answer_of_a_process(**variables: str) -> str:
    return python(CHECK.format(variables=variables)).stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("emulates", ["0", "1"])
def test_an_older_processor_is_refused(emulates: str) -> None:
    """AVX2 has no bfloat16, not even in software."""
    line = answer_of_a_process(ONEDNN_MAX_CPU_ISA="AVX2", PADDLEMAE_EMULATE_BFLOAT16=emulates)
    assert "needs a CPU with AVX512_BF16 or AMX_BF16, and this one has AVX2" in line and "use float32" in line


def test_it_needs_onednn() -> None:
    line = answer_of_a_process(PADDLEMAE_PRODUCTS="paddle", PADDLEMAE_EMULATE_BFLOAT16="1")
    assert "PADDLEMAE_PRODUCTS is paddle" in line and "use float32" in line
    assert "AVX" in answer_of_a_process(ONEDNN_MAX_CPU_ISA="SSE41", PADDLEMAE_EMULATE_BFLOAT16="1")


@pytest.mark.parametrize(
    ("instructions", "emulates", "allowed"),
    [
        (onednn_primitives.AVX512, None, False),
        (onednn_primitives.AVX512, "0", False),
        (onednn_primitives.AVX512, "1", True),
        (onednn_primitives.AVX512_BF16, None, True),
        (0xFFFF, None, True),
    ],
)
def test_the_processor_decides(monkeypatch, instructions: int, emulates: str | None, allowed: bool) -> None:
    device.prepare("cpu", threads=1)
    monkeypatch.setattr(onednn_primitives.Library, "has", lambda self, wanted: instructions & wanted == wanted)
    monkeypatch.delenv(precision.EMULATE, raising=False)
    if emulates:
        monkeypatch.setenv(precision.EMULATE, emulates)
    if allowed:
        check_precision("bfloat16")
    else:
        with pytest.raises(ValueError, match="has AVX-512 without either .*; use float32") as fault:
            check_precision("bfloat16")
        assert "\n" not in str(fault.value)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn_primitives, "library_path", lambda name: Path("/nowhere") / name)
    monkeypatch.setattr(onednn_primitives, "library", onednn_primitives.Library)
    before = products.by_onednn()
    products.choose()
    with pytest.raises(ValueError, match="libdnnl"):
        check_precision("bfloat16")
    products.use_onednn(before)


def test_half_precision_is_left_to_accelerators(monkeypatch) -> None:
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    check_precision("bfloat16")
    check_precision("float16")
    assert precision.weights_for("bfloat16") is None
    with pytest.raises(ValueError, match="must be one of float32, bfloat16, float16, got 'float64'"):
        check_precision("float64")


@needs_avx512
def test_conversion_rounds_to_the_nearest_even(bfloat16_allowed) -> None:
    numbers = np.array([1.0, -2.5, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3e38, 1e-38, 0.0, np.inf], np.float32)
    x = paddle.to_tensor(numbers)
    half = convert(x, paddle.bfloat16)
    assert half.dtype == paddle.bfloat16 and convert(half, paddle.bfloat16) is half
    expected = [1.0, -2.5, 1.0, 1 + 2**-6, 1 + 2**-7]
    assert convert(half, paddle.float32).numpy()[:5].tolist() == expected
    assert (convert(half, paddle.float32).numpy() == x.astype("bfloat16").astype("float32").numpy()).all()
    assert np.isnan(convert(convert(paddle.to_tensor([np.nan]), paddle.bfloat16), paddle.float32).numpy()).all()


@needs_avx512
def test_a_weight_is_rounded_once_until_it_changes(bfloat16_allowed) -> None:
    layer = paddle.nn.Linear(3, 4)
    assert operands(layer.weight)[0] is layer.weight
    with in_bfloat16() as weights:
        (first,) = operands(layer.weight)
        assert operands(layer.weight)[0] is first and len(weights.kept) == 1
        part = layer.weight.split(2, axis=1)[0]
        assert operands(part)[0] is not operands(part)[0] and len(weights.kept) == 1, "its memory is not a weight's own"
        layer.weight.set_value(paddle.ones([3, 4]))
        weights.clear()
        assert (operands(layer.weight)[0].astype("float32").numpy() == 1).all()
        with bfloat16_products(None):
            assert operands(layer.weight)[0] is layer.weight
        other: list = []
        thread = threading.Thread(target=lambda: other.extend(operands(layer.weight)))
        thread.start()
        thread.join()
        assert other[0] is layer.weight, "other threads are not concerned"
    assert operands(layer.weight)[0] is layer.weight
