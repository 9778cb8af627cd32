"""Write checkpoints during training: copied in the loop, written by a thread, one at a time."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from paddlemae.engine.memory import release_free_memory
from paddlemae.train.checkpoint import TrainState, is_shared_out, take_snapshot, write_snapshot
from paddlemae.train.checkpoint_folders import drop_old, step_name, step_of
from paddlemae.train.parallel.ranks import ALONE, Ranks
from paddlemae.weights.model_folder import Description


class Saver:
    """Saves a run's state; a context, which ends when the last write has.

    A write that fails (no space, no permission) leaves the old checkpoints as they were, prints one line, and
    training continues: the next attempt may find room. If that fails too, it is an OSError.

    Args:
        run, description, keep, lasting: as in `write_snapshot`.
        state: its `last_checkpoint` is set once a checkpoint is whole.
        before: called first in every attempt; an OSError of it counts as the attempt's.
        ranks: of which the first saves; all call the same methods, since a part of the state may be with the others.
    """

    def __init__(
        self,
        run: Path,
        state: TrainState,
        description: Description,
        *,
        keep: int = 2,
        lasting: Callable[[int], bool] = lambda _: False,
        before: Callable[[], None] = lambda: None,
        ranks: Ranks = ALONE,
    ):
        self.state, self.description, self.before, self.ranks = state, description, before, ranks
        self.drop = partial(drop_old, run, keep=keep, lasting=lasting)
        self.write = partial(write_snapshot, run, keep=keep, lasting=lasting)
        self.pool = ThreadPoolExecutor(1, "saver")
        self.writing: Future[Path] | None = None
        self.failed = False  # in the last attempt
        self.best_step: int | None = None  # that the last attempt was to make best

    def __enter__(self) -> Saver:
        self._make_room()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Wait for the thread; what went wrong in it is raised unless something else did."""
        self.pool.shutdown()
        if kind is None:
            self.look()

    def save(self, *, best: bool = False) -> None:
        """Begin to write the state, once the write before has ended.

        Raises:
            OSError: the second failure in a row.
        """
        if best:
            self.best_step = self.state.step
        if not self._agreed(self._is_ready):
            return
        snapshot = take_snapshot(self.state, self.description, ranks=self.ranks)
        if snapshot:
            is_best = self.best_step == self.state.step  # also of a step that is tried again
            self.writing = self.pool.submit(self.write, snapshot, best=is_best)

    def _is_ready(self) -> bool:
        self.wait()
        try:
            self.before()
        except OSError as fault:
            self._count(fault)
            return False
        return True

    def _agreed(self, decide: Callable[[], bool]) -> bool:
        """Return the first rank's decision; the others need it only where they hold a part of the state."""
        if is_shared_out(self.state):
            return self.ranks.from_first(decide)
        return self.ranks.is_first and decide()

    def look(self) -> None:
        """Take note of a write that has ended; errors as in `save`."""
        if self.writing and self.writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the write that is under way; errors as in `save`."""
        writing, self.writing = self.writing, None
        if writing is None:
            return
        # the copy's memory, and holes that steps left where another thread's allocation came between: without this a
        # training of hours grows, by 4% in 80 minutes of CIFAR-10
        release_free_memory()
        try:
            self.state.last_checkpoint = writing.result()
            self.failed = False
        except OSError as fault:
            self._count(fault)

    def finish(self) -> None:
        """Have the state as it is now on disk. No attempt comes after this one: an OSError is raised at once."""
        if self._agreed(self._lacks_newest):
            self.failed = True
            self.save()
            self.wait()
        if self.ranks.is_first:
            self.drop(self.state.step)  # what a kill right after the last write left

    def _lacks_newest(self) -> bool:
        self.failed = True
        self.wait()
        return self.state.last_checkpoint is None or self.state.last_checkpoint.name != step_name(self.state.step)

    def _make_room(self) -> None:
        """Drop what a kill or a full disk left beyond the last good checkpoint: the next may not find room besides."""
        if self.ranks.is_first and self.state.last_checkpoint:
            with contextlib.suppress(OSError):  # the next write will say so
                self.drop(step_of(self.state.last_checkpoint))

    def _count(self, fault: OSError) -> None:
        self._make_room()
        kept = f"{fault.strerror}; last good checkpoint: {self.state.last_checkpoint or 'none yet'}"
        if self.failed:
            raise OSError(fault.errno, f"{kept}; make room and rerun the command", fault.filename) from fault
        self.failed = True
        warnings.warn(f"{kept}; training continues until the next attempt", stacklevel=4)
