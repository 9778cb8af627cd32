"""One training run to its end: micro-batches, metrics, checkpoints, and stopping in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from paddlemae.data.batches import Batch
from paddlemae.data.disk.errors import DataFault
from paddlemae.engine.cpus import threads_of
from paddlemae.engine.device import is_cpu
from paddlemae.engine.safe_import import nn
from paddlemae.model.heads.layers import mixes_images
from paddlemae.recipe import Training
from paddlemae.runs.progress import progress
from paddlemae.runs.runlog import SKIPPED_FILE
from paddlemae.system.display_names import say
from paddlemae.system.signals import CTRL_C, Preempted
from paddlemae.tasks.training.course import Course, Evaluation
from paddlemae.tasks.training.run_start import Start
from paddlemae.tasks.training.step_log import AfterStep, Record, Spent, log_steps, waiting_text, watch_spikes
from paddlemae.train.checkpoint import TrainState, is_shared_out, load_checkpoint
from paddlemae.train.checkpoint_folders import find_checkpoint
from paddlemae.train.loop import FitSettings, NonFiniteLoss, StepResult, TornStep, fit
from paddlemae.train.parallel.loss_layer import LossFn
from paddlemae.train.parallel.ranks import Ranks
from paddlemae.train.parallel.threads import worthwhile_replicas
from paddlemae.train.saver import Saver
from paddlemae.train.stopping import TIME_IS_UP, EndedElsewhere, Stop, stop_on_signals
from paddlemae.weights.model_folder import Description

Batches = Callable[[], Generator[Batch, None, None]]


def run_training(
    start: Start,
    course: Course,
    state: TrainState,
    description: Description,
    batches: Batches,
    loss_fn: LossFn,
    shares_cpu: bool = True,
    in_memory: bool = False,
    evaluates_first: bool = False,
    hooks: Sequence[AfterStep] = (),
) -> Evaluation | None:
    """Fit `state` to the end of the course, writing metrics and checkpoints into the run folder.

    Args:
        batches: yields the micro-batches from `state.step` on; called again if the run goes back to a checkpoint.
        shares_cpu: each micro-batch is shared among CPU threads, see `share_cpu`.
        in_memory: whether nothing is read, so that waiting for data is not reported.
        evaluates_first: whether the model is also evaluated, and kept as the best so far, before the first step.
        hooks: called after each step, before it is logged and saved.
    Returns:
        the last evaluation; None without one.
    Raises:
        KeyboardInterrupt, Preempted: after Ctrl-C, or another signal or `max_hours`, once the state is saved; the text
            says where.
        DataFault: the images can't be read any more; the state is saved too.
        NonFiniteLoss, OSError: as `fit` and `Saver` raise them.
    """
    training, total = course.training, course.total_steps
    ranks = start.ranks
    spent, record = Spent(), Record(start.out, writes=ranks.is_first)
    name = start.out.name
    label = name if name == course.task else f"{course.task} {name}"
    max_seconds = training.max_hours and 3600 * training.max_hours
    saver = Saver(
        start.out,
        state,
        description,
        keep=training.keep_checkpoints,
        lasting=course.is_lasting,
        before=record.flush,
        ranks=ranks,
    )
    stream = batches()  # before the bar: packing a cache shows one of its own
    with progress(label, total, state.step, not start.quiet) as show, stop_on_signals(max_seconds) as stop, saver:
        save = SaveWhenDue(course, record, saver)
        if evaluates_first and state.step == 0 and save.evaluate(state):
            saver.save(best=True)
        settings = FitSettings(
            total_steps=total,
            accumulation_steps=training.accumulation_steps,
            precision=training.precision,
            clip_grad=training.clip_grad,
            ranks=ranks,
            overlap=not training.recompute,
            after_step=[spent, *hooks, watch_spikes(course, record), log_steps(course, record, show), save],
            should_stop=partial(_is_asked_to_stop, stop, ranks),
        )
        if shares_cpu:
            settings = share_cpu(settings, state.model, training)
        while torn := _torn_step(start, state, stream, loss_fn, course, saver, settings):
            _go_back(start, state, saver, record, torn)
            stream = batches()
        saver.finish()
        record.flush()
        if state.skipped:
            times = f"{state.skipped} times an image could not be read and was left out"
            start.say(f"{times}; see {start.out / SKIPPED_FILE}")
        if spent.seconds and not in_memory:
            start.say(waiting_text(spent, training, may_cache=course.task != "segment"))
        if state.step < total:
            state.last_checkpoint = Path(ranks.from_first(lambda: str(state.last_checkpoint)))
            _end_early(start, course, state, stop)
    return save.last


def _torn_step(
    start: Start,
    state: TrainState,
    stream: Generator[Batch, None, None],
    loss_fn: LossFn,
    course: Course,
    saver: Saver,
    settings: FitSettings,
) -> TornStep | None:
    """Fit to the end or to a stop; return the torn step if there was one."""
    try:
        with closing(stream):
            fit(state, stream, loss_fn, course.lr, settings)
    except TornStep as torn:
        return torn
    except DataFault as fault:
        saver.finish()
        raise DataFault(f"{fault}; {_ways_on(start, course, state)}") from fault
    except EndedElsewhere:
        if not is_shared_out(state):  # else a part of it went with the rank that ended
            saver.finish()
        raise
    except FloatingPointError as fault:  # of the training, or of an evaluation
        saver.wait()
        raise NonFiniteLoss(f"{fault}; {_what_helps(state)}") from fault
    return None


def _is_asked_to_stop(stop: Stop, ranks: Ranks) -> bool:
    """Return whether any rank was asked to stop; all of them stop after the same step."""
    reasons = ranks.gather(stop.reason if stop.is_set() else None)
    agreed = next((reason for reason in reasons if reason), None)
    stop.reason = stop.reason or agreed
    return agreed is not None


def _go_back(start: Start, state: TrainState, saver: Saver, record: Record, torn: TornStep) -> None:
    """Load the last checkpoint, and mark the torn step to be dropped when it comes again."""
    saver.wait()
    if state.last_checkpoint is None:
        raise NonFiniteLoss(f"{torn}; {_what_helps(state)}")
    passed_over = {*state.passed_over, torn.step}
    load_checkpoint(find_checkpoint(start.out, whole=True, trust=start.trust), state)
    state.passed_over = passed_over
    record.forget_after(state.step)
    say(f"{torn}; went back to step {state.step} to drop that step", error=True)


def _what_helps(state: TrainState) -> str:
    return (
        f"last good checkpoint: {state.last_checkpoint or 'none yet'}; start a new run with a lower base_lr, a longer "
        "warmup or clip_grad=1"
    )


def share_cpu(settings: FitSettings, model: nn.Layer, training: Training) -> FitSettings:
    """Return the settings with CPU threads that share each micro-batch; as they are on an accelerator.

    A model with batch norm gets each micro-batch whole, so that its statistics don't depend on the threads.
    """
    if not is_cpu():
        return settings
    threads = threads_of(training.threads)
    patches = training.batch_size // settings.ranks.world * math.prod(model.grid)
    operations = 6 * patches * sum(parameter.size for parameter in model.parameters())
    replicas = 1 if mixes_images(model) else worthwhile_replicas(threads, operations)
    return replace(settings, threads=threads, replicas=replicas, save_memory=training.recompute)


@dataclass
class SaveWhenDue:
    """Hook that evaluates and saves when that is due, a new best at once; `last` is the last evaluation."""

    course: Course
    record: Record
    saver: Saver
    last: Evaluation | None = None

    def __call__(self, state: TrainState, result: StepResult) -> None:
        self.saver.look()
        course = self.course
        is_best = course.is_due(state.step, course.evaluate_every) and self.evaluate(state)
        if is_best or course.is_due(state.step, course.training.checkpoint_every) or course.is_lasting(state.step):
            self.saver.save(best=is_best)

    def evaluate(self, state: TrainState) -> bool:
        """Evaluate where there are images for it, and log the result; return whether it is the best so far."""
        if self.course.evaluate is None:
            return False
        self.last = self.course.evaluate()
        metrics = self.last.metrics
        self.saver.description = self.last.describe(self.saver.description)
        self.record(state.step, self.course.epoch(state.step), state.seconds, **metrics)
        best = next_best(state.best, self.course.primary, self.last)
        if best is None:
            return False
        state.best = best | {"step": state.step}
        return True


def next_best(best: Mapping[str, float], primary: str, evaluation: Evaluation) -> dict[str, float] | None:
    """Return what is known of the best checkpoint where the one that was just evaluated is it; else None.

    A few validation images tell checkpoints apart only roughly, and the highest of many evaluations is partly luck. So
    a later checkpoint counts unless it is worse than an earlier one by more than that one's standard error: the
    learning rate falls, so the end is where the weights are usually best.

    Args:
        best: of the checkpoints before; empty for the first one.
        primary: the key of the metric that decides.
    """
    value = evaluation.metrics[primary]
    least = best.get("least", best.get(primary, -math.inf))  # runs of earlier versions have no "least"
    if not value >= least:
        return None
    error = evaluation.kind.standard_error(value, evaluation.images)
    return {primary: value, "least": max(least, value - error)}


def _end_early(start: Start, course: Course, state: TrainState, stop: Stop) -> NoReturn:
    """Raise the error that says what is kept and how to resume."""
    text = f"stopped after step {state.step} of {course.total_steps}"
    ways = _ways_on(start, course, state)
    if stop.reason == CTRL_C:
        raise KeyboardInterrupt(f"{text}; {ways}")
    raise Preempted(f"{text} ({stop.reason}); {ways}, or the same command again", stop.reason == TIME_IS_UP)


def _ways_on(start: Start, course: Course, state: TrainState) -> str:
    return f"kept {state.last_checkpoint}; resume with: paddlemae {course.task} --resume --out {start.out}"
