"""The corpus: each kind of file gives the pixels that docs/data-faults.md promises, or is left out with its reason."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from paddlemae.data.decode.images import UnreadableImage, read_image
from paddlemae.data.decode.pixel_format import convert_depth
from paddlemae.data.sources import open_source
from tests.support.image_corpus import CASES, READABLE, UNREADABLE, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(autouse=True)
def in_seconds() -> Iterator[None]:
    """A pipe that is opened waits for a writer forever: no test here may."""
    previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("reading hangs"))
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def test_what_is_listed_is_what_may_be_an_image(corpus: Path) -> None:
    assert len(READABLE) > 60 and len(UNREADABLE) > 40 and len({case.name for case in CASES}) == len(CASES)
    source = open_source(str(corpus))
    names = [os.fsencode(os.path.basename(source.describe(i))) for i in range(len(source))]
    assert sorted(names) == sorted(case.name for case in (*READABLE, *UNREADABLE))


def test_it_is_converted(corpus: Path) -> None:
    for case in READABLE:
        pixels = convert_depth(read_image(os.path.join(corpus, os.fsdecode(case.name)), 3), 8)
        assert pixels.dtype == np.uint8 and pixels.shape == case.pixels.shape, case.name
        assert np.abs(pixels.astype(int) - case.pixels).max() <= case.tolerance, case.name
        assert read_image(os.path.join(corpus, os.fsdecode(case.name)), 1).shape == (*case.pixels.shape[:2], 1)


def test_it_is_left_out_with_its_reason(corpus: Path) -> None:
    for case in UNREADABLE:
        with pytest.raises(UnreadableImage) as caught:
            read_image(os.path.join(corpus, os.fsdecode(case.name)), 3)
        assert re.search(case.reason, caught.value.reason) and "\n" not in str(caught.value), case.name


@pytest.mark.parametrize("name", ["pipe.png", "linked pipe.png"])
def test_a_pipe_that_was_named_is_not_waited_for(corpus: Path, name: str) -> None:
    with pytest.raises(UnreadableImage, match="a pipe or a device, not a file"):
        read_image(corpus / name, 3)


def test_a_bomb_is_refused_before_its_pixels_are_made(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    with pytest.raises(UnreadableImage, match="more than 89478485 pixels"):
        read_image(corpus / "really 10000 x 10000.png", 3)
