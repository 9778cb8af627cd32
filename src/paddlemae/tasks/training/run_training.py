"""One training run to its end: micro-batches, metrics, checkpoints, and stopping in between."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from paddlemae.data.batches import Batch, train_batches
from paddlemae.data.cache import CacheReader, cache_bytes, cache_images
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import Source
from paddlemae.data.views.augment import View
from paddlemae.engine.cpus import threads_of
from paddlemae.engine.device import is_cpu, used_memory
from paddlemae.engine.safe_import import nn
from paddlemae.recipe import Training
from paddlemae.runs.progress import progress
from paddlemae.runs.runlog import SKIPPED_FILE, forget_metrics_after, log_metrics
from paddlemae.system.display_names import say
from paddlemae.system.signals import CTRL_C, Preempted
from paddlemae.tasks.training.run_start import Start
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.train.checkpoint import TrainState, find_checkpoint, is_shared_out, load_checkpoint
from paddlemae.train.loop import FitSettings, NonFiniteLoss, StepResult, TornStep, fit
from paddlemae.train.loss_spikes import is_spike
from paddlemae.train.optim import lr_at, peak_lr
from paddlemae.train.parallel.loss_layer import LossFn
from paddlemae.train.parallel.ranks import Ranks
from paddlemae.train.parallel.threads import worthwhile_replicas
from paddlemae.train.saver import Saver
from paddlemae.train.stopping import EndedElsewhere, Stop, stop_on_signals
from paddlemae.weights.model_folder import Description

SHOWN_SPIKES = 5
WAITING_TO_MEND = 0.03  # share of the time; a run that waits longer for data is told what helps

AfterStep = Callable[[TrainState, StepResult], None]


def training_batches(
    source: Source, view: View, training: Training, state: TrainState, on_skip: SkippedImages, start: Start
) -> Generator[Batch, None, None]:
    """The micro-batches of the steps that `state` has not taken yet; the cache is made first if one is wanted."""
    if training.cache:
        source = _packed_once(source, view, training, training.cache, start)
    ranks = start.ranks
    batches = train_batches(
        source,
        view,
        **stretch(training, len(source), state),
        rank=ranks.rank,
        world=ranks.world,
        workers=training.workers,
        on_skip=on_skip,
    )
    return batches if ranks.world == 1 else _together(batches, on_skip, ranks)


def _together(
    batches: Generator[Batch, None, None], on_skip: SkippedImages, ranks: Ranks
) -> Generator[Batch, None, None]:
    """The same, once all ranks have theirs: what one can't read ends the training on all of them."""
    with closing(batches):
        while True:
            fault = batch = None
            try:
                batch = next(batches, None)
            except DataFault as raised:
                fault = str(raised)
            if faults := [each for each in ranks.gather(fault) if each]:
                raise DataFault(faults[0])
            on_skip.share()
            if batch is None:
                return
            yield batch


def stretch(training: Training, num_images: int, state: TrainState) -> dict[str, int]:
    """The micro-batches of the steps that `state` has not taken yet, as `train_batches` is told them."""
    steps = training.total_steps(num_images) - state.step
    return dict(
        batch_size=training.batch_size,
        seed=training.seed,
        start_step=state.step * training.accumulation_steps,
        num_steps=steps * training.accumulation_steps,
    )


def _packed_once(source: Source, view: View, training: Training, folder: str, start: Start) -> Source:
    """Packed by the first process of all, and by the first of a host that does not see that pack."""
    turns = ((start.ranks.is_first, start), (start.ranks.local_rank == 0, replace(start, quiet=True)))
    for is_ours, quietly in turns if start.ranks.world > 1 else ():
        if is_ours:
            _packed(source, view, training, folder, quietly)
        start.ranks.wait()
    return _packed(source, view, training, folder, start)


def _packed(source: Source, view: View, training: Training, folder: str, start: Start) -> Source:
    with ExitStack() as until_packed:
        bars: list[Callable[[int, str], None]] = []  # none when the pack is there already

        def begin(path: Path) -> None:
            start.say(_packing_text(source, path))
            bars.append(until_packed.enter_context(progress("cache", len(source), show=not start.quiet)))

        packed = cache_images(
            source,
            folder,
            view,
            short_side=training.cache_size,
            workers=training.workers,
            on_start=begin,
            on_image=lambda done: bars[0](done, "images"),
            on_wait=lambda who: start.say(f"{who} to make its cache in {folder}"),
        )
    assert isinstance(packed.reader, CacheReader)
    start.say(f"training on the images packed in {packed.reader.folder}")
    return packed


