"""The loop: what a step is, when it is not taken, and when training ends."""

from dataclasses import dataclass

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlemae.model.kernels.batch_norm import BatchNorm, running_statistics
from paddlemae.train import loop
from paddlemae.train.adamw import CpuAdamW
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.loop import MOST_DROPPED, FitSettings, NonFiniteLoss, StepResult, fit
from paddlemae.train.parallel.ranks import Ranks


@dataclass
class Numbers:
    """A micro-batch of float32 [B, 3]."""

    images: np.ndarray


def batches(count: int, size: int, seed: int = 0):
    rows = np.random.default_rng(seed).random((count * size, 3), np.float32)
    return iter([Numbers(rows[start : start + size]) for start in range(0, count * size, size)])


def squares(model: nn.Layer, batch: Numbers) -> paddle.Tensor:
    return model(paddle.to_tensor(batch.images)).square().mean()


def new_state(lr: float = 1.0) -> TrainState:
    paddle.seed(0)
    model = nn.Linear(3, 2)
    return TrainState(model, paddle.optimizer.SGD(learning_rate=lr, parameters=model.parameters()))


def weight(state: TrainState) -> np.ndarray:
    return state.model.weight.numpy().copy()


def trained(micro_batches, accumulation_steps: int, total_steps: int) -> tuple[np.ndarray, list[StepResult]]:
    state, results = new_state(), []
    fit(
        state,
        micro_batches,
        squares,
        lambda step: 0.5,
        FitSettings(
            total_steps=total_steps,
            accumulation_steps=accumulation_steps,
            after_step=[lambda state, result: results.append(result)],
        ),
    )
    return weight(state), results


def test_accumulated_micro_batches_are_one_large_batch() -> None:
    """Plain gradient descent, so that weights tell gradients apart by their size as well."""
    at_once, one = trained(batches(2, 8), 1, 2)
    in_parts, four = trained(batches(8, 2), 4, 2)
    np.testing.assert_allclose(in_parts, at_once, atol=1e-6)
    assert np.abs(at_once - weight(new_state())).max() > 1e-2
    assert [result.images for result in four] == [result.images for result in one] == [8, 8]
    np.testing.assert_allclose([r.loss for r in four], [r.loss for r in one], rtol=1e-6)


