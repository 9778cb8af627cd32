"""LARS by hand, and as a checkpoint's optimizer."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlemae.model.probe import ProbeHead
from paddlemae.train.checkpoint import TrainState, load_checkpoint
from paddlemae.train.lars import Lars
from paddlemae.weights.model_folder import Description
from tests.support.train_states import save_checkpoint


def parameter(values) -> paddle.Tensor:
    array = np.asarray(values, np.float32)
    one = paddle.create_parameter(list(array.shape), "float32")
    one.set_value(array)
    return one


def with_gradient(one: paddle.Tensor, gradient) -> None:
    one.clear_grad()
    (one * paddle.to_tensor(np.asarray(gradient, np.float32))).sum().backward()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_the_formulas(weight_decay: float) -> None:
    """Against the paper's algorithm 1, written out in float64, over three steps of another lr each."""
    rng = np.random.default_rng(0)
    values = {"matrix": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}
    mine = {name: parameter(value) for name, value in values.items()}
    optimizer = Lars(mine.values(), momentum=0.9, weight_decay=weight_decay, trust=0.01)
    velocity = {name: np.zeros_like(value) for name, value in values.items()}
    for lr in (0.5, 2.0, 0.1):
        optimizer.set_lr(lr)
        for name, value in values.items():
            gradient = rng.normal(size=value.shape)
            with_gradient(mine[name], gradient)
            if name == "matrix":
                gradient = gradient + weight_decay * value
                gradient = gradient * 0.01 * np.linalg.norm(value) / np.linalg.norm(gradient)
            velocity[name] = 0.9 * velocity[name] + gradient
            values[name] = value - lr * velocity[name]
        optimizer.step()
        optimizer.clear_grad()
    for name, value in values.items():
        np.testing.assert_allclose(mine[name].numpy(), value, rtol=1e-5, atol=1e-6)


def test_where_a_norm_is_nothing_the_step_is_the_gradients() -> None:
    for value, gradient in [(np.zeros((2, 2)), np.ones((2, 2))), (np.ones((2, 2)), np.zeros((2, 2)))]:
        one = parameter(value)
        optimizer = Lars([one])
        optimizer.set_lr(0.5)
        with_gradient(one, gradient)
        optimizer.step()
        np.testing.assert_array_equal(one.numpy(), value - 0.5 * gradient)


def test_what_has_no_gradient_stays() -> None:
    one, other = parameter([[1.0]]), parameter([[2.0]])
    optimizer = Lars([one, other])
    optimizer.set_lr(1.0)
    with_gradient(one, [[1.0]])
    optimizer.step()
    assert other.item() == 2.0 and one.item() != 1.0


def test_a_checkpoint_restores_weights_velocity_and_statistics(tmp_path: Path) -> None:
    def state() -> TrainState:
        paddle.seed(3)
        head = ProbeHead(4, 3)
        return TrainState(head, Lars(head.parameters()))

    def step(one: TrainState, seed: int) -> None:
        one.optimizer.set_lr(1.0)
        features = np.random.default_rng(seed).normal(2, 3, (8, 4)).astype(np.float32)
        nn.functional.cross_entropy(one.model(paddle.to_tensor(features)), paddle.arange(8) % 3).backward()
        one.optimizer.step()
        one.optimizer.clear_grad()
        one.step += 1

    description = Description("probe", {}, [0.5], [0.5], 1.0)
    first = state()
    step(first, 0)
    saved = save_checkpoint(tmp_path, first, description)
    step(first, 1)
    second = state()
    load_checkpoint(saved, second)
    step(second, 1)
    for (name, mine), (_, theirs) in zip(first.model.state_dict().items(), second.model.state_dict().items()):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy(), err_msg=name)
    assert np.abs(first.model.state_dict()["head.0.running_mean"].numpy()).max() > 0.1, "else nothing was brought back"
