"""Read the micro-batches of a training run, from the cache if it has one."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.batches import Batch, TrainingView, train_batches
from paddlemae.data.cache import CacheReader, cache_bytes, cache_images
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import Source, subset
from paddlemae.data.views.augment import View
from paddlemae.recipe import Training
from paddlemae.runs.progress import progress
from paddlemae.tasks.training.run_start import Start
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.parallel.ranks import Ranks


def training_batches(
    source: Source,
    view: TrainingView,
    training: Training,
    state: TrainState,
    on_skip: SkippedImages,
    start: Start,
    order: NDArray[np.int64] | None = None,
) -> Generator[Batch, None, None]:
    """Yield the micro-batches of the steps that `state` has not taken yet; create the cache first if one is set.

    Args:
        order: indices of the images of an epoch, of which some may be repeated; None: each once.
    """
    if training.cache:
        assert isinstance(view, View)  # a recipe of scenes takes no cache
        source = _pack_once(source, view, training, training.cache, start)
    if order is not None:
        source = subset(source, order)
    ranks = start.ranks
    batches = train_batches(
        source,
        view,
        **count_remaining(training, len(source), state),
        rank=ranks.rank,
        world=ranks.world,
        workers=training.workers,
        on_skip=on_skip,
    )
    return batches if ranks.world == 1 else synchronise(batches, on_skip, ranks)


def synchronise(
    batches: Generator[Batch, None, None], on_skip: SkippedImages, ranks: Ranks
) -> Generator[Batch, None, None]:
    """Yield each batch once all ranks have theirs; an error of one ends the training on all of them."""
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


def count_remaining(training: Training, num_images: int, state: TrainState) -> dict[str, int]:
    """Return the arguments of `train_batches` for the steps that `state` has not taken yet."""
    steps = training.total_steps(num_images) - state.step
    return dict(
        batch_size=training.batch_size,
        seed=training.seed,
        start_step=state.step * training.accumulation_steps,
        num_steps=steps * training.accumulation_steps,
    )


def _pack_once(source: Source, view: View, training: Training, folder: str, start: Start) -> Source:
    """Pack in the first process of all, and in the first of each host that does not see that pack."""
    turns = ((start.ranks.is_first, start), (start.ranks.local_rank == 0, replace(start, quiet=True)))
    for is_due, turn in turns if start.ranks.world > 1 else ():
        if is_due:
            _pack(source, view, training, folder, turn)
        start.ranks.wait()
    return _pack(source, view, training, folder, start)


def _pack(source: Source, view: View, training: Training, folder: str, start: Start) -> Source:
    with ExitStack() as until_packed:
        bars: list[Callable[[int, str], None]] = []  # none when the pack is there already

        def begin(path: Path) -> None:
            start.say(_describe_packing(source, path))
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


def _describe_packing(source: Source, path: Path) -> str:
    others = cache_bytes(path.parent)
    text = f"packing {len(source)} images into {path}"
    return f"{text}; other packs there take {others / 1e9:.2f} GB: delete those of old images" if others else text
