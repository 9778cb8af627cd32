"""The faster linear layer is Paddle's own in its outputs and in every gradient."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddlemae.model.kernels import Linear, linear

CLOSE = 1e-5  # relative to the largest magnitude


def tensors(shape: list[int], *, input_trains: bool) -> list[paddle.Tensor]:
    """x, weight [5, 3] and bias [3], leaves with gradients of their own."""
    rng = np.random.default_rng(0)
    values = [paddle.to_tensor(rng.normal(size=size).astype(np.float32)) for size in (shape, (5, 3), (3,))]
    for value, trains in zip(values, (input_trains, True, True)):
        value.stop_gradient = not trains
    return values


def run(layer, shape: list[int], *, input_trains: bool) -> list[np.ndarray]:
    """Output, then the gradients of a loss that weighs every output differently."""
    leaves = tensors(shape, input_trains=input_trains)
    output = layer(*leaves)
    weights = paddle.to_tensor(np.random.default_rng(1).normal(size=output.shape).astype(np.float32))
    (output * weights).sum().backward()
    return [output.numpy()] + [leaf.grad.numpy() for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize("input_trains", [True, False])
@pytest.mark.parametrize("shape", [[7, 5], [2, 7, 5], [2, 3, 4, 5], [1, 5]])
def test_outputs_and_gradients_are_paddles_own(shape: list[int], input_trains: bool) -> None:
    got, wanted = (run(layer, shape, input_trains=input_trains) for layer in (linear, F.linear))
    assert len(got) == len(wanted) == (4 if input_trains else 3)
    for mine, theirs in zip(got, wanted):
        assert mine.shape == theirs.shape
        assert np.abs(mine - theirs).max() <= CLOSE * np.abs(theirs).max()


@pytest.mark.parametrize("frozen", [1, 2])
def test_a_frozen_weight_or_bias_gets_no_gradient_and_the_others_theirs(frozen: int) -> None:
    def gradients(layer) -> list:
        leaves = tensors([4, 5], input_trains=True)
        leaves[frozen].stop_gradient = True
        layer(*leaves).square().sum().backward()
        return [leaf.grad for leaf in leaves]

    for number, (mine, theirs) in enumerate(zip(gradients(linear), gradients(F.linear))):
        if number == frozen:
            assert mine is None and theirs is None
        else:
            np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=CLOSE, atol=CLOSE)


def test_gradients_flow_through_a_chain_of_layers() -> None:
    """The input of the second layer needs a gradient, though the pixels of the first don't."""
    paddle.seed(0)
    first, second = Linear(5, 4), Linear(4, 3)
    plain = paddle.nn.Sequential(paddle.nn.Linear(5, 4), paddle.nn.GELU(), paddle.nn.Linear(4, 3))
    for mine, theirs in zip([*first.parameters(), *second.parameters()], plain.parameters()):
        theirs.set_value(mine)
    pixels = tensors([6, 5], input_trains=False)[0]
    second(F.gelu(first(pixels))).square().mean().backward()
    plain(pixels).square().mean().backward()
    for mine, theirs in zip([*first.parameters(), *second.parameters()], plain.parameters()):
        assert np.abs((mine.grad - theirs.grad).numpy()).max() <= CLOSE * np.abs(theirs.grad.numpy()).max()


def test_without_gradients_the_output_is_the_same_and_needs_none() -> None:
    x, weight, bias = tensors([4, 5], input_trains=True)
    with paddle.no_grad():
        output = linear(x, weight, bias)
    assert output.stop_gradient
    assert (output.numpy() == F.linear(x, weight, bias).numpy()).all()