def test_clipping_is_of_the_accumulated_gradient() -> None:
    def moved(clip_grad: float | None, accumulation_steps: int) -> float:
        state = new_state()
        before = [parameter.numpy().copy() for parameter in state.model.parameters()]
        settings = dict(total_steps=1, accumulation_steps=accumulation_steps, clip_grad=clip_grad)
        fit(state, batches(4, 8 // accumulation_steps), squares, lambda step: 1.0, FitSettings(**settings))
        after = [parameter.numpy() for parameter in state.model.parameters()]
        return float(np.sqrt(sum(np.square(one - other).sum() for one, other in zip(before, after))))

    whole = moved(None, 2)
    assert whole > 0.1 and moved(100.0, 2) == pytest.approx(whole, rel=1e-5)
    assert moved(0.05, 1) == pytest.approx(0.05, rel=1e-4) == moved(0.05, 4)


def test_the_lr_of_each_step_is_the_schedules() -> None:
    state, seen = new_state(), []
    rates = [0.5, 0.25, 0.125]
    hooks = [lambda state, result: seen.append((state.step, result.lr, state.optimizer.get_lr()))]
    fit(state, batches(3, 2), squares, lambda step: rates[step], FitSettings(3, after_step=hooks))
    assert seen == [(1, 0.5, 0.5), (2, 0.25, 0.25), (3, 0.125, 0.125)]


def test_a_resumed_state_takes_only_what_is_left() -> None:
    state, steps = new_state(), []
    state.step = 3
    hooks = [lambda state, result: steps.append(state.step)]
    fit(state, batches(9, 2), squares, lambda step: 0.1, FitSettings(5, after_step=hooks))
    assert steps == [4, 5]


def test_gradients_do_not_leak_into_the_next_step() -> None:
    state = new_state()
    fit(state, batches(1, 4), squares, lambda step: 0.1, FitSettings(1))
    assert all(p.grad is None or not p.grad.numpy().any() for p in state.model.parameters())


POISONED = Numbers(np.full((2, 3), np.nan, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_whose_loss_is_not_finite_is_passed_over(bad: float) -> None:
    """In the first of two micro-batches: the second one belongs to the step too, and must not become the next one's."""
    good, poisoned = list(batches(4, 2)), Numbers(np.full((2, 3), bad, np.float32))
    results: list[StepResult] = []
    expected, _ = trained(iter(good), 2, 2)
    state = new_state()
    fit(
        state,
        iter([good[0], good[1], poisoned, good[0], good[2], good[3]]),
        squares,
        lambda step: 0.5,
        FitSettings(3, accumulation_steps=2, after_step=[lambda state, result: results.append(result)]),
    )
    np.testing.assert_array_equal(weight(state), expected)
    assert [result.dropped for result in results] == [False, True, False]
    assert (state.step, state.dropped, state.dropped_in_a_row) == (3, 1, 0)


@pytest.mark.parametrize("clip_grad", [None, 1.0])
def test_a_gradient_that_is_not_finite_drops_the_step_whole(clip_grad: float | None) -> None:
    """A finite loss with an infinite gradient: the square root's at 0."""
    state, before = new_state(), weight(new_state())

    def loss_fn(model: nn.Layer, batch: Numbers) -> paddle.Tensor:
        return squares(model, batch) + (model.weight * 0).sqrt().sum()

    fit(state, batches(1, 2), loss_fn, lambda step: 0.5, FitSettings(1, clip_grad=clip_grad))
    np.testing.assert_array_equal(weight(state), before)
    assert state.dropped == 1 and state.step == 1


@pytest.mark.parametrize("threads", [None, 1])
def test_running_statistics_of_a_dropped_step_come_back(threads: int | None) -> None:
    paddle.seed(0)
    model = nn.Sequential(nn.Linear(3, 2), BatchNorm(2))
    state = TrainState(model, CpuAdamW([(model.parameters(), 1.0, 0.0)], (0.9, 0.95)))
    good = next(batches(1, 4))
    settings = FitSettings(total_steps=2, threads=threads)
    fit(state, iter([good, Numbers(np.full((4, 3), np.nan, np.float32))]), squares, lambda step: 0.0, settings)
    assert state.dropped == 1
    seen = good.images @ model[0].weight.numpy() + model[0].bias.numpy()
    np.testing.assert_allclose(model[1].running_mean.numpy(), 0.1 * seen.mean(0), rtol=1e-5)


def test_running_statistics_are_averaged_over_the_ranks(monkeypatch) -> None:
    """As if the other of two ranks had statistics of three times the size."""
    model = nn.Sequential(nn.Linear(3, 2), BatchNorm(2))
    statistics = running_statistics(model)
    assert len(statistics) == 2
    statistics[0].set_value(paddle.to_tensor(np.float32([1, 2])))
    ranks = Ranks(rank=0, world=2)
    monkeypatch.setattr(Ranks, "add_up", lambda self, tensors: [tensor.scale_(4.0) for tensor in tensors])
    loop._average(statistics, ranks)
    np.testing.assert_allclose(model[1].running_mean.numpy(), [2, 4])


def test_what_a_dropped_forward_pass_changed_comes_back() -> None:
    """Running statistics follow every batch, bad ones too."""
    state = new_state()
    state.model.register_buffer("running", paddle.zeros([3]))

    def loss_fn(model: nn.Layer, batch: Numbers) -> paddle.Tensor:
        model.running.add_(paddle.to_tensor(batch.images).mean(axis=0))
        return squares(model, batch)

    fit(state, iter([POISONED]), loss_fn, lambda step: 0.5, FitSettings(1))
    assert state.model.running.numpy().tolist() == [0, 0, 0]


def test_bad_steps_in_a_row_end_the_training() -> None:
    state, good = new_state(), next(batches(1, 2))
    stream = iter([POISONED, POISONED, good, *[POISONED] * MOST_DROPPED, good])
    with pytest.raises(NonFiniteLoss, match=r"in 3 steps in a row, the last time in step 5 .lr 0.0312."):
        fit(state, stream, squares, lambda step: 0.03125, FitSettings(9))
    assert np.isfinite(weight(state)).all() and state.dropped == 5


def test_steps_to_pass_over_are_not_computed() -> None:
    state, seen = new_state(), []
    state.passed_over = {1}
    fit(state, batches(3, 2), lambda m, b: seen.append(1) or squares(m, b), lambda step: 0.1, FitSettings(3))
    assert len(seen) == 2 and state.dropped == 1


def test_the_norm_is_of_the_whole_gradient_before_clipping() -> None:
    norms = []
    for clip_grad in (None, 0.05):
        results: list[StepResult] = []
        hooks = [lambda state, result, results=results: results.append(result)]
        fit(
            new_state(),
            batches(1, 8),
            squares,
            lambda s: 0.1,
            FitSettings(1, clip_grad=clip_grad, after_step=hooks),
        )
        norms.append(results[0].grad_norm)
    model = new_state().model
    squares(model, next(batches(1, 8))).backward()
    expected = float(np.sqrt(sum(np.square(one.grad.numpy()).sum() for one in model.parameters())))
    assert norms == [pytest.approx(expected, rel=1e-5)] * 2


def test_float16_is_refused_on_cpu() -> None:
    with pytest.raises(ValueError, match="precision float16 has no effect on CPU; use float32"):
        fit(new_state(), batches(1, 2), squares, lambda step: 0.1, FitSettings(1, precision="float16"))


def test_training_ends_between_two_steps_when_asked() -> None:
    state = new_state()
    taken: list[int] = []
    fit(
        state,
        batches(9, 2),
        squares,
        lambda step: 0.1,
        FitSettings(
            total_steps=9,
            after_step=[lambda state, result: taken.append(state.step)],
            should_stop=lambda: len(taken) == 2,
        ),
    )
    assert taken == [1, 2] and state.step == 2


def test_the_model_is_in_training_mode() -> None:
    state = new_state()
    state.model.eval()
    modes: list[bool] = []
    fit(
        state,
        batches(1, 2),
        lambda m, b: modes.append(m.training) or squares(m, b),
        lambda step: 0.1,
        FitSettings(1),
    )
    assert modes == [True]
