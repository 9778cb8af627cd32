"""The training loop: micro-batches to optimizer steps, for any model and any loss."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import paddle
from paddle import nn

from paddlemae.train.checkpoint import TrainState
from paddlemae.train.optim import clip_gradients
from paddlemae.train.shards import LossFn, sharded

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS = get_args(Precision)


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did: mean loss of its micro-batches, lr, images seen and seconds taken.

    `waiting` is the part of `seconds` in which no micro-batch was there to train on.
    """

    loss: float
    lr: float
    images: int
    seconds: float
    waiting: float


class NonFiniteLoss(FloatingPointError):
    """The loss became infinite or not a number; the step was not taken."""


def check_precision(precision: Precision) -> None:
    """Raise a ValueError for a precision that this device can't train in.

    On CPU Paddle accepts bfloat16 and float16 and then silently computes in float32.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision != "float32" and paddle.get_device() == "cpu":
        raise ValueError(f"precision {precision} has no effect on CPU; use precision=float32, or an accelerator")


def autocast(precision: Precision):
    """Paddle's autocast for bfloat16 and float16; nothing for float32."""
    return nullcontext() if precision == "float32" else paddle.amp.auto_cast(dtype=precision, level="O1")


def fit(
    state: TrainState,
    batches: Iterator[Any],
    loss_fn: LossFn,
    lr: Callable[[int], float],
    *,
    total_steps: int,
    threads: int | None = None,
    replicas: int | None = None,
    save_memory: bool = False,
    accumulation_steps: int = 1,
    precision: Precision = "float32",
    clip_grad: float | None = None,
    after_step: Sequence[Callable[[TrainState, StepResult], None]] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train from `state.step` to `total_steps`.

    Args:
        state: changed in place.
        batches: micro-batches with `images`, starting at the one that `state.step` needs.
        loss_fn: (model, micro-batch) -> mean loss.
        lr: optimizer step -> lr.
        threads: CPU threads that share each micro-batch, see `shards`; None computes it whole, as accelerators want.
        replicas, save_memory: see `shards`; without effect where `threads` is None.
        accumulation_steps: micro-batches a step; their losses are averaged.
        precision: "float32", or "bfloat16"/"float16" autocast on accelerators.
        clip_grad: largest gradient norm, over all parameters together.
        after_step: called in order after each step.
        should_stop: asked after each step; when true, training ends between two steps.
    Raises:
        NonFiniteLoss: the weights are those before the step.
        ValueError: a precision that the device can't do.
    """
    check_precision(precision)
    scaler = paddle.amp.GradScaler() if precision == "float16" else None
    if scaler and state.scaler:
        scaler.load_state_dict(state.scaler)
    if threads is None:
        backward: Any = nullcontext(_Whole(state.model, loss_fn, precision, scaler))
    else:
        backward = sharded(
            state.model, state.optimizer, loss_fn, threads=threads, replicas=replicas, save_memory=save_memory
        )
    state.model.train()
    with backward as gradients:
        while state.step < total_steps and not should_stop():
            started = time.perf_counter()
            step_lr = lr(state.step)
            state.optimizer.set_lr(step_lr)
            loss, images, waiting = 0.0, 0, 0.0
            for number in range(1, accumulation_steps + 1):
                asked = time.perf_counter()
                batch = next(batches)
                waiting += time.perf_counter() - asked
                images += len(batch.images)
                update = number == accumulation_steps and not clip_grad
                loss += gradients.add(batch, 1 / accumulation_steps, update=update) / accumulation_steps
                _check_finite(loss, step_lr, state)
            _update(state, clip_grad, scaler)
            if state.ema:
                state.ema.update(state.model)
            state.step += 1
            seconds = time.perf_counter() - started
            state.seconds += seconds
            for hook in after_step:
                hook(state, StepResult(loss, step_lr, images, seconds, waiting))


class _Whole:
    """A micro-batch's gradient at once, in the device's own kernels; the interface is that of `shards.Shards`."""

    def __init__(self, model: nn.Layer, loss_fn: LossFn, precision: Precision, scaler: paddle.amp.GradScaler | None):
        self.model, self.loss_fn, self.precision, self.scaler = model, loss_fn, precision, scaler

    def add(self, batch, share: float, *, update: bool) -> float:
        with autocast(self.precision):
            mean = self.loss_fn(self.model, batch)
            part = mean * share
        loss = float(mean.numpy())
        if math.isfinite(loss):
            (self.scaler.scale(part) if self.scaler else part).backward()
        return loss


def _check_finite(loss: float, step_lr: float, state: TrainState) -> None:
    if not math.isfinite(loss):
        state.optimizer.clear_grad()
        raise NonFiniteLoss(
            f"the loss became {loss} at step {state.step} (lr {step_lr:.3g}); last good checkpoint: "
            f"{state.last_checkpoint or 'none yet'}; try a lower base_lr, a longer warmup or clip_grad=1"
        )


def _update(state: TrainState, clip_grad: float | None, scaler: paddle.amp.GradScaler | None) -> None:
    """The optimizer's step; of weights that were updated while gradients still arrived, nothing is left to do."""
    if scaler and clip_grad:
        scaler.unscale_(state.optimizer)
    if clip_grad:
        clip_gradients(state.model, clip_grad)
    if scaler:
        scaler.step(state.optimizer)
        scaler.update()
        state.scaler = scaler.state_dict()
    else:
        state.optimizer.step()
    state.optimizer.clear_grad()


@contextmanager
def stop_on_interrupt():
    """Turn the first Ctrl-C into a flag that `fit` reads between two steps; a second one interrupts at once.

    Yields:
        a `threading.Event`, set by the first Ctrl-C.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def remember(signum, frame):
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
