"""Log the steps of a training run: metrics, loss spikes, time spent waiting for data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paddlemae.engine.device import used_memory
from paddlemae.recipe import Training
from paddlemae.runs.runlog import forget_metrics_after, log_metrics
from paddlemae.system.display_names import say
from paddlemae.tasks.training.course import Course
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.loop import StepResult
from paddlemae.train.loss_spikes import is_spike

SHOWN_SPIKES = 5
MUCH_WAITING = 0.03  # share of the time; above it, the user learns what helps

AfterStep = Callable[[TrainState, StepResult], None]


@dataclass
class Record:
    """Metrics on their way to the run folder; lines that a full disk refuses wait for the next try."""

    folder: Path
    writes: bool = True  # what no other process of the training writes
    waiting: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def __call__(self, step: int, epoch: float, seconds: float, **values: float) -> None:
        if not self.writes:
            return
        self.waiting.append(((step, epoch, seconds), values))
        try:
            self.flush()
        except OSError as fault:
            if len(self.waiting) == 1:
                warnings.warn(f"{fault.strerror}; kept in memory until the next try", stacklevel=2)

    def flush(self) -> None:
        """Write what waits.

        Raises:
            OSError: no space or no permission.
        """
        while self.waiting:
            line, values = self.waiting[0]
            log_metrics(self.folder, *line, **values)
            self.waiting.pop(0)

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that are taken again."""
        if not self.writes:
            return
        self.waiting = [(line, values) for line, values in self.waiting if line[0] <= step]
        forget_metrics_after(self.folder, step)


@dataclass
class Spent:
    """Seconds of the steps since this session began, and those of them that passed waiting for data."""

    seconds: float = 0.0
    waiting: float = 0.0

    def __call__(self, state: TrainState, result: StepResult) -> None:
        self.seconds += result.seconds
        self.waiting += result.waiting


def waiting_text(spent: Spent, training: Training, *, may_cache: bool = True) -> str:
    """Return the share of the time that training waited for data, and what helps if it is much.

    Args:
        may_cache: whether the task takes a cache.
    """
    share = spent.waiting / spent.seconds
    text = f"waited for data {share:.1%} of {spent.seconds:.0f} s"
    if share <= MUCH_WAITING:
        return text
    ways = [f"workers={training.workers + 1} or more", *([] if training.cache or not may_cache else ["cache=FOLDER"])]
    return f"{text}; a longer run gains by {', '.join(ways)}"


def watch_spikes(course: Course, record: Record) -> AfterStep:
    """Return a hook that logs losses far above the usual and prints the first few."""
    shown: list[int] = []

    def watch(state: TrainState, result: StepResult) -> None:
        usual = state.usual_loss
        if result.dropped or not is_spike(state, result.loss) or usual is None:
            return
        record(state.step, course.epoch(state.step), state.seconds, spike=result.loss, usual_loss=usual)
        shown.append(state.step)
        if len(shown) <= SHOWN_SPIKES:
            say(f"loss {result.loss:.4g} at step {state.step}, where {usual:.4g} was usual", error=True)

    return watch


def log_steps(course: Course, record: Record, show: Callable[[int, str], None]) -> AfterStep:
    """Return a hook that logs mean loss, speed and share of time waiting for data every `log_every` steps."""

    def log(state: TrainState, result: StepResult) -> None:
        state.since_log.append({name: value for name, value in asdict(result).items() if math.isfinite(value)})
        if state.step % course.training.log_every and state.step < course.total_steps:
            return
        taken = [step for step in state.since_log if not step["dropped"]]
        means = {name: math.fsum(step[name] for step in taken) / len(taken) for name in ("loss", "grad_norm") if taken}
        seconds = sum(step["seconds"] for step in state.since_log)
        speed, waiting = (sum(step[name] for step in state.since_log) / seconds for name in ("images", "waiting"))
        state.since_log = []
        values = dict(
            **means,
            lr=result.lr,
            images_per_second=float(f"{speed:.5g}"),
            waiting=round(waiting, 4),
            skipped=state.skipped,
            dropped=state.dropped,
        )
        if memory := used_memory():
            values["memory_gb"] = round(memory / 1e9, 3)
        record(state.step, course.epoch(state.step), state.seconds, **values)
        loss = means.get("loss", math.nan)
        show(state.step, f"loss {loss:.4g}  lr {result.lr:.2e}  {_rate(speed)} images/s  {waiting:.1%} waiting")

    return log


def _rate(speed: float) -> str:
    """Return a number of images with three digits at least: 1234, 0.0213."""
    return f"{speed:.0f}" if speed >= 100 else f"{speed:.3g}"
