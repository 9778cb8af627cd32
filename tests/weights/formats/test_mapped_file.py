"""Mapped files: what is given back after use is less memory, and the same values."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from paddlemae.weights.formats.mapped_file import map_file, release

COUNT = 8_000_000
needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")


def resident(path: Path) -> int:
    """Bytes of the mapped file that are in this process's memory."""
    found = re.search(rf"{path}\n(?:.*\n)*?Rss:\s*(\d+) kB", Path("/proc/self/smaps").read_text())
    assert found
    return int(found[1]) * 1024


VIEWS = {
    "whole": lambda data: np.frombuffer(data, np.float32),
    "buffer": lambda data: np.ndarray((COUNT,), np.float32, data),
    "reversed": lambda data: np.frombuffer(data, np.float32)[::-1],
    "transposed": lambda data: np.ndarray((1000, COUNT // 1000), np.float32, data).T[3:],
    "bytes": lambda data: data[5:],
}


@needs_proc
@pytest.mark.parametrize("name", VIEWS)
def test_what_is_released_leaves_memory_and_is_read_again(name: str, tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    np.arange(COUNT, dtype=np.float32).tofile(path)
    view = VIEWS[name](map_file(path))
    before = np.asarray(view).astype(np.float64).sum()
    assert resident(path) > 0.9 * path.stat().st_size
    release(view)
    assert resident(path) < 0.05 * path.stat().st_size
    assert np.asarray(view).astype(np.float64).sum() == before


def test_a_part_is_released_and_what_is_no_view_of_a_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    np.arange(COUNT, dtype=np.float32).tofile(path)
    data = map_file(path)
    release(np.frombuffer(data, np.float32)[: COUNT // 2])
    own = np.arange(5)
    release(own)
    release(own[:0])
    release(memoryview(b"text"))
    release(np.broadcast_to(np.frombuffer(data[:4], np.float32), (9,)))
    assert own.tolist() == [0, 1, 2, 3, 4]
    assert np.frombuffer(data, np.float32)[-1] == COUNT - 1
