"""Convolutions, resizing, pooling and batch norm of maps whose channels come last, against Paddle's own."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddlemae.model.heads.layers import ConvolutionBlock, Upsampling, halved
from paddlemae.model.kernels import placement, rows
from paddlemae.model.kernels.batch_norm import EPSILON, BatchNorm
from paddlemae.model.kernels.convolution import convolution, resized_convolution
from paddlemae.model.kernels.grids import change_grid, to_pixels

SIZES = [(3, 5), (4, 4), (1, 1), (1, 6), (7, 2)]


def random(*shape: int, seed: int = 0) -> paddle.Tensor:
    tensor = paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))
    tensor.stop_gradient = False
    return tensor


def first(x: paddle.Tensor) -> paddle.Tensor:
    """Put channels in front of places."""
    return x.transpose([0, 3, 1, 2])


def last(x: paddle.Tensor) -> paddle.Tensor:
    return x.transpose([0, 2, 3, 1])


def compare(got: paddle.Tensor, wanted: paddle.Tensor, *inputs: paddle.Tensor) -> None:
    """Compare outputs, and the gradients of a sum that weighs each output by another number."""
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got.numpy(), wanted.numpy(), atol=2e-5 * max(1, np.abs(wanted.numpy()).max()))
    weights = random(*got.shape, seed=9).detach()
    for one, other in zip(*(paddle.grad((x * weights).sum(), inputs, retain_graph=True) for x in (got, wanted))):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=5e-5 * max(1, np.abs(other.numpy()).max()))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_convolution_is_paddles(size, batch: int) -> None:
    x, weight = random(batch, *size, 4), random(9, 4, 6, seed=1)
    kernel = weight.reshape([3, 3, 4, 6]).transpose([3, 2, 0, 1])
    compare(convolution(x, weight), last(F.conv2d(first(x), kernel, padding=1)), x, weight)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("new", [(6, 8), (3, 5), (2, 9)])
def test_a_resized_convolution_is_a_resize_and_a_convolution(size, new) -> None:
    x, weight = random(2, *size, 4), random(9, 4, 6, seed=1)
    kernel = weight.reshape([3, 3, 4, 6]).transpose([3, 2, 0, 1])
    resized = F.interpolate(first(x), size=new, mode="bilinear", align_corners=False)
    compare(resized_convolution(x, weight, new), last(F.conv2d(resized, kernel, padding=1)), x, weight)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("new", [(6, 8), (3, 5), (2, 9), (1, 1)])
def test_grids_are_resized_and_pooled_as_paddle_does(size, new) -> None:
    x = random(2, *size, 4)
    resized = F.interpolate(first(x), size=new, mode="bilinear", align_corners=False)
    if new != (1, 1):  # for which Paddle takes the first place, PyTorch and we the middle
        compare(change_grid(x, new), last(resized), x)
        compare(to_pixels(x, new), resized, x)
    compare(change_grid(x, new, "pooling"), last(F.adaptive_avg_pool2d(first(x), new)), x)


def test_an_upsampling_is_a_transposed_convolution() -> None:
    layer, x = Upsampling(4, 3), random(2, 3, 5, 4)
    layer.bias.set_value(random(3, seed=2))
    kernel = layer.weight.reshape([4, 2, 2, 3]).transpose([0, 3, 1, 2])
    wanted = F.conv2d_transpose(first(x), kernel, layer.bias, stride=2)
    compare(layer(x), last(wanted), x, layer.weight, layer.bias)


@pytest.mark.parametrize(("size", "new"), [((4, 6), (2, 3)), ((5, 3), (2, 1)), ((1, 4), (1, 2)), ((1, 1), (1, 1))])
def test_halving_takes_the_largest_of_four(size, new) -> None:
    x = random(2, *size, 4)
    wanted = x.numpy()[:, : new[0] * 2, : new[1] * 2]
    high, wide = (2 if side > 1 else 1 for side in size)
    wanted = wanted.reshape(2, new[0], high, new[1], wide, 4).max(axis=(2, 4))
    np.testing.assert_array_equal(halved(x).numpy(), wanted)


@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_is_the_formula(relu: bool, monkeypatch) -> None:
    layer, x = BatchNorm(4, relu=relu), random(2, 3, 5, 4)
    x.set_value(x * 3 + 2)
    layer.weight.set_value(random(4, seed=1))
    layer.bias.set_value(random(4, seed=2))
    got = layer(x)
    numbers = x.numpy().reshape(-1, 4)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * numbers.mean(0), rtol=1e-4)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.9 + 0.1 * numbers.var(0, ddof=1), rtol=1e-4)
    monkeypatch.setattr(placement, "on_cpu", lambda x: False)
    compare(got, layer(x), x, layer.weight, layer.bias)
    layer.eval()
    mean, variance = layer.running_mean.numpy(), layer.running_var.numpy()
    wanted = (x.numpy() - mean) / np.sqrt(variance + EPSILON) * layer.weight.numpy() + layer.bias.numpy()
    monkeypatch.undo()
    for trains in (True, False):
        with paddle.set_grad_enabled(trains):
            np.testing.assert_allclose(layer(x).numpy(), np.maximum(wanted, 0) if relu else wanted, atol=1e-5)


def test_a_convolution_trains_on_what_needs_no_gradient() -> None:
    x, weight = random(2, 3, 5, 4), random(9, 4, 6, seed=1)
    gradients = []
    for maps in (x, x.detach()):
        convolution(maps, weight).square().sum().backward()
        gradients.append(weight.grad.numpy().copy())
        weight.clear_gradient(set_to_zero=False)
    np.testing.assert_array_equal(*gradients)


def test_batch_norm_takes_half_precision_and_computes_in_float32(monkeypatch) -> None:
    monkeypatch.setattr(placement, "on_cpu", lambda x: False)
    layer, x = BatchNorm(4), random(2, 3, 5, 4).detach().astype("bfloat16")
    wanted = BatchNorm(4)(x.astype("float32")).numpy()
    out = layer(x)
    assert out.dtype == layer.running_mean.dtype == paddle.float32
    np.testing.assert_array_equal(out.numpy(), wanted)


def test_batch_norm_of_many_rows_is_done_in_pieces(monkeypatch) -> None:
    monkeypatch.setattr(rows, "PIECE", 40)
    layer, x = BatchNorm(4, relu=True), random(2, 3, 5, 4)
    layer.bias.set_value(random(4, seed=2))
    got = layer(x)
    layer.running_mean.set_value(paddle.zeros([4]))
    monkeypatch.setattr(placement, "on_cpu", lambda x: False)
    compare(got, layer(x), x, layer.weight, layer.bias)


def test_a_block_that_is_not_trained_passes_gradients_on() -> None:
    block, x = ConvolutionBlock(4, 6), random(2, 3, 5, 4)
    for parameter in block.parameters():
        parameter.stop_gradient = True
    block(x).sum().backward()
    assert np.abs(x.grad.numpy()).max() > 0
