"""One training run to its end: micro-batches, metrics, checkpoints, and stopping in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import paddle
from paddle import nn

from paddlemae import device
from paddlemae.data.augment import View
from paddlemae.data.batches import Batch, train_batches
from paddlemae.data.faults import DataFault
from paddlemae.data.packed import occupied, pack
from paddlemae.data.sources import Source
from paddlemae.recipe import Training
from paddlemae.report.progress import progress
from paddlemae.report.runlog import SKIPPED_FILE, log_metrics
from paddlemae.tasks.skipped import SkippedImages
from paddlemae.tasks.start import Start
from paddlemae.train.checkpoint import TrainState, save_checkpoint, step_name
from paddlemae.train.loop import StepResult, fit, stop_on_interrupt
from paddlemae.train.optim import lr_at, peak_lr
from paddlemae.train.shards import worthwhile_replicas
from paddlemae.weights.store import Description

WAITING_TO_MEND = 0.03  # share of the time; a run that waits longer for data is told what helps

AfterStep = Callable[[TrainState, StepResult], None]


def training_batches(
    source: Source, view: View, training: Training, state: TrainState, on_skip: SkippedImages, start: Start
) -> Generator[Batch, None, None]:
    """The micro-batches of the steps that `state` has not taken yet; the cache is made first if one is wanted."""
    if training.cache:
        source = _packed(source, view, training, training.cache, start)
    return train_batches(
        source,
        view,
        **stretch(training, len(source), state),
        workers=training.workers,
        on_skip=on_skip,
    )


def stretch(training: Training, num_images: int, state: TrainState) -> dict[str, int]:
    """The micro-batches of the steps that `state` has not taken yet, as `train_batches` is told them."""
    steps = training.total_steps(num_images) - state.step
    return dict(
        batch_size=training.batch_size,
        seed=training.seed,
        start_step=state.step * training.accumulation_steps,
        num_steps=steps * training.accumulation_steps,
    )


def _packed(source: Source, view: View, training: Training, folder: str, start: Start) -> Source:
    with ExitStack() as until_packed:
        bars: list[Callable[[int, str], None]] = []  # none when the pack is there already

        def begin(path: Path) -> None:
            start.say(_packing_text(source, path))
            bars.append(until_packed.enter_context(progress("cache", len(source), show=not start.quiet)))

        packed = pack(
            source,
            folder,
            view,
            short_side=training.cache_size,
            workers=training.workers,
            on_start=begin,
            on_image=lambda done: bars[0](done, "images"),
        )
    start.say(f"training on the images packed in {packed.folder}")
    return packed


def _packing_text(source: Source, path: Path) -> str:
    others = occupied(path.parent)
    text = f"packing {len(source)} images into {path}"
    return f"{text}; other packs there take {others / 1e9:.2f} GB: delete those of old images" if others else text


@dataclass(frozen=True)
class Course:
    """What a training run is measured by: its length in steps and epochs, and who evaluates it when.

    Attributes:
        task: the command that runs it.
        num_images: images of an epoch.
        evaluate: called every `evaluate_every` epochs and at the end; its numbers are logged.
        best_by: the number of `evaluate` whose highest value moves the `best` pointer.
    """

    task: str
    training: Training
    num_images: int
    evaluate: Callable[[TrainState], dict[str, float]] | None = None
    evaluate_every: float = 1.0
    best_by: str | None = None

    @property
    def total_steps(self) -> int:
        return self.training.total_steps(self.num_images)

    def epoch(self, step: int) -> float:
        return step * self.training.effective_batch_size / self.num_images

    def is_due(self, step: int, every_epochs: float) -> bool:
        """Whether something that happens every so many epochs, and at the end, happens after this step."""
        every_steps = max(1, round(every_epochs * self.num_images / self.training.effective_batch_size))
        return step >= self.total_steps or step % every_steps == 0

    def lr(self, step: int) -> float:
        return lr_at(
            step,
            peak=peak_lr(self.training.base_lr, self.training.effective_batch_size),
            total_steps=self.total_steps,
            warmup_steps=self.training.warmup_steps(self.num_images),
            min_lr=self.training.min_lr,
        )


def run_training(
    start: Start,
    course: Course,
    state: TrainState,
    description: Description,
    batches: Generator[Batch, None, None],
    loss_fn: Callable[[nn.Layer, Batch], paddle.Tensor],
    sharing: dict[str, Any] | None = None,
    in_memory: bool = False,
    hooks: Sequence[AfterStep] = (),
) -> None:
    """Fit `state` to the end of the course, writing metrics and checkpoints into the run folder.

    Args:
        batches: micro-batches from `state.step` on; closed at the end.
        sharing: `fit`'s settings of CPU threads; None is what suits the model, see `cpu_sharing`.
        in_memory: whether nothing is read, so that no word need be said of waiting for data.
        hooks: called after each step, before it is logged and saved.
    Raises:
        KeyboardInterrupt: after Ctrl-C, once the state is saved; its text says where.
        DataFault: the images can't be read any more; the state is saved too.
        NonFiniteLoss, OSError: as `fit` and `save_checkpoint` raise them.
    """
    training, total = course.training, course.total_steps
    spent = Spent()
    label = f"{course.task} {start.out.name}"
    with progress(label, total, state.step, not start.quiet) as show, stop_on_interrupt() as stop:
        try:
            fit(
                state,
                batches,
                loss_fn,
                course.lr,
                total_steps=total,
                **(cpu_sharing(state.model, training) if sharing is None else sharing),
                accumulation_steps=training.accumulation_steps,
                precision=training.precision,
                clip_grad=training.clip_grad,
                after_step=[spent, *hooks, _logger(start, course, show), _saver(start, course, description)],
                should_stop=stop.is_set,
            )
        except DataFault as fault:
            kept = _keep(start, course, state, description)
            raise DataFault(f"{fault}; kept {kept}; {_go_on(start, course)}") from fault
        finally:
            batches.close()
        if state.skipped:
            times = f"{state.skipped} times an image could not be read and was left out"
            start.say(f"{times}; see {start.out / SKIPPED_FILE}")
        if spent.seconds and not in_memory:
            start.say(waiting_text(spent, training))
        if state.step < total:
            _stop(start, course, state, description)


def cpu_sharing(model, training: Training) -> dict[str, Any]:
    """`fit`'s settings of CPU threads; none on an accelerator."""
    if not device.is_cpu():
        return {}
    threads = device.threads_of(training.threads)
    patches = training.batch_size * math.prod(model.grid)
    operations = 6 * patches * sum(parameter.size for parameter in model.parameters())
    return dict(threads=threads, replicas=worthwhile_replicas(threads, operations), save_memory=training.recompute)


