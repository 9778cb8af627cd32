"""What the tests of tasks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paddlemae.tasks.models import parts
from paddlemae.train.parallel.ranks import Ranks
from tests.support.connected_ranks import begin, close, meet

LONG = 60.0  # seconds, of which most is waiting for the core
OnRanks = Callable[[int, Callable[[Ranks], Any]], list[Any]]


@pytest.fixture
def some_bad(tmp_path) -> Path:
    """12 pictures, of which the second and all of the second part are none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        if number in (1, 4, 5, 6, 7):
            (folder / f"{number:02}.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def small_parts(monkeypatch) -> None:
    monkeypatch.setattr(parts, "LEAST_PARTS", 3)


@pytest.fixture
def together(small_parts) -> Iterator[OnRanks]:
    """Return what a call returns or raises on each of several ranks, in threads of this process; an error ends all."""
    met: list[Ranks] = []

    def on_ranks(world: int, call: Callable[[Ranks], Any]) -> list[Any]:
        def to_an_end(ranks: Ranks) -> Any:
            try:
                return call(ranks)
            except BaseException as fault:
                ranks.end(2, str(fault))
                raise

        ranks = meet(world)
        met.extend(ranks)
        futures = [begin(partial(to_an_end, one)) for one in ranks]
        return [future.exception(LONG) or future.result() for future in futures]

    yield on_ranks
    close(met)