def _packing_text(source: Source, path: Path) -> str:
    others = cache_bytes(path.parent)
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

    def is_lasting(self, step: int) -> bool:
        """Whether the checkpoint after this step is kept for good."""
        return self.training.keep_every is not None and self.is_due(step, self.training.keep_every)

    def lr(self, step: int) -> float:
        return lr_at(
            step,
            peak=peak_lr(self.training.base_lr, self.training.effective_batch_size),
            total_steps=self.total_steps,
            warmup_steps=self.training.warmup_steps(self.num_images),
            min_lr=self.training.min_lr,
        )


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
    hooks: Sequence[AfterStep] = (),
) -> None:
    """Fit `state` to the end of the course, writing metrics and checkpoints into the run folder.

    Args:
        batches: gives the micro-batches from `state.step` on; asked again if the run goes back to a checkpoint.
        shares_cpu: each micro-batch is shared among CPU threads, see `share_cpu`.
        in_memory: whether nothing is read, so that no word need be said of waiting for data.
        hooks: called after each step, before it is logged and saved.
    Raises:
        KeyboardInterrupt, Preempted: after Ctrl-C, or another signal or `max_hours`, once the state is saved; the text
            says where.
        DataFault: the images can't be read any more; the state is saved too.
        NonFiniteLoss, OSError: as `fit` and `Saver` raise them.
    """
    training, total = course.training, course.total_steps
    ranks = start.ranks
    spent, record = Spent(), Record(start.out, writes=ranks.is_first)
    label, max_seconds = f"{course.task} {start.out.name}", training.max_hours and 3600 * training.max_hours
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
        watch, log, save = _spike_watch(course, record), _logger(course, record, show), _saving(course, record, saver)
        settings = FitSettings(
            total_steps=total,
            accumulation_steps=training.accumulation_steps,
            precision=training.precision,
            clip_grad=training.clip_grad,
            ranks=ranks,
            overlap=not training.recompute,
            after_step=[spent, *hooks, watch, log, save],
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
            start.say(waiting_text(spent, training))
        if state.step < total:
            state.last_checkpoint = Path(ranks.from_first(lambda: str(state.last_checkpoint)))
            _end_early(start, course, state, stop)


def _torn_step(
    start: Start,
    state: TrainState,
    stream: Generator[Batch, None, None],
    loss_fn: LossFn,
    course: Course,
    saver: Saver,
    settings: FitSettings,
) -> TornStep | None:
    """Fit to the end or to a stop; the step that could not be dropped where it was, if there was one."""
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
    """Whether a rank was asked to stop before all of them last looked: they stop after the same step."""
    reasons = ranks.gather(stop.reason if stop.is_set() else None)
    agreed = next((reason for reason in reasons if reason), None)
    stop.reason = stop.reason or agreed
    return agreed is not None


def _go_back(start: Start, state: TrainState, saver: Saver, record: Record, torn: TornStep) -> None:
    """Load the last checkpoint and pass over the step that broke: as if it had been dropped when it was there."""
    saver.wait()
    if state.last_checkpoint is None:
        raise NonFiniteLoss(f"{torn}; {_what_helps(state)}")
    passed_over = {*state.passed_over, torn.step}
    load_checkpoint(find_checkpoint(start.out, whole=True, trust=start.trust), state)
    state.passed_over = passed_over
    record.forget_after(state.step)
    say(f"{torn}; went back to step {state.step}, to leave it out", error=True)


def _what_helps(state: TrainState) -> str:
    return (
        f"last good checkpoint: {state.last_checkpoint or 'none yet'}; start a new run with a lower base_lr, a longer "
        "warmup or clip_grad=1"
    )


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


def share_cpu(settings: FitSettings, model: nn.Layer, training: Training) -> FitSettings:
    """Return the settings with CPU threads that share each micro-batch; as they are on an accelerator."""
    if not is_cpu():
        return settings
    threads = threads_of(training.threads)
    patches = training.batch_size // settings.ranks.world * math.prod(model.grid)
    operations = 6 * patches * sum(parameter.size for parameter in model.parameters())
    replicas = worthwhile_replicas(threads, operations)
    return replace(settings, threads=threads, replicas=replicas, save_memory=training.recompute)


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


def _spike_watch(course: Course, record: Record) -> AfterStep:
    """Logs losses far above the usual, and names the first few."""
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


def _logger(course: Course, record: Record, show: Callable[[int, str], None]) -> AfterStep:
    """Logs the mean loss, speed and share of time waiting for data of every `log_every` steps."""

    def log(state: TrainState, result: StepResult) -> None:
        state.since_log.append({name: value for name, value in asdict(result).items() if math.isfinite(value)})
        if state.step % course.training.log_every and state.step < course.total_steps:
            return
        taken = [one for one in state.since_log if not one["dropped"]]
        means = {name: math.fsum(one[name] for one in taken) / len(taken) for name in ("loss", "grad_norm") if taken}
        seconds = sum(one["seconds"] for one in state.since_log)
        speed, waiting = (sum(one[name] for one in state.since_log) / seconds for name in ("images", "waiting"))
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


def _saving(course: Course, record: Record, saver: Saver) -> AfterStep:
    """Evaluates and saves when that is due; a new best is saved at once."""

    def evaluate_and_save(state: TrainState, result: StepResult) -> None:
        saver.look()
        is_best = False
        if course.evaluate and course.is_due(state.step, course.evaluate_every):
            values = course.evaluate(state)
            record(state.step, course.epoch(state.step), state.seconds, **values)
            if course.best_by and values[course.best_by] > state.best.get(course.best_by, -math.inf):
                state.best, is_best = {course.best_by: values[course.best_by], "step": state.step}, True
        is_due = course.is_due(state.step, course.training.checkpoint_every) or course.is_lasting(state.step)
        if is_best or is_due:
            saver.save(best=is_best)

    return evaluate_and_save


def _end_early(start: Start, course: Course, state: TrainState, stop: Stop) -> NoReturn:
    """Say what is kept and how to go on."""
    text = f"stopped after step {state.step} of {course.total_steps}"
    ways = _ways_on(start, course, state)
    if stop.reason == CTRL_C:
        raise KeyboardInterrupt(f"{text}; {ways}")
    raise Preempted(f"{text} ({stop.reason}); {ways}, or the same command again")


def _ways_on(start: Start, course: Course, state: TrainState) -> str:
    return f"kept {state.last_checkpoint}; go on with: paddlemae {course.task} --resume --out {start.out}"