@dataclass
class Spent:
    """Seconds of the steps since this session began, and those of them that passed waiting for data."""

    seconds: float = 0.0
    waiting: float = 0.0

    def __call__(self, state: TrainState, result: StepResult) -> None:
        self.seconds += result.seconds
        self.waiting += result.waiting


def waiting_text(spent: Spent, training: Training) -> str:
    """What share of the time training waited for data, and what helps if it is much."""
    share = spent.waiting / spent.seconds
    text = f"waited for data {share:.1%} of {spent.seconds:.0f} s"
    if share <= WAITING_TO_MEND:
        return text
    ways = [f"workers={training.workers + 1} or more", *([] if training.cache else ["cache=FOLDER"])]
    return f"{text}; a longer run gains by {', '.join(ways)}"


def _logger(start: Start, course: Course, show: Callable[[int, str], None]) -> AfterStep:
    """Logs the mean loss, speed and share of time waiting for data of every `log_every` steps."""
    since_log: list[StepResult] = []

    def log(state: TrainState, result: StepResult) -> None:
        since_log.append(result)
        if state.step % course.training.log_every and state.step < course.total_steps:
            return
        loss = math.fsum(one.loss for one in since_log) / len(since_log)
        seconds = sum(one.seconds for one in since_log)
        speed, waiting = (sum(part) / seconds for part in zip(*((one.images, one.waiting) for one in since_log)))
        since_log.clear()
        values = dict(
            loss=loss,
            lr=result.lr,
            images_per_second=round(speed, 2),
            waiting=round(waiting, 4),
            skipped=state.skipped,
        )
        if memory := device.used_memory():
            values["memory_gb"] = round(memory / 1e9, 3)
        log_metrics(start.out, state.step, course.epoch(state.step), state.seconds, **values)
        show(state.step, f"loss {loss:.4f}  lr {result.lr:.2e}  {speed:.0f} images/s  {waiting:.1%} waiting")

    return log


def _saver(start: Start, course: Course, description: Description) -> AfterStep:
    """Evaluates and saves when that is due; a new best is saved at once."""

    def evaluate_and_save(state: TrainState, result: StepResult) -> None:
        is_best = False
        if course.evaluate and course.is_due(state.step, course.evaluate_every):
            values = course.evaluate(state)
            log_metrics(start.out, state.step, course.epoch(state.step), state.seconds, **values)
            if course.best_by and values[course.best_by] > state.best.get(course.best_by, -math.inf):
                state.best, is_best = {course.best_by: values[course.best_by], "step": state.step}, True
        if is_best or course.is_due(state.step, course.training.checkpoint_every):
            save_checkpoint(start.out, state, description, best=is_best, keep=course.training.keep_checkpoints)

    return evaluate_and_save


def _stop(start: Start, course: Course, state: TrainState, description: Description) -> NoReturn:
    """Save what is not saved yet and say how to go on."""
    kept = _keep(start, course, state, description)
    text = f"stopped after step {state.step} of {course.total_steps}; kept {kept}; {_go_on(start, course)}"
    raise KeyboardInterrupt(text)


def _keep(start: Start, course: Course, state: TrainState, description: Description) -> Path:
    """The checkpoint of this step, written if it is not there yet."""
    kept = state.last_checkpoint
    if kept is None or kept.name != step_name(state.step):
        kept = save_checkpoint(start.out, state, description, keep=course.training.keep_checkpoints)
    return kept


def _go_on(start: Start, course: Course) -> str:
    return f"go on with: paddlemae {course.task} --resume --out {start.out}"
