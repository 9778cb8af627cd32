"""Batches: order, resumption, ranks, substitutes, and processes that always end."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from paddlemae.data import workers as data_workers
from paddlemae.data.batches import (
    MAX_UNREADABLE_IN_A_ROW,
    Batch,
    epoch_order,
    eval_batches,
    train_batches,
)
from paddlemae.data.decode.images import NeedOf, Picture, UnreadableImage
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.random_streams import VIEW_STREAM, sample_rng
from paddlemae.data.sources import ClassTargets, Source, open_source, subset
from paddlemae.data.views.augment import View, eval_view
from tests.support.views import train_view

AS_IT_IS = View((4, 4), 1, crop_scale=None, flip=False, eval_crop_ratio=1.0)
SHIFTED = View((28, 28), 1, crop_scale=None, shift=3)


@dataclass(frozen=True, eq=False)
class Numbered:
    """`size` images 4 x 4, each filled with its own number, some of them unreadable."""

    size: int
    unreadable: frozenset[int] = frozenset()
    labelled: bool = True
    name: str = "numbers"
    targets: ClassTargets | None = field(init=False)

    def __post_init__(self) -> None:
        targets = ClassTargets(np.arange(self.size) % 2, ("even", "odd"))
        object.__setattr__(self, "targets", targets if self.labelled else None)

    def __len__(self) -> int:
        return self.size

    def describe(self, i: int) -> str:
        return f"number {i}"

    def read(self, i: int, channels: int) -> np.ndarray:
        if i in self.unreadable:
            raise UnreadableImage(f"number {i}", "unlucky")
        return np.full((4, 4, channels), i, np.uint8)

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        need_of(4, 4)
        return Picture(self.read(i, channels), (4, 4))

    def stamp(self, i: int) -> str:
        return self.describe(i)


@dataclass(frozen=True, eq=False)
class Fatal(Numbered):
    """Reading image 0 kills the process, as the kernel does when memory runs out."""

    def read(self, i: int, channels: int) -> np.ndarray:
        if i == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(i, channels)


@dataclass(frozen=True, eq=False)
class Mistaken(Numbered):
    """A bug; of image 0 one whose error does not survive pickling."""

    def read(self, i: int, channels: int) -> np.ndarray:
        if i == 0:
            raise Stubborn("no", "way")
        return super().read(i // 0, channels)


class Stubborn(Exception):
    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


@pytest.fixture
def bounded() -> Iterator[None]:
    """A test that hangs fails after a minute; a process that a test leaves behind fails it too."""

    def give_up(signum: int, frame: object) -> None:
        raise TimeoutError("this test must end within a minute")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)
    assert multiprocessing.active_children() == []


def train(source: object, view: View = AS_IT_IS, **settings: object) -> list[Batch]:
    return list(train_batches(source, view, **{"batch_size": 4, "seed": 5, "num_steps": 10, **settings}))


def joined(batches: list[Batch], name: str) -> list:
    return np.concatenate([getattr(batch, name) for batch in batches]).tolist()


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in ("images", "targets", "indices", "epochs"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_a_batch_holds_its_images_labels_indices_and_epochs() -> None:
    batch = train(Numbered(10))[0]
    assert batch.images.shape == (4, 1, 4, 4) and batch.images.dtype == np.uint8
    assert batch.targets.dtype == batch.indices.dtype == batch.epochs.dtype == np.int64
    assert batch.images[:, 0, 0, 0].tolist() == batch.indices.tolist()
    assert batch.targets.tolist() == (batch.indices % 2).tolist()
    assert train(Numbered(10, labelled=False))[0].targets is None


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 4), (7, 7), (3, 8), (1, 2)])
def test_every_image_comes_once_an_epoch(num_images: int, batch_size: int) -> None:
    """Batches cross epochs' borders, and one batch may hold several epochs."""
    batches = train(Numbered(num_images), batch_size=batch_size, num_steps=4 * num_images)
    indices, epochs = joined(batches, "indices"), joined(batches, "epochs")
    assert {len(batch.indices) for batch in batches} == {batch_size}
    for epoch in range(4 * batch_size):
        part = slice(epoch * num_images, (epoch + 1) * num_images)
        assert epochs[part] == [epoch] * num_images
        assert indices[part] == epoch_order(num_images, 5, epoch).tolist()
        assert sorted(indices[part]) == list(range(num_images))


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = [epoch_order(50, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 6
    assert orders[0] == epoch_order(50, 0, 0).tolist()


def test_the_stream_resumes_at_any_step() -> None:
    digits = open_source("digits", "val")
    whole = train(digits, SHIFTED, batch_size=64, num_steps=20)
    for step in (1, 7, 8, 19):
        rest = train(digits, SHIFTED, batch_size=64, start_step=step, num_steps=20 - step)
        assert_same(rest, whole[step:])


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_global_batches_in_order(world: int) -> None:
    digits = open_source("digits", "val")
    ranks = [train(digits, SHIFTED, batch_size=16, rank=rank, world=world, num_steps=40) for rank in range(world)]
    for whole, *shares in zip(train(digits, SHIFTED, batch_size=16, num_steps=40), *ranks, strict=True):
        for name in ("images", "targets", "indices", "epochs"):
            assert (np.concatenate([getattr(share, name) for share in shares]) == getattr(whole, name)).all()


def test_a_view_depends_on_seed_epoch_and_index_only() -> None:
    digits = open_source("digits", "val")
    batch = train(digits, SHIFTED, batch_size=8, start_step=100, num_steps=1)[0]
    for image, index, epoch in zip(batch.images, batch.indices.tolist(), batch.epochs.tolist(), strict=True):
        rng = sample_rng(5, VIEW_STREAM, epoch, index)
        assert (image == train_view(digits.read(index, 1), SHIFTED, rng)).all()


@dataclass(frozen=True, eq=False)
class Counted(Numbered):
    """Remembers what was decoded."""

    decoded: list[int] = field(default_factory=list)

    def read(self, i: int, channels: int) -> np.ndarray:
        self.decoded.append(i)
        return super().read(i, channels)


REPEATED = replace(SHIFTED, repeats=3)


def test_repeats_show_an_image_several_times_and_decode_it_once() -> None:
    source = Counted(10)
    batches = train(source, replace(AS_IT_IS, repeats=3), batch_size=6, num_steps=10)
    order = [*epoch_order(10, 5, 0), *epoch_order(10, 5, 1)]
    assert joined(batches, "indices") == [index for index in order for _ in range(3)]
    assert source.decoded == order
    assert joined(batches, "epochs") == [0, 1, 2] * 10 + [3, 4, 5] * 10
    assert [batch.images[:, 0, 0, 0].tolist() for batch in batches] == [batch.indices.tolist() for batch in batches]


def test_no_view_of_an_image_has_the_key_of_another() -> None:
    """Crops and masks are drawn from (seed, stream, epoch, index): no key may come twice."""
    batches = train(Numbered(10), replace(AS_IT_IS, repeats=4), batch_size=8, num_steps=50)
    keys = list(zip(joined(batches, "epochs"), joined(batches, "indices"), strict=True))
    assert len(set(keys)) == len(keys) == 400
    assert {epoch for epoch, _ in keys} == set(range(40))  # as many as epochs of views


def test_an_image_s_views_are_the_same_ones_whatever_the_repeats() -> None:
    def views(repeats: int) -> dict[tuple[int, int], bytes]:
        batches = train(Numbered(6), replace(View((4, 4), 1), repeats=repeats), batch_size=6, num_steps=6)
        return {
            (epoch, index): image.tobytes()
            for batch in batches
            for epoch, index, image in zip(batch.epochs.tolist(), batch.indices.tolist(), batch.images, strict=True)
        }

    assert views(1) == views(2) == views(3)


def test_repeated_views_resume_at_any_step_and_are_shared_by_ranks() -> None:
    digits = open_source("digits", "val")
    whole = train(digits, REPEATED, batch_size=24, num_steps=30)
    assert any(len(set(batch.indices.tolist())) == 8 for batch in whole)
    for step in (1, 17, 21, 29):
        assert_same(train(digits, REPEATED, batch_size=24, start_step=step, num_steps=30 - step), whole[step:])
    ranks = [train(digits, REPEATED, batch_size=24, rank=rank, world=2, num_steps=30) for rank in range(2)]
    for one, *shares in zip(whole, *ranks, strict=True):
        assert (np.concatenate([share.images for share in shares]) == one.images).all()


def test_repeats_that_a_share_of_the_batch_can_t_hold_are_refused() -> None:
    for settings in ({"batch_size": 8}, {"batch_size": 12, "world": 8}, {"batch_size": 12, "world": 6}):
        with pytest.raises(ValueError, match="expected a batch"):
            train(Numbered(10), replace(AS_IT_IS, repeats=3), **settings)


def test_an_unreadable_image_s_repeats_are_all_replaced() -> None:
    source, reported = Numbered(10, frozenset({3})), []
    batches = train(source, replace(AS_IT_IS, repeats=2), batch_size=10, num_steps=2, on_skip=reported.append)
    shown = np.concatenate([batch.images[:, 0, 0, 0] for batch in batches]).tolist()
    assert shown == [{3: 4}.get(index, index) for index in joined(batches, "indices")]
    assert joined(batches, "targets") == [number % 2 for number in shown] and len(reported) == 1


def test_batches_lie_in_memory_as_a_step_reads_them() -> None:
    assert train(Numbered(10), View((6, 5), 3))[0].images.flags.c_contiguous


def test_an_unreadable_image_is_replaced_by_the_next_readable_one() -> None:
    reported: list[UnreadableImage] = []
    source = Numbered(10, frozenset({3, 4, 9}))
    batches = train(source, num_steps=5, on_skip=reported.append)
    shown = [{3: 5, 4: 5, 9: 0}.get(index, index) for index in joined(batches, "indices")]
    assert np.concatenate([batch.images[:, 0, 0, 0] for batch in batches]).tolist() == shown
    assert joined(batches, "targets") == [index % 2 for index in shown]
    assert sorted(joined(batches, "indices")) == sorted([*range(10)] * 2)
    assert sorted(error.path for error in reported) == ["number 3"] * 2 + ["number 4"] * 4 + ["number 9"] * 2


def test_a_substitute_gets_the_view_of_the_image_that_was_due() -> None:
    source = Numbered(10, frozenset({3}))
    view = View((4, 4), 1, crop_scale=None, shift=3)
    for epoch in range(8):
        batch = train(source, view, batch_size=10, start_step=epoch, num_steps=1)[0]
        image = batch.images[batch.indices.tolist().index(3)]
        assert (image == train_view(source.read(4, 1), view, sample_rng(5, VIEW_STREAM, epoch, 3))).all()


def test_training_gives_up_when_nothing_can_be_read() -> None:
    with pytest.raises(ValueError, match=r"10 images in a row of numbers.* first: cannot read image 'number "):
        train(Numbered(10, frozenset(range(10))))
    long_gap = Numbered(250, frozenset(range(150)))
    with pytest.raises(ValueError, match=f"^{MAX_UNREADABLE_IN_A_ROW} images in a row"):
        train(long_gap, batch_size=250, num_steps=1)


def test_evaluation_sees_every_readable_image_once_in_order() -> None:
    reported: list[UnreadableImage] = []
    source = Numbered(11, frozenset({1, 4, 5, 6, 7}))
    batches = list(eval_batches(source, AS_IT_IS, batch_size=4, on_skip=reported.append))
    assert [batch.indices.tolist() for batch in batches] == [[0, 2, 3], [8, 9, 10]]
    assert [batch.targets.tolist() for batch in batches] == [[0, 0, 1], [0, 1, 0]]
    assert np.concatenate([batch.images[:, 0, 0, 0] for batch in batches]).tolist() == [0, 2, 3, 8, 9, 10]
    assert joined(batches, "epochs") == [0] * 6
    assert [error.path for error in reported] == [f"number {i}" for i in (1, 4, 5, 6, 7)]


def test_evaluation_ends_with_a_smaller_batch() -> None:
    digits = open_source("digits", "val")
    view = View((32, 32), 3)
    batches = list(eval_batches(digits, view, batch_size=64))
    assert [len(batch.indices) for batch in batches] == [64] * 7 + [52]
    assert (batches[-1].images[-1] == eval_view(digits.read(499, 3), view)).all()


def test_evaluation_of_nothing_readable_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no image of numbers can be read.* first: number 0"):
        list(eval_batches(Numbered(5, frozenset(range(5))), AS_IT_IS, batch_size=2))


def test_settings_without_sense_are_refused_at_the_call() -> None:
    for wrong in [
        {"batch_size": 0},
        {"batch_size": 3, "world": 2},
        {"rank": 2, "world": 2},
        {"rank": -1},
        {"world": 0},
        {"seed": -1},
        {"start_step": -1},
        {"num_steps": -1},
        {"workers": -1},
    ]:
        settings = {"batch_size": 4, "seed": 0, "num_steps": 1, **wrong}
        with pytest.raises(ValueError, match="expected"):
            train_batches(Numbered(4), AS_IT_IS, **settings)
        with pytest.raises(ValueError, match="got 0 images of numbers"):
            eval_batches(Numbered(0), AS_IT_IS, batch_size=1)


def test_workers_make_the_very_same_stream(bounded: None) -> None:
    source = Numbered(50, frozenset({7, 8, 30}))
    view = View((6, 5), 3)
    for batches in (train_batches, eval_batches):
        training = {"seed": 5, "num_steps": 12} if batches is train_batches else {}
        streams, reports = [], []
        for workers in (0, 2):
            reported: list[UnreadableImage] = []
            stream = batches(source, view, batch_size=8, workers=workers, on_skip=reported.append, **training)
            streams.append(list(stream))
            reports.append([str(error) for error in reported])
        assert_same(*streams)
        assert reports[0] == reports[1] and reports[0]


@pytest.mark.parametrize("batches", [train_batches, eval_batches])
def test_closing_early_leaves_no_process(bounded: None, batches: object) -> None:
    training = {"seed": 0, "num_steps": 10**9} if batches is train_batches else {}
    stream = batches(Numbered(200), AS_IT_IS, batch_size=1, workers=2, **training)
    next(stream)
    assert 1 <= len(multiprocessing.active_children()) <= 2
    stream.close()
    assert multiprocessing.active_children() == []


def test_an_error_in_a_worker_reaches_the_caller(bounded: None) -> None:
    stream = train_batches(Numbered(4, frozenset(range(4))), AS_IT_IS, batch_size=2, seed=0, num_steps=100, workers=2)
    with pytest.raises(ValueError, match="4 images in a row"):
        next(stream)
    assert multiprocessing.active_children() == []


def test_an_error_in_the_caller_s_report_leaves_no_process(bounded: None) -> None:
    def refuse(error: UnreadableImage) -> None:
        raise error

    stream = eval_batches(Numbered(9, frozenset({2})), AS_IT_IS, batch_size=3, workers=1, on_skip=refuse)
    with pytest.raises(UnreadableImage, match="number 2"):
        next(stream)
    assert multiprocessing.active_children() == []


def kill_one() -> None:
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


def test_a_killed_worker_changes_nothing_but_a_line(bounded: None, capfd: pytest.CaptureFixture[str]) -> None:
    source, view = Numbered(50, frozenset({7, 30})), View((96, 96), 3)  # more than a pipe holds, so some die sending
    settings = {"batch_size": 16, "seed": 5, "num_steps": 60}
    expected = list(train_batches(source, view, **settings))
    stream, batches = train_batches(source, view, workers=2, **settings), []
    for batch in stream:
        batches.append(batch)
        if len(batches) in (1, 20, 40):
            kill_one()
    assert_same(batches, expected)
    said = capfd.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in said] == ["paddlemae: a data worker died (SIGKILL)"] * 3
    assert said[-1].endswith("its batch is computed again (3 of 3 times)")


def test_workers_that_keep_dying_are_one_clear_error(bounded: None) -> None:
    with pytest.raises(DataFault, match=r"died \(SIGKILL\), for the 4th time.*use fewer workers") as caught:
        list(eval_batches(Fatal(8), AS_IT_IS, batch_size=2, workers=2))
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Doubled:
    """Work of more bytes than a pipe holds, that kills the first process which comes to know it in part."""

    killed: Path
    ballast: bytes = bytes(1 << 22)

    def __reduce__(self):
        return _doubled, (_Killing(self.killed), self.ballast)

    def __call__(self, number: int) -> int:
        return 2 * number


@dataclass(frozen=True)
class _Killing:
    once: Path

    def __reduce__(self):
        return _kill_once, (self.once,)


def _kill_once(killed: Path) -> Path:
    if not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return killed


def _doubled(killed: Path, ballast: bytes) -> Doubled:
    return Doubled(killed, ballast)


def test_a_worker_killed_while_it_receives_work_is_replaced(bounded: None, tmp_path: Path) -> None:
    assert list(data_workers.make_ahead(Doubled(tmp_path / "killed"), range(5), 1)) == [0, 2, 4, 6, 8]


def test_deaths_far_apart_are_all_made_good(bounded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_workers, "MADE_TO_RESET_DEATHS", 5)
    monkeypatch.setattr(data_workers, "MOST_DEATHS", 1)
    stream = train_batches(Numbered(50), AS_IT_IS, batch_size=4, seed=0, num_steps=36, workers=1)
    for number, _ in enumerate(stream):
        if number in (0, 12, 24):
            kill_one()
    assert number == 35


def test_a_worker_that_hangs_is_spoken_of_and_ended(
    bounded: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data_workers, "SILENT_SECONDS", 0.2)
    stream = train_batches(Numbered(50), AS_IT_IS, batch_size=4, seed=0, num_steps=10**9, workers=1)
    next(stream)
    process = multiprocessing.active_children()[0]
    os.kill(process.pid, signal.SIGSTOP)
    threading.Timer(1, os.kill, (process.pid, signal.SIGCONT)).start()
    for _ in range(5):
        next(stream)
    assert "no data for 0 s: a worker process or its disk hangs" in capfd.readouterr().err
    os.kill(process.pid, signal.SIGSTOP)
    stream.close()  # does not wait for it
    assert not process.is_alive()


def test_a_worker_s_mistake_keeps_its_traceback(bounded: None) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(eval_batches(subset(Source("numbers", Mistaken(8)), [1]), AS_IT_IS, batch_size=2, workers=1))
    assert "in read" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="Stubborn.*no way"):
        list(eval_batches(Mistaken(8), AS_IT_IS, batch_size=2, workers=1))


