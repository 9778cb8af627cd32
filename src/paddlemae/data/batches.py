"""Stream batches: resumable, and each rank gets its own share.

Training is an endless stream of views: number g is image `epoch_order(g // N)[g % N]` of N, and
global batch s holds views s * batch_size onwards. So a stream resumes at any step, every image comes
once an epoch, and batches cross epochs' borders. Ranks take contiguous shares of a global batch, and a
view's randomness depends on (seed, epoch, index) alone: neither ranks nor workers change a batch.

With R repeats (repeated augmentation; Hoffer et al., arXiv 1901.09335), R views in a row are of one image, decoded
once: view g shows image `epoch_order(p)[g // R % N]` in pass p = g // (R * N). An epoch is N views whatever R is, so
steps, epochs and the schedule stay as they are, while a pass over the images takes R epochs. A view's `epoch` is the
number of views that its image had before, p * R + g % R: an image's k-th view, and mask, is the same for every R.

Shapes: B images a batch (of this rank), C channels, H height, W width.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import Need, UnreadableImage
from paddlemae.data.decode.pixel_format import Pixels, convert_depth, default_bits
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.random_streams import ORDER_STREAM, PATH_STREAM, VIEW_STREAM, generator_of, state_words
from paddlemae.data.sources import Source
from paddlemae.data.sources.source import BadMask, BatchTargets, Mask, other_size
from paddlemae.data.views.augment import Draw, View, compute_need, draw_view, eval_view, make_view
from paddlemae.data.views.scenes import SceneView, draw_scene, make_scene, scene_need
from paddlemae.data.workers import make_ahead

MAX_UNREADABLE_IN_A_ROW = 100

TrainingView = View | SceneView
OnSkip = Callable[[UnreadableImage], None]


@dataclass(frozen=True, eq=False)
class Batch:
    """Images, uint8 or uint16 [B, C, H, W], with their targets, indices and epochs.

    Args:
        targets: int64 [B] of classes, float32 [B, classes] of several classes an image, or int16 [B, H, W] of masks;
            None without targets.
        indices, epochs: int64 [B], the image that was due and how many views it had before; where it was unreadable in
            training, `images` and `targets` are those of its substitute.
    """

    images: Pixels
    targets: BatchTargets | None
    indices: NDArray[np.int64]
    epochs: NDArray[np.int64]


_Due = tuple[NDArray[np.int64], NDArray[np.int64]]  # the indices and epochs of a batch to make
_Made = tuple[Batch | DataFault, list[UnreadableImage]]  # a fault that is raised once the images are reported
_Make = Callable[[_Due], _Made]
_Read = TypeVar("_Read")


def batch_rngs(seed: int, stream: int, batch: Batch) -> list[np.random.Generator]:
    """Return the random generator of each image in a batch for one purpose."""
    return [generator_of(words) for words in state_words(seed, stream, batch.epochs, batch.indices)]


def path_noise(seed: int, batch: Batch, depth: int) -> NDArray[np.float32]:
    """Return each image's noise for drop path, float32 [B, depth, 2] in [0, 1); see `model.encoder.encode`."""
    return np.stack([rng.random((depth, 2), np.float32) for rng in batch_rngs(seed, PATH_STREAM, batch)])


def labels_of(batch: Batch) -> NDArray[np.int64]:
    """Return the labels of a batch of labelled images, int64 [B]."""
    assert batch.targets is not None and batch.targets.dtype == np.int64
    return cast(NDArray[np.int64], batch.targets)


