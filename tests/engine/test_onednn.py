"""oneDNN's primitives compute what NumPy does, for any sizes and strides, and are refused where they can't be had."""

import ctypes
import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemae.engine import onednn, onednn_primitives, products
from paddlemae.engine.onednn_primitives import dense, transpose
from paddlemae.engine.safe_import import matrix_library
from paddlemae.engine.threads import product_threads
from tests.support.python_process import python

SIZES = (1, 2, 5, 17, 64)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def close(got, expected: np.ndarray, where: object = "") -> None:
    assert np.abs(got - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max()), where


@pytest.mark.parametrize(("transposes_left", "transposes_right"), list(product((False, True), repeat=2)))
def test_products_of_matrices(transposes_left: bool, transposes_right: bool) -> None:
    for m, k, n in product(SIZES, repeat=3):
        left, right, bias, added = numbers(m, k), numbers(k, n, seed=1), numbers(n, seed=2), numbers(m, n, seed=3)
        tensors = [
            paddle.to_tensor(np.ascontiguousarray(each.T) if transposes else each)
            for each, transposes in ((left, transposes_left), (right, transposes_right))
        ]
        layouts = [
            transpose(dense(*each.shape)) if transposes else dense(*each.shape)
            for each, transposes in zip(tensors, (transposes_left, transposes_right))
        ]
        out, more = paddle.zeros([m, n]), [paddle.to_tensor(bias), paddle.to_tensor(added)]
        addresses = [each.data_ptr() for each in (*tensors, out)]
        onednn.matmul(*layouts, dense(m, n))(*addresses)
        close(out.numpy(), left @ right, (m, k, n))
        prepared = onednn.matmul(*layouts, dense(m, n), True, 0.5, dense(m, n))
        prepared(*addresses, *[each.data_ptr() for each in more])
        close(out.numpy(), 0.5 * (left @ right + bias) + added, (m, k, n))


def test_the_exact_gelu_and_its_slope() -> None:
    x, gradient = numbers(1000) * 4, numbers(1000, seed=1)
    tensors = [paddle.to_tensor(x), paddle.to_tensor(gradient), paddle.zeros([1000])]
    onednn.gelu(1000)(tensors[0].data_ptr(), tensors[2].data_ptr())
    cumulative = np.array([0.5 * math.erfc(-each / math.sqrt(2)) for each in x])
    close(tensors[2].numpy(), x * cumulative)
    onednn.gelu_gradient(1000)(*[tensors[number].data_ptr() for number in (0, 1, 1)])
    slope = cumulative + x * np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi)
    close(tensors[1].numpy(), gradient * slope)


def test_softmax_of_large_and_of_missing_numbers() -> None:
    x = numbers(4, 7) * 1e4
    x[3, 2] = np.nan
    tensor = paddle.to_tensor(x)
    onednn.softmax(4, 7)(tensor.data_ptr(), tensor.data_ptr())
    shifted = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    close(tensor.numpy()[:3], (shifted / shifted.sum(axis=1, keepdims=True))[:3])
    assert np.isnan(tensor.numpy()[3]).any(), "a loss shows it"


def test_threads_have_their_own_primitives_and_give_the_same() -> None:
    left, right = paddle.to_tensor(numbers(300, 200)), paddle.to_tensor(numbers(200, 100, seed=1))
    outs = [paddle.zeros([300, 100]) for _ in range(4)]

    def multiply(out: paddle.Tensor) -> None:
        for _ in range(50):
            onednn.matmul(dense(300, 200), dense(200, 100), dense(300, 100))(
                left.data_ptr(), right.data_ptr(), out.data_ptr()
            )

    threads = [threading.Thread(target=multiply, args=(out,)) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((out.numpy() == outs[0].numpy()).all() for out in outs)
    close(outs[0].numpy(), left.numpy() @ right.numpy())
    with product_threads(2):
        multiply(outs[1])
    close(outs[1].numpy(), outs[0].numpy())


def test_other_threads_compute_with_as_many_openmp_threads() -> None:
    mkl = matrix_library()
    if mkl is None:
        pytest.skip("this Paddle build has no MKL, whose OpenMP oneDNN shares")

    def openmp_threads() -> int:
        onednn.gelu(16)
        return int(mkl.omp_get_max_threads())

    with product_threads(3):
        assert openmp_threads() == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(openmp_threads).result() == 3


def test_kept_primitives_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn_primitives, "KEPT", 4)
    x = paddle.to_tensor(numbers(100))
    onednn_primitives._thread().primitives.clear()
    for size in (*range(1, 20), *range(1, 20)):
        onednn.gelu(size)(x.data_ptr(), x.data_ptr())
    assert len(onednn_primitives._thread().primitives) == 4


TRAIN = """
import json, numpy as np
from paddlemae.engine import device, products
device.prepare("cpu", threads=1)
import paddle
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.masking import random_mask
paddle.seed(0)
model = MaskedAutoencoder(image_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, decoder_embed_dim=12,
                          decoder_depth=2, decoder_num_heads=2)
rng = np.random.default_rng(0)
mask = random_mask(rng.random((4, 16)), 4)
loss = model(paddle.to_tensor(rng.normal(size=(4, 3, 16, 16)).astype("float32")), mask)
loss.backward()
norm = sum(float((each.grad ** 2).sum().numpy()) for each in model.parameters() if each.grad is not None) ** 0.5
print(json.dumps([products.description(), float(loss.numpy()), norm]))
"""


def trained(**variables: str) -> list:
    done = python(f"import os\nos.environ.update({variables})\n{TRAIN}")
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("isa", ["SSE41", "AVX", "AVX2", "AVX512_CORE", "AVX512_CORE_BF16", "nonsense"])
def test_older_processors_compute_the_same(isa: str) -> None:
    reason, *wanted = trained(PADDLEMAE_PRODUCTS="paddle")
    assert reason.startswith("paddle (")
    library, *got = trained(ONEDNN_MAX_CPU_ISA=isa)
    assert library.startswith("paddle (" if isa in ("SSE41", "AVX") else "onednn")
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_an_unknown_choice_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(products.VARIABLE, "mkl")
    with pytest.raises(ValueError, match="must be one of auto, onednn, paddle, got 'mkl'"):
        products.choose()


@pytest.mark.parametrize("version", [(3, 5, 0), (4, 6, 2)])
def test_another_version_is_left_alone_with_a_reason(version: tuple[int, int, int], monkeypatch) -> None:
    monkeypatch.setattr(onednn_primitives, "library", onednn_primitives.Library)
    monkeypatch.setattr(onednn_primitives, "VERSION", version[:2])
    assert "3.6" in products.description()
    monkeypatch.setattr(onednn_primitives, "VERSION", (3, 6))
    assert products.description() == "onednn"


def test_a_missing_library_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn_primitives, "library_path", lambda name: Path("/nowhere") / name)
    monkeypatch.setattr(onednn_primitives, "library", onednn_primitives.Library)
    before = products.by_onednn()
    products.choose()
    assert not products.by_onednn()
    assert "libdnnl" in products.description() and "\n" not in products.description()
    products.use_onednn(before)


def test_structures_are_as_wide_as_in_the_header() -> None:
    assert ctypes.sizeof(onednn_primitives._Argument) == 16
