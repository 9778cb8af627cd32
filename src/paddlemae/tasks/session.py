"""One training run in its folder: started or resumed, logged, saved, stopped."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from paddlemae.data.images import UnreadableImage
from paddlemae.recipe import Recipe, Training, build_recipe, dump_recipe
from paddlemae.report.progress import progress
from paddlemae.report.runlog import (
    METRICS_FILE,
    RECIPE_FILE,
    check_folder,
    forget_metrics_after,
    log_metrics,
    open_run,
    write_environment,
    write_recipe,
)
from paddlemae.train.checkpoint import (
    FOLDER,
    LATEST,
    TrainState,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    step_name,
)
from paddlemae.train.loop import StepResult, fit, stop_on_interrupt
from paddlemae.train.optim import lr_at, peak_lr
from paddlemae.weights.store import Description

# what a resume may change: none of it touches the result
FREE_TO_CHANGE = ("device", "threads", "workers", "log_every", "checkpoint_every", "keep_checkpoints")
SHOWN_SKIPS = 5


@dataclass(frozen=True)
class Start:
    """How a run takes its folder: anew (`overwrite` what is there) or where it was left (`resume`)."""

    out: Path
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False

    def check(self) -> None:
        """Refuse a folder that can't be taken, before any work is done."""
        check_folder(self.out, resume=self.resume, overwrite=self.overwrite)

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)


def stored_recipe(run: Path, task: str) -> Recipe:
    """The resolved recipe of a run folder.

    Raises:
        FileNotFoundError, ValueError: no run there, or one of another task.
    """
    path = run / RECIPE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{run} holds no run to resume (no {RECIPE_FILE}); leave --resume out to start one")
    content = yaml.safe_load(path.read_text())
    if content.get("task") != task:
        raise ValueError(f"{run} is a {content.get('task')} run; resume it with 'paddlemae {content.get('task')}'")
    return build_recipe(task, content)


def check_same_recipe(stored: Recipe, asked: Recipe) -> None:
    """Refuse to resume with settings that would change the run's result."""
    before, now = (_flat(recipe.model_dump(mode="json")) for recipe in (stored, asked))
    different = [
        f"{key} {before[key]} -> {now[key]}"
        for key in before
        if before[key] != now[key] and key.split(".")[-1] not in FREE_TO_CHANGE
    ]
    if different:
        raise ValueError(f"a resume can't change {', '.join(different)}; leave these out, or start a new run")


def _flat(content: dict, prefix: str = "") -> dict:
    flat: dict = {}
    for key, value in content.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def enter_run(start: Start, recipe: Recipe, state: TrainState) -> None:
    """Make the run folder and write what was asked for, or bring `state` to its latest checkpoint."""
    open_run(start.out, resume=start.resume, overwrite=start.overwrite)
    if not start.resume:
        write_environment(start.out)
    write_recipe(start.out, dump_recipe(recipe))
    if start.resume and (start.out / FOLDER / LATEST).exists():
        load_checkpoint(find_checkpoint(start.out), state)
        start.say(f"resumed at step {state.step} from {state.last_checkpoint}")
    if start.resume and (start.out / METRICS_FILE).exists():
        forget_metrics_after(start.out, state.step)


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


def run_training(
    start: Start,
    training: Training,
    state: TrainState,
    description: Description,
    num_images: int,
    batches,
    loss_fn: Callable,
    *,
    label: str,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    evaluate_every: float = 1.0,
    best_by: str | None = None,
) -> None:
    """Fit `state` to the end of `training`, writing metrics and checkpoints into the run folder.

    Args:
        num_images: images of an epoch.
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

    with progress(label, total, state.step, not start.quiet) as show, stop_on_interrupt() as stop:
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
                f"stopped after step {state.step} of {total}; kept {kept}; go on with the same command and --resume"
            )
