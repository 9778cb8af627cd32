"""AdamW on CPU is Paddle's own in every step, whatever comes in pieces or in parts, and goes on where it was."""

import numpy as np
import paddle
import pytest

from paddlemae.train import adamw
from paddlemae.train.adamw import CpuAdamW, flat_view

BETAS = (0.9, 0.95)
CLOSE = 1e-6  # relative to the largest magnitude
SHAPES = [(7, 5), (3,), (1, 1, 4)]


def parameters() -> list:
    rng = np.random.default_rng(0)
    made = []
    for shape in SHAPES:
        made.append(paddle.create_parameter(list(shape), "float32"))
        made[-1].set_value(rng.normal(size=shape).astype(np.float32))
    return made


def gradients(step: int) -> list[paddle.Tensor]:
    rng = np.random.default_rng((1, step))
    return [paddle.to_tensor(rng.normal(size=shape).astype(np.float32)) for shape in SHAPES]


def ours(weights: list) -> CpuAdamW:
    return CpuAdamW([(weights[:1], 1.0, 0.05), (weights[1:], 0.5, 0.0)], BETAS)


def train(optimizer, weights: list, steps: range) -> list[np.ndarray]:
    for step in steps:
        optimizer.set_lr(1e-2 / (step + 1))
        for weight, gradient in zip(weights, gradients(step)):
            weight.grad = gradient
        optimizer.step()
        optimizer.clear_grad()
    return [weight.numpy() for weight in weights]


def assert_close(mine: list[np.ndarray], theirs: list[np.ndarray], close: float = CLOSE) -> None:
    for one, other in zip(mine, theirs, strict=True):
        assert np.abs(one - other).max() <= close * np.abs(other).max()


@pytest.mark.parametrize("piece", [1 << 16, 4])
def test_it_takes_paddles_steps(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamw, "PIECE", piece)
    mine, theirs = parameters(), parameters()
    groups = [
        {"params": theirs[:1], "learning_rate": 1.0, "weight_decay": 0.05},
        {"params": theirs[1:], "learning_rate": 0.5, "weight_decay": 0.0},
    ]
    paddles = paddle.optimizer.AdamW(parameters=groups, beta1=BETAS[0], beta2=BETAS[1], epsilon=adamw.EPSILON)
    assert_close(train(ours(mine), mine, range(20)), train(paddles, theirs, range(20)))


def test_parts_of_a_gradient_are_added_up() -> None:
    mine, theirs = parameters()[0], parameters()[0]
    whole = gradients(0)[0]
    for weight, parts in ((mine, [whole * 0.25, whole * 0.5, whole * 0.25]), (theirs, [whole])):
        optimizer = CpuAdamW([([weight], 1.0, 0.0)], BETAS)
        optimizer.set_lr(1e-2)
        optimizer.update(weight, parts)
    assert_close([mine.numpy()], [theirs.numpy()])


def test_gradients_are_left_as_they_are() -> None:
    weight = parameters()[0]
    parts = [gradients(0)[0], gradients(1)[0]]
    before = [part.numpy().copy() for part in parts]
    optimizer = CpuAdamW([([weight], 1.0, 0.0)], BETAS)
    optimizer.update(weight, parts)
    assert all((part.numpy() == old).all() for part, old in zip(parts, before))


def test_a_parameter_without_a_gradient_keeps_its_value_and_slots() -> None:
    weights = parameters()
    optimizer = ours(weights)
    optimizer.set_lr(1e-2)
    weights[0].grad = gradients(0)[0]
    before = [weight.numpy().copy() for weight in weights]
    optimizer.step()
    assert (weights[0].numpy() != before[0]).all()
    assert all((weight.numpy() == old).all() for weight, old in zip(weights[1:], before[1:]))
    assert optimizer.slots[weights[1].name].powers == adamw.as_saved(*BETAS)


def test_saved_slots_go_on_bitwise() -> None:
    straight, stopped, resumed = parameters(), parameters(), parameters()
    expected = train(ours(straight), straight, range(6))
    first = ours(stopped)
    for weight, value in zip(resumed, train(first, stopped, range(3))):
        weight.set_value(value)
    second = ours(resumed)
    names = [(old.name, new.name) for old, new in zip(stopped, resumed)]
    saved = first.state_dict()
    slots = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")
    second.set_state_dict({f"{new}_{slot}_0": saved[f"{old}_{slot}_0"] for old, new in names for slot in slots})
    assert all((one == other).all() for one, other in zip(train(second, resumed, range(3, 6)), expected))


def test_a_flat_view_is_the_tensors_own_memory() -> None:
    tensor = paddle.to_tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    flat_view(tensor, 6)[4] = 10
    assert tensor.numpy().tolist() == [[0, 1, 2], [3, 10, 5]]