def epoch_order(num_images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of an epoch: a permutation of 0..num_images-1."""
    return np.random.default_rng((seed, ORDER_STREAM, epoch)).permutation(num_images)


def train_batches(
    source: Source,
    view: TrainingView,
    *,
    batch_size: int,
    seed: int,
    num_steps: int,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    on_skip: OnSkip | None = None,
) -> Generator[Batch, None, None]:
    """Yield this rank's share of the global batches start_step .. start_step + num_steps - 1.

    An unreadable image is replaced by the next readable one of the source. Close the generator (or
    exhaust it) to end its worker processes.

    Args:
        batch_size: views a step over all ranks.
        num_steps: batches to yield, counted from `start_step`.
        rank, world: this process among those that share the global batches.
        workers: processes that make batches ahead; 0 makes them here.
        on_skip: called here with every unreadable image, each time it is met.
    Raises:
        ValueError: settings out of range, or repeats that don't divide a rank's share.
        DataFault: while iterating, no readable image among `MAX_UNREADABLE_IN_A_ROW`, a folder that does not come
            back, or worker processes that keep dying.
    """
    _check(source, batch_size, workers)
    if not 0 <= rank < world or batch_size % world:
        raise ValueError(
            f"expected a batch_size that the processes divide and a rank below their number, "
            f"got batch_size {batch_size}, rank {rank} of {world}"
        )
    if min(seed, start_step, num_steps) < 0:
        raise ValueError(f"expected seed, start_step, num_steps of 0 or more, got {seed}, {start_step}, {num_steps}")
    share = batch_size // world
    if share % view.repeats:
        raise ValueError(
            f"expected a batch of which each process takes a multiple of repeats={view.repeats}, "
            f"got batch_size {batch_size} on {world}"
        )
    starts = (step * batch_size + rank * share for step in range(start_step, start_step + num_steps))
    make: _Make = (
        functools.partial(_make_scene_batch, source, view, seed)
        if isinstance(view, SceneView)
        else functools.partial(_make_train_batch, source, view, seed)
    )
    due = _due_in_training(len(source), view.repeats, seed, share, starts)
    return _stream(make, due, workers, on_skip)


def due_in_training(
    num_images: int, *, batch_size: int, seed: int, num_steps: int, start_step: int = 0
) -> Iterator[_Due]:
    """Yield (indices, epochs) of the batches that `train_batches` makes of `num_images` images on one process."""
    starts = range(start_step * batch_size, (start_step + num_steps) * batch_size, batch_size)
    return _due_in_training(num_images, 1, seed, batch_size, starts)


def eval_batches(
    source: Source,
    view: View,
    *,
    batch_size: int,
    chosen: Iterable[int] | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    on_skip: OnSkip | None = None,
) -> Generator[Batch, None, None]:
    """Yield every image once, in the source's order; unreadable ones are left out.

    With `chosen` only the batches of these numbers come, in this order, each as it is without it. Other arguments and
    errors are those of `train_batches`, but that batches are dealt out whole to several ranks: each image comes on one
    of them, and none is repeated to fill a share. The last batch may be smaller, and so is one with unreadable images;
    `indices` says which are there. That there is none at all is a fault only where one rank sees all batches.
    """
    _check(source, batch_size, workers)
    make = functools.partial(_make_eval_batch, source, view)
    numbers = itertools.islice(range(-(-len(source) // batch_size)) if chosen is None else chosen, rank, None, world)
    spans = (np.arange(n * batch_size, min((n + 1) * batch_size, len(source)), dtype=np.int64) for n in numbers)
    due = ((indices, np.zeros_like(indices)) for indices in spans)
    return _filled(_stream(make, due, workers, on_skip), source, may_lack=world > 1 or chosen is not None)


def _check(source: Source, batch_size: int, workers: int) -> None:
    if len(source) < 1 or batch_size < 1 or workers < 0:
        raise ValueError(
            f"expected images, a positive batch_size and no negative workers, "
            f"got {len(source)} images of {source.name}, batch_size {batch_size}, workers {workers}"
        )


def _due_in_training(num_images: int, repeats: int, seed: int, share: int, starts: Iterable[int]) -> Iterator[_Due]:
    """Yield the content of each batch, given the number of its first view in the endless stream."""
    order = functools.lru_cache(maxsize=2)(functools.partial(epoch_order, num_images, seed))
    for start in starts:
        views = np.arange(start, start + share)
        passes, places = np.divmod(views // repeats, num_images)
        indices = [order(number)[place] for number, place in zip(passes.tolist(), places.tolist(), strict=True)]
        yield np.array(indices, np.int64), passes * repeats + views % repeats


def _make_train_batch(source: Source, view: View, seed: int, due: _Due) -> _Made:
    images: Pixels = np.empty((len(due[0]), view.channels, *view.image_size), view.dtype)
    shown: list[int] = []
    skipped: list[UnreadableImage] = []
    indices = due[0].tolist()
    states = state_words(seed, VIEW_STREAM, due[1], due[0])
    for first in range(0, len(indices), view.repeats):
        see = functools.partial(training_views, source, view, states[first : first + view.repeats])
        try:
            substitute, made = _first_readable(source, indices[first], see, skipped)
        except UnreadableImage as error:
            return _nothing_readable(source, error), skipped
        for place, made_view in enumerate(made, start=first):
            images[place] = made_view
        shown += [substitute] * view.repeats
    return Batch(images, _targets_of(source, shown), *due), skipped


def _nothing_readable(source: Source, first: UnreadableImage) -> DataFault:
    tries = min(len(source), MAX_UNREADABLE_IN_A_ROW)
    return DataFault(f"{tries} images in a row of {source.name} are unreadable, fix them; first: {first}")


def _make_scene_batch(source: Source, view: SceneView, seed: int, due: _Due) -> _Made:
    images: Pixels = np.empty((len(due[0]), view.channels, *view.image_size), view.dtype)
    masks = np.empty((len(due[0]), *view.image_size), np.int16)
    skipped: list[UnreadableImage] = []
    states = state_words(seed, VIEW_STREAM, due[1], due[0])
    for place, (index, state) in enumerate(zip(due[0].tolist(), states)):
        see = functools.partial(_training_scene, source, view, state)
        try:
            _, (images[place], masks[place]) = _first_readable(source, index, see, skipped)
        except UnreadableImage as error:
            return _nothing_readable(source, error), skipped
    return Batch(images, masks, *due), skipped


def _training_scene(source: Source, view: SceneView, state: NDArray[np.uint64], i: int) -> tuple[Pixels, Mask]:
    """Return the view of image i and its mask that the generator of a state draws."""
    mask = source.masks.read(i)
    draw = draw_scene(mask, view, generator_of(state))

    def need_of(height: int, width: int) -> Need:
        if mask.shape != (height, width):
            raise BadMask(other_size(source.masks.describe(i), mask.shape, (height, width)))
        return scene_need(height, width, draw, view)

    return make_scene(source.read_picture(i, view.channels, need_of), mask, view, draw)


@dataclass(frozen=True, eq=False)
class Scene:
    """A whole image, uint8 or uint16 [C, H, W], with its mask, int16 [H, W], and its index in the source."""

    index: int
    image: Pixels
    mask: Mask


def whole_scenes(
    source: Source,
    channels: int,
    bits: Literal[8, 16] | None,
    *,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    on_skip: OnSkip | None = None,
) -> Iterator[Scene]:
    """Yield every `world`-th image of a source from `rank` on with its mask, in order; unreadable ones are left out.

    Args:
        bits: of a channel's value; None is the depth of that many channels.
        workers, on_skip: as of `train_batches`.
    """
    read = functools.partial(_read_scene, source, channels, bits or default_bits(channels))
    with contextlib.closing(make_ahead(read, range(rank, len(source), world), workers)) as scenes:
        for scene in scenes:
            if isinstance(scene, Scene):
                yield scene
            elif on_skip is not None:
                on_skip(scene)


def _read_scene(source: Source, channels: int, bits: Literal[8, 16], i: int) -> Scene | UnreadableImage:
    try:
        image_HWC = convert_depth(source.read(i, channels), bits)
    except UnreadableImage as error:
        return error.without_frames()
    mask = source.masks.read(i, (image_HWC.shape[0], image_HWC.shape[1]))
    return Scene(i, np.ascontiguousarray(image_HWC.transpose(2, 0, 1)), mask)


def _targets_of(source: Source, indices: NDArray[np.int64] | list[int]) -> BatchTargets | None:
    return None if source.targets is None else source.targets.batch(indices)


def training_views(source: Source, view: View, states_N4: NDArray[np.uint64], i: int) -> list[Pixels]:
    """Return a view of image i for each state of a generator, decoded once, as much as the most demanding needs."""
    draws: list[Draw] = []

    def need_of(height: int, width: int) -> Need:
        draws.extend(draw_view(height, width, view, generator_of(state)) for state in states_N4)
        return compute_need(draws, view)

    picture = source.read_picture(i, view.channels, need_of)
    return [make_view(picture, view, draw) for draw in draws]


def _first_readable(
    source: Source, index: int, read: Callable[[int], _Read], skipped: list[UnreadableImage]
) -> tuple[int, _Read]:
    """Return (number, what is read) of the image at `index` or the next readable one, wrapping; append the others.

    Raise the first UnreadableImage if `MAX_UNREADABLE_IN_A_ROW` can't be read.
    """
    faults: list[UnreadableImage] = []
    for candidate in range(index, index + min(len(source), MAX_UNREADABLE_IN_A_ROW)):
        try:
            return candidate % len(source), read(candidate % len(source))
        except UnreadableImage as error:
            faults.append(error.without_frames())
            skipped.append(error)
    raise faults[0]


def _make_eval_batch(source: Source, view: View, due: _Due) -> _Made:
    views = []
    read = np.zeros(len(due[0]), bool)
    skipped: list[UnreadableImage] = []
    for place, index in enumerate(due[0].tolist()):
        try:
            views.append(eval_view(source.read(index, view.channels), view))
            read[place] = True
        except UnreadableImage as error:
            skipped.append(error.without_frames())
    indices, epochs = due[0][read], due[1][read]
    images = np.stack(views) if views else np.empty((0, view.channels, *view.image_size), view.dtype)
    return Batch(images, _targets_of(source, indices), indices, epochs), skipped


def _filled(batches: Generator[Batch, None, None], source: Source, may_lack: bool) -> Generator[Batch, None, None]:
    """Yield the batches that have images; having none at all may be an error."""
    num_images = 0
    with contextlib.closing(batches):
        for batch in batches:
            num_images += len(batch.indices)
            if len(batch.indices):
                yield batch
    if num_images == 0 and not may_lack:
        raise DataFault(f"no image of {source.name} can be read; fix or replace them; first: {source.describe(0)}")


def _stream(make: _Make, due: Iterable[_Due], workers: int, on_skip: OnSkip | None) -> Generator[Batch, None, None]:
    with contextlib.closing(make_ahead(make, due, workers)) as made:
        for batch, skipped in made:
            for error in skipped:
                if on_skip is not None:
                    on_skip(error)
            if isinstance(batch, DataFault):
                raise batch
            yield batch
