"""Blocks whose primitives are prepared compute what the halves of a block do."""

import threading
from collections.abc import Iterator

import numpy as np
import paddle
import pytest

from paddlemae.engine import products
from paddlemae.model import blocks as module
from paddlemae.model.blocks import build_blocks, run_blocks
from paddlemae.model.kernels import prepared_blocks

RELATIVE = 1e-5


@pytest.fixture(autouse=True)
def by_onednn() -> Iterator[None]:
    if reason := products.reason_against():
        pytest.skip(reason)
    before = products.by_onednn()
    products.use_onednn(True)
    yield
    products.use_onednn(before)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that gets, for each call, whether blocks were prepared."""
    found, original = [], module.run_prepared

    def run_prepared(blocks, *arguments):
        out = original(blocks, *arguments)
        found.append(out is not None)
        return out

    monkeypatch.setattr(module, "run_prepared", run_prepared)
    return found


def layers_of(depth: int = 3, width: int = 32, **options) -> paddle.nn.LayerList:
    paddle.seed(0)
    layers = build_blocks(depth, width, 4, 4.0, **options)
    for parameter in layers.parameters():
        parameter.set_value(0.2 * paddle.randn(parameter.shape))
    return layers


def tokens(images: int = 5, count: int = 7, width: int = 32) -> paddle.Tensor:
    x_BND = paddle.randn([images, count, width])
    x_BND.stop_gradient = False
    return x_BND


def gradients_of(layers, x_BND, token_range=None) -> list[np.ndarray]:
    """Return output and gradients of a sum whose weights differ, and forget the gradients."""
    out = run_blocks(layers, x_BND, token_range)
    weights = np.random.default_rng(0).normal(size=out.shape).astype(np.float32)
    (out * paddle.to_tensor(weights)).sum().backward()
    tensors = [x_BND, *layers.parameters()]
    found = [out.numpy(), *(tensor.grad.numpy() for tensor in tensors)]
    for tensor in tensors:
        tensor.clear_gradient(False)
    return found


def by_halves(monkeypatch: pytest.MonkeyPatch, *arguments) -> list[np.ndarray]:
    with monkeypatch.context() as patched:
        patched.setattr(module, "run_prepared", lambda *_: None)
        return gradients_of(*arguments)


@pytest.mark.parametrize("token_range", [None, (2, 7), (0, 3), (1, 5), (0, 1)])
def test_output_and_gradients_are_those_of_the_halves(monkeypatch, calls, token_range) -> None:
    layers, x_BND = layers_of(), tokens()
    first, again = (gradients_of(layers, x_BND, token_range) for _ in range(2))
    assert calls == [True, True]
    for mine, repeated, theirs in zip(first, again, by_halves(monkeypatch, layers, x_BND, token_range), strict=True):
        np.testing.assert_array_equal(mine, repeated)
        np.testing.assert_allclose(mine, theirs, rtol=RELATIVE, atol=RELATIVE * np.abs(theirs).max())


def test_a_second_forward_pass_leaves_the_first_one_s_numbers_alone(monkeypatch, calls) -> None:
    layers, one, other = layers_of(), tokens(), tokens()
    wanted = by_halves(monkeypatch, layers, one)
    out = run_blocks(layers, one)
    run_blocks(layers, other)
    weights = np.random.default_rng(0).normal(size=out.shape).astype(np.float32)
    (out * paddle.to_tensor(weights)).sum().backward()
    np.testing.assert_allclose(one.grad.numpy(), wanted[1], rtol=RELATIVE, atol=RELATIVE)
    assert all(calls)


def test_gradients_of_several_batches_add_up(calls) -> None:
    layers, one, other = layers_of(), tokens(), tokens()
    (weight, *_), parts = layers.parameters(), []
    for batches in ([one], [other], [one, other]):
        for x_BND in batches:
            run_blocks(layers, x_BND).square().sum().backward()
        parts.append(weight.grad.numpy().copy())
        layers.clear_gradients()
    np.testing.assert_allclose(parts[0] + parts[1], parts[2], rtol=RELATIVE, atol=1e-5 * np.abs(parts[2]).max())
    assert all(calls)


def test_threads_do_not_disturb_each_other(calls) -> None:
    pairs = [(layers_of(), tokens()) for _ in range(2)]
    wanted = [gradients_of(*pair) for pair in pairs]
    found: dict[int, list[list[np.ndarray]]] = {0: [], 1: []}
    barrier = threading.Barrier(2)

    def run(number: int) -> None:
        paddle.set_device("cpu")
        barrier.wait()
        found[number] = [gradients_of(*pairs[number]) for _ in range(20)]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        for repeated in found[number]:
            for mine, theirs in zip(repeated, wanted[number], strict=True):
                np.testing.assert_array_equal(mine, theirs)  # says how far apart they are
    assert [len(each) for each in found.values()] == [20, 20] and all(calls)


def test_moved_weights_are_read_where_they_are(calls) -> None:
    layers, x_BND = layers_of(depth=1), tokens()
    before = gradients_of(layers, x_BND)
    layers.set_state_dict({name: 2 * value for name, value in layers.state_dict().items()})
    assert not np.array_equal(before[0], gradients_of(layers, x_BND)[0]) and all(calls)


def test_what_is_not_prepared_is_left_to_the_halves(calls, monkeypatch) -> None:
    layers = layers_of()
    for x_BND in (tokens(count=1), tokens().detach()):
        run_blocks(layers, x_BND)
    with paddle.no_grad():
        run_blocks(layers, tokens())
    monkeypatch.setattr(prepared_blocks, "MOST_HIDDEN", 1000)
    run_blocks(layers, tokens())
    run_blocks(layers, tokens(), (2, 3), inputs=[])
    run_blocks(layers, tokens(), noise_BL2=paddle.rand([5, 3, 2]))
    assert calls == [False] * 4
    seen = []
    layers[0].register_forward_pre_hook(lambda layer, inputs: seen.append(len(inputs)))
    run_blocks(layers, tokens())
    assert seen == [1]
    frozen = layers_of()
    frozen[1].norm1.weight.stop_gradient = True
    run_blocks(frozen, tokens()).sum().backward()
    assert calls[-1] is False and frozen[1].norm1.weight.grad is None
