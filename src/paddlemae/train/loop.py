"""The training loop: micro-batches to optimizer steps, for any model and any loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from paddlemae.engine.precision import Precision, autocast, bfloat16_products, check_precision, weights_for
from paddlemae.engine.safe_import import paddle
from paddlemae.model.kernels.batch_norm import running_statistics
from paddlemae.train.checkpoint import TrainState, is_shared_out
from paddlemae.train.optim import clip_gradients
from paddlemae.train.parallel.loss_layer import Loss, LossFn
from paddlemae.train.parallel.ranks import ALONE, Ranks
from paddlemae.train.parallel.threads import sharded

MOST_DROPPED = 3  # steps in a row


@dataclass(frozen=True)
class StepResult:
    """Result of one optimizer step: mean loss of its micro-batches, lr, images seen and seconds taken.

    `waiting` is the part of `seconds` in which no micro-batch was there to train on, `grad_norm` the norm of the whole
    gradient before clipping. A dropped step changed no weight, and its loss or norm is not a number.
    """

    loss: float
    lr: float
    images: int
    seconds: float
    waiting: float
    grad_norm: float = math.nan
    dropped: bool = False


class NonFiniteLoss(FloatingPointError):
    """Loss or gradient were infinite or not a number in too many steps in a row; none of them was taken."""


class TornStep(Exception):
    """A gradient was not finite when some weights were updated already: the state must be loaded again.

    Attributes:
        step: the one to pass over then (`TrainState.passed_over`).
    """

    def __init__(self, step: int):
        super().__init__(f"a gradient of step {step} was not finite after some weights had been updated")
        self.step = step


@dataclass(frozen=True)
class FitSettings:
    """How `fit` computes its steps.

    Attributes:
        total_steps: optimizer steps after which the training ends.
        threads: CPU threads that share each micro-batch, see `sharded`; None computes it whole, as accelerators want.
        replicas, save_memory: see `sharded`; without effect where `threads` is None.
        accumulation_steps: micro-batches a step; their losses are averaged.
        precision: "float32"; "bfloat16"; or "float16", on accelerators only. See `engine.precision`.
        clip_grad: largest gradient norm, over all parameters together.
        ranks: the processes that train together, each on micro-batches of its own of the same size. Losses and
            gradients are means over all of them, so all take the same steps.
        overlap: ranks average gradients during the backward pass, where `threads` is None; Paddle can't
            where the model recomputes its blocks.
        after_step: called in order after each step.
        should_stop: asked after each step; when true, training ends between two steps.
    """

    total_steps: int
    threads: int | None = None
    replicas: int | None = None
    save_memory: bool = False
    accumulation_steps: int = 1
    precision: Precision = "float32"
    clip_grad: float | None = None
    ranks: Ranks = ALONE
    overlap: bool = True
    after_step: Sequence[Callable[[TrainState, StepResult], None]] = ()
    should_stop: Callable[[], bool] = lambda: False


def fit(
    state: TrainState,
    batches: Iterator[Any],
    loss_fn: LossFn,
    lr: Callable[[int], float],
    settings: FitSettings,
) -> None:
    """Train from `state.step` to `FitSettings.total_steps`.

    A step whose loss or gradient is not finite is dropped: its micro-batches are passed over and counted, while
    weights, slots and averages stay as they were. A loss is known before any weight is updated. A gradient is too,
    except where `threads` are used without `clip_grad`: there weights are updated while gradients still arrive, and
    holding all gradients back would take 4 bytes a weight. That rare case is a `TornStep`, for the caller to load the
    last checkpoint.

    Args:
        state: changed in place.
        batches: micro-batches with `images`, starting at the one that `state.step` needs.
        loss_fn: (model, micro-batch) -> mean loss.
        lr: optimizer step -> lr.
        settings: the length of the training and how its steps are computed.
    Raises:
        NonFiniteLoss: `MOST_DROPPED` steps in a row were dropped.
        TornStep: see above.
        ValueError: a precision that the device can't do.
    """
    check_precision(settings.precision)
    threads, clip_grad, ranks = settings.threads, settings.clip_grad, settings.ranks
    scaler = paddle.amp.GradScaler() if settings.precision == "float16" else None
    if scaler and state.scaler:
        scaler.load_state_dict(state.scaler)
    fused = threads is not None and not clip_grad and ranks.world == 1
    # gradients of the ranks, once this one has its own; else Paddle does, during the backward pass
    adds_up = not is_shared_out(state) and (threads is not None or not settings.overlap)
    share = 1 / (settings.accumulation_steps * (ranks.world if adds_up else 1))  # of a micro-batch in the step's mean
    if threads is None:
        backward: Any = nullcontext(_Whole(state, loss_fn, scaler, settings))
    else:
        backward = sharded(
            state.model,
            state.optimizer,
            loss_fn,
            threads=threads,
            replicas=settings.replicas,
            save_memory=settings.save_memory,
            fused=fused,
            precision=settings.precision,
        )
    state.model.train()
    statistics = running_statistics(state.model)
    with backward as gradients:
        while state.step < settings.total_steps and not settings.should_stop():
            started = time.perf_counter()
            step_lr = lr(state.step)
            state.optimizer.set_lr(step_lr)
            # what a forward pass may change, such as running statistics
            changed = state.model.buffers() if threads is None else statistics
            buffers = [(buffer, buffer.clone()) for buffer in changed]
            is_taken = state.step not in state.passed_over
            loss, images, waiting = _accumulate(gradients, batches, settings.accumulation_steps, share, is_taken)
            loss, images = ranks.mean(loss), images * ranks.world
            if adds_up and math.isfinite(loss):
                ranks.add_up([weight.grad for weight in state.model.parameters() if weight.grad is not None])
            norm = _update(gradients, fused, state, clip_grad, scaler) if math.isfinite(loss) else math.nan
            dropped = not math.isfinite(norm)
            if dropped:
                state.optimizer.clear_grad()
                for buffer, before in buffers:
                    buffer.set_value(before)
            else:
                _average(statistics, ranks)
                if state.ema:
                    state.ema.update(state.model)
            _count_dropped(state, step_lr, dropped, scaled=scaler is not None and math.isfinite(loss))
            state.step += 1
            seconds = time.perf_counter() - started
            state.seconds += seconds
            for hook in settings.after_step:
                hook(state, StepResult(loss, step_lr, images, seconds, waiting, norm, dropped))


def _average(statistics: Sequence[paddle.Tensor], ranks: Ranks) -> None:
    """Average running statistics over the ranks, in place, so that all evaluate and save the same model."""
    if statistics and ranks.world > 1:
        ranks.add_up(statistics)
        for tensor in statistics:
            tensor.scale_(1 / ranks.world)


def _accumulate(
    gradients: Any, batches: Iterator[Any], count: int, share: float, is_taken: bool
) -> tuple[float, int, float]:
    """Return (mean loss, images, seconds of waiting) of a step's micro-batches, whose gradients count by their share.

    All are taken from the stream, whose place is a function of the step; but once the loss is not finite, or if the
    step is not taken, no more is computed.
    """
    loss, images, waiting = 0.0 if is_taken else math.nan, 0, 0.0
    for number in range(1, count + 1):
        begun = time.perf_counter()
        batch = next(batches)
        waiting += time.perf_counter() - begun
        images += len(batch.images)
        if math.isfinite(loss):
            loss += gradients.add(batch, share, last=number == count) / count
    return loss, images, waiting


class _Whole:
    """A micro-batch's gradient at once, in the device's own kernels; the interface is that of `shards.Shards`.

    With several ranks gradients are averaged during the backward pass of a step's last micro-batch; those before
    it stay at home.
    """

    def __init__(
        self,
        state: TrainState,
        loss_fn: LossFn,
        scaler: paddle.amp.GradScaler | None,
        settings: FitSettings,
    ):
        ranks, overlap = settings.ranks, settings.overlap
        if is_shared_out(state):
            state.optimizer.loss.loss_fn = loss_fn
            self.loss = state.optimizer.layer
        else:
            self.loss = ranks.parallel(Loss(state.model, loss_fn)) if overlap else Loss(state.model, loss_fn)
        self.precision, self.scaler, self.ranks = settings.precision, scaler, ranks
        self.rounded = weights_for(settings.precision)

    def add(self, batch: Any, share: float, *, last: bool) -> float:
        at_home = isinstance(self.loss, paddle.DataParallel) and not last
        with self.loss.no_sync() if at_home else nullcontext(), bfloat16_products(self.rounded):
            with autocast(self.precision):
                mean = self.loss(batch)
                part = mean * share
            loss = float(mean.numpy())
            if self.ranks.any(not math.isfinite(loss)):  # nobody waits for gradients that do not come
                loss = math.nan
            else:
                (self.scaler.scale(part) if self.scaler else part).backward()
        if self.rounded and (last or not math.isfinite(loss)):
            self.rounded.clear()
        return loss


def _update(
    gradients: Any, fused: bool, state: TrainState, clip_grad: float | None, scaler: paddle.amp.GradScaler | None
) -> float:
    """Take the optimizer's step unless the gradient is not finite; return the gradient's norm before clipping.

    Raises:
        TornStep: it is not finite, and weights were updated while gradients still arrived.
    """
    if fused:
        norm = gradients.norm()
        if not math.isfinite(norm):
            raise TornStep(state.step)
        state.optimizer.clear_grad()
        return norm
    if scaler:
        scaler.unscale_(state.optimizer)
    norm = state.optimizer.clip(clip_grad) if is_shared_out(state) else clip_gradients(state.model, clip_grad)
    if scaler:
        scaler.step(state.optimizer)  # not taken either, and the next one is scaled less
        scaler.update()
        state.scaler = scaler.state_dict()
    elif math.isfinite(norm):
        state.optimizer.step()
    state.optimizer.clear_grad()
    return norm


def _count_dropped(state: TrainState, step_lr: float, is_dropped: bool, scaled: bool) -> None:
    """Count, and end a training that goes nowhere; float16's scaling drops steps until it has found its scale."""
    state.dropped += is_dropped
    state.dropped_in_a_row = state.dropped_in_a_row + 1 if is_dropped and not scaled else 0
    if state.dropped_in_a_row >= MOST_DROPPED:
        raise NonFiniteLoss(
            f"loss or gradient was not finite in {MOST_DROPPED} steps in a row, the last time in step {state.step} "
            f"(lr {step_lr:.3g})"
        )