PARENT = """
import multiprocessing, signal
from paddlemae.data.views.augment import View
from paddlemae.data.batches import train_batches
from paddlemae.data.sources import open_source

if __name__ == "__main__":
    interrupts = []
    signal.signal(signal.SIGINT, lambda signum, frame: interrupts.append(signum))
    view = View((28, 28), 1, crop_scale=None, shift=2)
    stream = train_batches(open_source("digits"), view, batch_size=8, seed=0, num_steps=10**9, workers=2)
    for _ in range(20):
        next(stream)
    print("workers", len(multiprocessing.active_children()), flush=True)
    while not interrupts:
        next(stream)
    for _ in range(50):
        next(stream)
    stream.close()
    print("left", len(multiprocessing.active_children()), flush=True)
"""


@pytest.fixture
def parent(tmp_path: Path, bounded: None) -> Iterator[subprocess.Popen[str]]:
    """A process that trains with two workers, in a group of its own as a shell would start it."""
    script = tmp_path / "train.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, script], env=environment, start_new_session=True, **streams) as process:
        try:
            assert process.stdout.readline() == "workers 2\n", process.stderr.read()
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_s_signals_are_no_worker_s_to_answer(bounded: None, number: int) -> None:
    stream = train_batches(Numbered(50), AS_IT_IS, batch_size=4, seed=0, num_steps=10, workers=1)
    next(stream)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, number)
    assert len(list(stream)) == 9 and worker.exitcode == -signal.SIGKILL  # by the end of the stream


