"""A disk that stumbles, is slow or goes away: what is tried again, how long, and what is said."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from paddlemae.data.batches import train_batches
from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.disk import retry, slow_reads
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.disk.retry import TRANSIENT_ERRORS, retry_read
from paddlemae.data.disk.slow_reads import report_slow_read
from paddlemae.data.sources import open_source
from paddlemae.data.views.augment import View


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture(autouse=True)
def hopeful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_given_up", set())


def failing(times: int, number: int | None) -> Callable[[], str]:
    """A read that fails so many times."""
    faults: Iterator[None] = iter([None] * times)

    def read() -> str:
        for _ in faults:
            raise UnreadableImage("a.png", os.strerror(number or 0), number)
        return "pixels"

    return read


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_fault_that_passes_costs_only_time(folder: Path, number: int) -> None:
    slept: list[float] = []
    assert retry_read(failing(3, number), str(folder), slept.append) == "pixels"
    assert slept == [1, 2, 4]


def test_a_fault_that_stays_is_the_image_s_after_a_minute(folder: Path) -> None:
    slept: list[float] = []
    with pytest.raises(UnreadableImage):
        retry_read(failing(100, errno.EIO), str(folder), slept.append)
    assert sum(slept) == 60
    with pytest.raises(UnreadableImage):
        retry_read(failing(1, errno.EIO), str(folder), slept.append)
    assert sum(slept) == 60, "a bad sector costs a minute once, not every epoch"


@pytest.mark.parametrize("number", [None, errno.ENOENT, errno.EACCES, errno.ELOOP])
def test_damage_and_lost_files_are_not_waited_for(folder: Path, number: int | None) -> None:
    assert number not in TRANSIENT_ERRORS
    with pytest.raises(UnreadableImage):
        retry_read(failing(1, number), str(folder), lambda seconds: pytest.fail("slept"))


@pytest.mark.parametrize("emptied", [False, True], ids=["gone", "empty, as a mount point"])
def test_a_folder_that_comes_back_loses_no_image(folder: Path, emptied: bool) -> None:
    slept: list[float] = []
    away = folder.rename(folder.with_name("away"))
    if emptied:
        folder.mkdir()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 9:
            if emptied:
                folder.rmdir()
            away.rename(folder)

    def read() -> str:
        if not (folder / "0.png").exists():
            raise UnreadableImage("0.png", "No such file or directory", errno.ENOENT)
        return "pixels"

    assert retry_read(read, str(folder), sleep) == "pixels"
    assert sum(slept) == 150


def test_a_folder_that_stays_away_ends_it_after_five_minutes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(folder))
    folder.rename(folder.with_name("away"))
    slept: list[float] = []
    monkeypatch.setattr(retry.retry_read, "__defaults__", (slept.append,))
    skipped: list[UnreadableImage] = []
    stream = train_batches(source, View((8, 8), 1), batch_size=2, seed=0, num_steps=3, on_skip=skipped.append)
    with pytest.raises(
        DataFault, match=r"images' was away for 5 minutes \(No such file or directory\); reconnect"
    ) as caught:
        next(stream)
    assert sum(slept) == 300 and skipped == [] and "\n" not in str(caught.value)


def test_a_file_removed_while_training_shifts_no_other(folder: Path) -> None:
    source, view = open_source(str(folder)), View((8, 8), 1, crop_scale=None, flip=False, eval_crop_ratio=1)

    def shown(skipped: list[UnreadableImage]) -> list[int]:
        stream = train_batches(source, view, batch_size=3, seed=0, num_steps=4, on_skip=skipped.append)
        return [int(image[0, 0, 0]) for batch in stream for image in batch.images]

    before = shown([])
    (folder / "2.png").unlink()
    skipped: list[UnreadableImage] = []
    assert shown(skipped) == [3 if number == 2 else number for number in before]
    assert {(os.path.basename(image.path), image.errno) for image in skipped} == {("2.png", errno.ENOENT)}


def test_a_slow_read_is_named_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(slow_reads, "_watcher", None)  # one that looks more often
    monkeypatch.setattr(slow_reads, "SLOW_SECONDS", 0.1)
    with report_slow_read("quick.png"):
        pass
    with report_slow_read("slow\n.png"):
        threading.Event().wait(0.5)
    said = capfd.readouterr().err
    assert said.count("paddlemae: reading is slow: 'slow\\n.png' has not come for 0 s, still waiting\n") == 1
    assert "quick" not in said and said.count("\n") == 1 and not slow_reads._reading
