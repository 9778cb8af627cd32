"""One training run to its end: micro-batches, metrics, checkpoints, and stopping in between."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from paddlemae.data.augment import View
from paddlemae.data.batches import Batch, train_batches
from paddlemae.data.images import UnreadableImage
from paddlemae.data.sources import Source
from paddlemae.recipe import Training
from paddlemae.report.progress import progress
from paddlemae.report.runlog import log_metrics
from paddlemae.tasks.start import Start
from paddlemae.train.checkpoint import TrainState, save_checkpoint, step_name
from paddlemae.train.loop import StepResult, fit, stop_on_interrupt
from paddlemae.train.optim import lr_at, peak_lr
from paddlemae.weights.store import Description

SHOWN_SKIPS = 5


@dataclass
class SkippedImages:
    """Counts unreadable images and names the first few."""

    state: TrainState
    seen: set[str] = field(default_factory=set)

    def __call__(self, image: UnreadableImage) -> None:
        self.state.skipped += 1
        if image.path not in self.seen and len(self.seen) < SHOWN_SKIPS:
            print(f"skipped: {image}", file=sys.stderr)
        self.seen.add(image.path)


def training_batches(
    source: Source, view: View, training: Training, state: TrainState, on_skip: SkippedImages
) -> Generator[Batch, None, None]:
    """The micro-batches of the steps that `state` has not taken yet."""
    return train_batches(
        source,
        view,
        batch_size=training.batch_size,
        seed=training.seed,
        start_step=state.step * training.accumulation_steps,
        num_steps=(training.total_steps(len(source)) - state.step) * training.accumulation_steps,
        workers=training.workers,
        on_skip=on_skip,
    )


def run_training(
    start: Start,
    training: Training,
    state: TrainState,
    description: Description,
    num_images: int,
    batches,
    loss_fn: Callable,
    *,
    task: str,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    evaluate_every: float = 1.0,
    best_by: str | None = None,
) -> None:
    """Fit `state` to the end of `training`, writing metrics and checkpoints into the run folder.

    Args:
        num_images: images of an epoch.
        task: the command that runs it.
        batches: micro-batches from `state.step` on; closed at the end.
        evaluate: called every `evaluate_every` epochs and at the end; its numbers are logged.
        best_by: the number of `evaluate` whose highest value moves the `best` pointer.
    Raises:
        KeyboardInterrupt: after Ctrl-C, once the state is saved; its text says where.
        NonFiniteLoss, OSError: as `fit` and `save_checkpoint` raise them.
    """
    total = training.total_steps(num_images)
    steps_an_epoch = num_images / training.effective_batch_size
    peak = peak_lr(training.base_lr, training.effective_batch_size)
    warmup = training.warmup_steps(num_images)
    save_every = max(1, round(training.checkpoint_every * steps_an_epoch))
    evaluate_steps = max(1, round(evaluate_every * steps_an_epoch))
    since_log: list[StepResult] = []

    def lr(step: int) -> float:
        return lr_at(step, peak=peak, total_steps=total, warmup_steps=warmup, min_lr=training.min_lr)

    def log(state: TrainState, result: StepResult) -> None:
        since_log.append(result)
        if state.step % training.log_every and state.step < total:
            return
        loss = math.fsum(one.loss for one in since_log) / len(since_log)
        speed = sum(one.images for one in since_log) / sum(one.seconds for one in since_log)
        since_log.clear()
        log_metrics(
            start.out,
            state.step,
            state.step / steps_an_epoch,
            state.seconds,
            loss=loss,
            lr=result.lr,
            images_per_second=round(speed, 2),
            skipped=state.skipped,
        )
        show(state.step, f"loss {loss:.4f}  lr {result.lr:.2e}  {speed:.0f} images/s")

    def evaluate_and_save(state: TrainState, result: StepResult) -> None:
        at_end, is_best = state.step >= total, False
        if evaluate and (at_end or state.step % evaluate_steps == 0):
            values = evaluate(state)
            log_metrics(start.out, state.step, state.step / steps_an_epoch, state.seconds, **values)
            if best_by and values[best_by] > state.best.get(best_by, -math.inf):
                state.best, is_best = {best_by: values[best_by], "step": state.step}, True
        if at_end or is_best or state.step % save_every == 0:
            save_checkpoint(start.out, state, description, best=is_best, keep=training.keep_checkpoints)

    with progress(f"{task} {start.out.name}", total, state.step, not start.quiet) as show, stop_on_interrupt() as stop:
        try:
            fit(
                state,
                batches,
                loss_fn,
                lr,
                total_steps=total,
                accumulation_steps=training.accumulation_steps,
                precision=training.precision,
                clip_grad=training.clip_grad,
                after_step=[log, evaluate_and_save],
                should_stop=stop.is_set,
            )
        finally:
            batches.close()
        if state.skipped:
            start.say(f"{state.skipped} times an image could not be read and was left out")
        if state.step < total:
            kept = state.last_checkpoint
            if kept is None or kept.name != step_name(state.step):
                kept = save_checkpoint(start.out, state, description, keep=training.keep_checkpoints)
            raise KeyboardInterrupt(
                f"stopped after step {state.step} of {total}; kept {kept}; "
                f"go on with: paddlemae {task} --resume --out {start.out}"
            )
