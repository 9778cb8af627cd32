"""Channel statistics: NumPy's over all images at once, whatever their sizes, depth and the number of workers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.disk.errors import DataFault
from paddlemae.data.inspect import statistics
from paddlemae.data.inspect.statistics import channel_statistics
from paddlemae.data.sources import open_source


@pytest.fixture
def images(tmp_path: Path) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = []
    for number, size in enumerate(((5, 7), (64, 3), (20, 20), (1, 1), (33, 12))):
        made.append(rng.integers(40 * number, 40 * number + 60, (*size, 3), np.uint8))
        Image.fromarray(made[-1]).save(tmp_path / f"{number}.png")
    return made


def test_every_image_weighs_the_same(images: list[np.ndarray], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(statistics, "_BLOCK", 50)
    monkeypatch.setattr(statistics, "_CHUNK", 2)
    seen: list[int] = []
    found = channel_statistics(open_source(str(tmp_path)), 3, on_images=seen.append)
    values = [image.reshape(-1, 3) / 255 for image in images]
    mean = np.mean([each.mean(axis=0) for each in values], axis=0)
    square = np.mean([np.square(each).mean(axis=0) for each in values], axis=0)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.std, np.sqrt(square - mean**2), rtol=1e-10)
    assert found.least == tuple(np.concatenate(values).min(axis=0))
    assert found.largest == tuple(np.concatenate(values).max(axis=0))
    assert (found.images, found.unreadable, found.bits, seen) == (5, 0, 8, [2, 4, 5])


def test_workers_change_nothing(images: list[np.ndarray], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(statistics, "_CHUNK", 2)
    source = open_source(str(tmp_path))
    assert channel_statistics(source, 1, workers=1) == channel_statistics(source, 1)


def test_deep_values_far_from_zero_lose_no_digits(tmp_path: Path) -> None:
    """Where the usual sum of squares would leave five digits of a deviation of one part in 65535."""
    values = np.random.default_rng(1).integers(60000, 60003, (50, 40, 40, 2), np.uint16)
    np.save(tmp_path / "a.npy", values)
    found = channel_statistics(open_source(str(tmp_path / "a.npy")), 2)
    assert found.bits == 16
    np.testing.assert_allclose(found.std, (values.astype(np.float64) - 60000).std(axis=(0, 1, 2)) / 65535, rtol=1e-9)
    coarse = channel_statistics(open_source(str(tmp_path / "a.npy")), 2, bits=8)
    assert coarse.std == (0, 0) and coarse.mean == (234 / 255, 234 / 255)


def test_unreadable_images_are_reported_and_left_out(images: list[np.ndarray], tmp_path: Path) -> None:
    before = channel_statistics(open_source(str(tmp_path)), 3)
    (tmp_path / "bad.png").write_bytes(b"no image")
    told: list[str] = []
    found = channel_statistics(open_source(str(tmp_path)), 3, on_skip=lambda fault: told.append(fault.path))
    assert found == dataclasses.replace(before, unreadable=1) and told == [str(tmp_path / "bad.png")]
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataFault, match=r"no image of .*only can be read.*bad\.png"):
        channel_statistics(open_source(str(tmp_path / "only")), 3)
