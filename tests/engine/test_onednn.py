"""oneDNN's primitives compute what NumPy does, for any sizes and strides, and are refused where they can't be had."""

import ctypes
import functools
import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemae.engine import mkl, onednn, onednn_primitives, products
from paddlemae.engine.onednn_primitives import FLOAT32, Layout, dense, transpose
from paddlemae.engine.safe_import import matrix_library
from paddlemae.engine.threads import product_threads
from tests.support.python_process import python

SIZES = (1, 2, 5, 17, 64)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def close(got, expected: np.ndarray, where: object = "") -> None:
    assert np.abs(got - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max()), where


@pytest.fixture(params=["oneDNN", "MKL"])
def library(request, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let one library compute all products that both can."""
    if request.param == "MKL" and matrix_library() is None:
        pytest.skip("this Paddle build has no MKL")
    monkeypatch.setattr(mkl, "_is_faster", lambda *layouts: request.param == "MKL")
    onednn_primitives._thread().primitives.clear()
    yield request.param
    onednn_primitives._thread().primitives.clear()


@pytest.mark.parametrize(("transposes_left", "transposes_right"), list(product((False, True), repeat=2)))
def test_products_of_matrices(library: str, transposes_left: bool, transposes_right: bool) -> None:
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
        onednn.matmul(*layouts, dense(m, n), accumulates=True)(*addresses)
        close(out.numpy(), 2 * (left @ right), (m, k, n))
        for extra in (1, 2):  # bias, and a sum
            prepared = onednn.matmul(*layouts, dense(m, n), True, 1.0, dense(m, n) if extra == 2 else None)
            prepared(*addresses, *[each.data_ptr() for each in more[:extra]])
            close(out.numpy(), left @ right + bias + (added if extra == 2 else 0), (m, k, n))
        prepared = onednn.matmul(*layouts, dense(m, n), True, 0.5, dense(m, n))
        prepared(*addresses, *[each.data_ptr() for each in more])
        close(out.numpy(), 0.5 * (left @ right + bias) + added, (m, k, n))


@pytest.mark.parametrize("tokens", [2, 3, 17])
def test_products_of_heads_in_rows_of_projections(library: str, tokens: int) -> None:
    images, heads, width = 3, 2, 5
    row = 3 * heads * width
    rows, scale = numbers(images, tokens, row), width**-0.5
    part = Layout((images, heads, tokens, width), (tokens * row, width, row, 1), FLOAT32)
    shares, mixed = dense(images, heads, tokens, tokens), Layout(part.sizes, (tokens * row // 3, width, row // 3, 1))
    query, key, value = rows.reshape(images, tokens, 3, heads, width).transpose(2, 0, 3, 1, 4)
    tensor, scores, out = (
        paddle.to_tensor(each) for each in (rows, np.zeros(shares.sizes, "f4"), rows[..., : row // 3])
    )
    first, second, third = (tensor.data_ptr() + 4 * heads * width * number for number in range(3))
    onednn.matmul(part, transpose(part), shares, False, scale)(first, second, scores.data_ptr())
    close(scores.numpy(), scale * query @ key.swapaxes(-1, -2))
    onednn.matmul(shares, part, mixed)(scores.data_ptr(), third, out.data_ptr())
    expected = scores.numpy() @ value
    close(out.numpy(), expected.transpose(0, 2, 1, 3).reshape(out.shape))
    onednn.matmul(transpose(shares), mixed, part)(scores.data_ptr(), out.data_ptr(), first)
    found = tensor.numpy().reshape(images, tokens, 3, heads, width).transpose(2, 0, 3, 1, 4)
    close(found[0], scores.numpy().swapaxes(-1, -2) @ expected)
    close(found[1], key)  # what lies between the results stays as it is


def test_the_library_is_chosen_by_instructions_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With AVX-512 MKL computes long sums into large weights only; without it, all that it can."""

    def chosen(*layouts: Layout) -> str:
        return "MKL" if mkl.product(*layouts, 1.0, False) else "oneDNN"

    def sum_of_rows(rows: int, width: int) -> tuple[Layout, ...]:
        return transpose(dense(rows, width)), dense(rows, width), dense(width, width)

    heads = dense(2, 3, 4, 4)
    narrow = [each._replace(kind=onednn_primitives.BFLOAT16) for each in sum_of_rows(4096, 1024)]
    for has_avx512, wanted in ((True, "oneDNN"), (False, "MKL")):
        monkeypatch.setattr(onednn_primitives.Library, "has", lambda library, bits, has=has_avx512: has)
        assert chosen(heads, heads, heads) == chosen(dense(64, 64), dense(64, 64), dense(64, 64)) == wanted
        assert [chosen(*sum_of_rows(2048, width)) for width in (256, 512)] == [wanted, "MKL"]
        assert [chosen(*sum_of_rows(2047, width)) for width in (512, 1024)] == [wanted, "MKL"]
        assert chosen(dense(1, 2048), dense(2048, 1024), dense(1, 1024)) == chosen(*narrow) == "oneDNN"
    monkeypatch.setattr(mkl, "matrix_library", lambda: None)
    assert chosen(*sum_of_rows(2048, 1024)) == "oneDNN"


@pytest.mark.parametrize("prepare", [onednn.softmax_gradient, onednn._softmax_gradient_in_steps])
def test_the_slope_of_softmax(prepare) -> None:
    for rows, width in ((1, 1), (3, 2), (40, 17), (7, 197)):
        shares, gradient = np.exp(numbers(rows, width)), numbers(rows, width, seed=1)
        shares /= shares.sum(1, keepdims=True)
        tensors = paddle.to_tensor(shares), paddle.to_tensor(gradient), paddle.zeros([rows, width])
        expected = shares * (gradient - (shares * gradient).sum(1, keepdims=True))
        first, second, third = (each.data_ptr() for each in tensors)
        prepare(rows, width)(first, second, third)
        close(tensors[2].numpy(), expected, (rows, width))
        prepare(rows, width)(first, second, second)
        close(tensors[1].numpy(), expected, (rows, width))


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
    blas = matrix_library()
    if blas is None:
        pytest.skip("this Paddle build has no MKL, whose OpenMP oneDNN shares")

    def openmp_threads() -> int:
        onednn.gelu(16)
        return int(blas.omp_get_max_threads())

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


@functools.cache
def trained(**variables: str) -> list:
    """Return what `TRAIN` prints in a new process with some variables of the environment."""
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