def run_script(script: Path, text: str) -> subprocess.CompletedProcess[str]:
    script.write_text(text)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=60)


def test_workers_do_not_run_the_program_again(tmp_path: Path) -> None:
    """A script without a guard would start workers in its workers, and end with an error."""
    text = """
from paddlemae.data.views.augment import View
from paddlemae.data.batches import eval_batches
from paddlemae.data.sources import open_source
print("once", flush=True)
batches = list(eval_batches(open_source("digits", "test"), View((28, 28), 1), batch_size=100, workers=2))
print(len(batches), __name__)
"""
    done = run_script(tmp_path / "script.py", text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n10 __main__\n", "")


def test_a_reader_of_the_program_s_own_comes_along(tmp_path: Path) -> None:
    text = """
from paddlemae.data.views.augment import View
from paddlemae.data.batches import eval_batches
from paddlemae.data.sources import Source, open_source, subset

class Mine:
    def __init__(self, reader):
        self.reader = reader
    def __getattr__(self, name):
        if name.startswith("__") or name == "reader":
            raise AttributeError(name)
        return getattr(self.reader, name)
    def __len__(self):
        return len(self.reader)

if __name__ == "__main__":
    source = subset(Source("mine", Mine(open_source("digits", "test").reader)), [5, 6])
    print(sum(len(batch.images) for batch in eval_batches(source, View((28, 28), 1), batch_size=1, workers=1)))
"""
    done = run_script(tmp_path / "script.py", text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_an_open_stream_does_not_keep_the_program_alive() -> None:
    code = """
from paddlemae.data.views.augment import View
from paddlemae.data.batches import train_batches
from paddlemae.data.sources import open_source
view = View((28, 28), 1, crop_scale=None, shift=2)
if __name__ == "__main__":
    import builtins
    builtins.stream = train_batches(open_source("digits"), view, batch_size=8, seed=0, num_steps=10**9, workers=1)
    next(builtins.stream)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_killed_parent_leaves_no_orphan(parent: subprocess.Popen[str]) -> None:
    """The workers hold the pipe to us: it ends when the last of them does."""
    parent.kill()
    parent.communicate(timeout=20)
    assert parent.returncode == -signal.SIGKILL


def test_ctrl_c_is_the_parent_s_alone_to_answer(parent: subprocess.Popen[str]) -> None:
    """A terminal sends it to the whole group; this parent goes on for 50 batches, and so must its workers."""
    os.killpg(parent.pid, signal.SIGINT)
    out, err = parent.communicate(timeout=20)
    assert (out, err) == ("left 0\n", "")


def test_the_data_room_starts_without_paddle_or_rooms_above_it() -> None:
    code = "import sys, paddlemae.data.batches; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "paddle" not in names
    rooms = {name.split(".")[1] for name in names if name.startswith("paddlemae.")}
    assert rooms == {"data", "engine", "system"}, rooms
    assert not {"pydantic", "yaml", "matplotlib"} & set(names)
