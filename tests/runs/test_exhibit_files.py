"""Exhibits: pictures joined in one file, found again where they were put, and their files whole or named."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.runs.exhibit_files import LARGEST_SIDE, read_exhibit, write_exhibit, write_sprite
from paddlemae.runs.figures import overlay_heat

CONTENT = {"caption": "ünïcode \u2028 </script>", "steps": [{"step": 1, "share": 0.25}]}


def flat_pictures(count: int, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """Pictures of one tone each, apart enough for JPEG."""
    tones = 20 + 200 // count * np.arange(count)
    return np.broadcast_to(tones[:, None, None, None], (count, *size, channels)).astype(np.uint8)


def tile(run: Path, sprite: dict, number: int) -> np.ndarray:
    """Where a reader of the sprite looks for a picture."""
    (height, width), columns = sprite["tile"], sprite["columns"]
    top, left = number // columns * height, number % columns * width
    with Image.open(run / sprite["file"]) as sheet:
        return np.asarray(sheet).astype(float)[top : top + height, left : left + width]


def test_an_exhibit_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_exhibit(tmp_path / "run", "map") is None
    write_exhibit(tmp_path / "run", "map", {"old": 1})
    write_exhibit(tmp_path / "run", "map", CONTENT)
    assert read_exhibit(tmp_path / "run", "map") == CONTENT
    assert [path.name for path in (tmp_path / "run/exhibits").iterdir()] == ["map.json"], "nothing half written stays"


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", b"\xff\xfe", "1" * 5000], ids=range(6))
def test_a_damaged_exhibit_is_named(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "exhibits").mkdir()
    path = tmp_path / "exhibits/map.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="is damaged") as fault:
        read_exhibit(tmp_path, "map")
    assert str(path) in str(fault.value)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (5, 2), (6, 3), (3, 8)])
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_each_picture_is_where_its_number_says(tmp_path: Path, count: int, columns: int, size) -> None:
    pictures = flat_pictures(count, size)
    sprite = write_sprite(tmp_path, "map", pictures, columns)
    assert sprite == {"file": "exhibits/map.jpg", "tile": list(size), "columns": columns, "count": count}
    for number, picture in enumerate(pictures):
        assert np.abs(tile(tmp_path, sprite, number) - picture).max() <= 6
    with Image.open(tmp_path / sprite["file"]) as sheet:
        assert sheet.size == (columns * size[1], -(-count // columns) * size[0])


def test_colours_do_not_bleed_into_the_neighbours_picture(tmp_path: Path) -> None:
    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    pictures[0, ..., 0] = pictures[1, ..., 2] = 220
    sprite = write_sprite(tmp_path, "pair", pictures, columns=2)
    for number in range(2):
        assert np.abs(tile(tmp_path, sprite, number) - pictures[number]).max() <= 12


@pytest.mark.parametrize(
    ("size", "largest_side", "wanted"),
    [
        ((224, 224), LARGEST_SIDE, [112, 112]),
        ((224, 448), LARGEST_SIDE, [56, 112]),
        ((300, 3), 64, [64, 1]),
        ((28, 28), LARGEST_SIDE, [28, 28]),
    ],
)
def test_large_pictures_are_made_smaller_and_small_ones_never_larger(tmp_path: Path, size, largest_side, wanted):
    sprite = write_sprite(tmp_path, "one", flat_pictures(1, size), 1, largest_side)
    assert sprite["tile"] == wanted
    assert tile(tmp_path, sprite, 0).shape[:2] == tuple(wanted)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_of_other_channels_the_first_is_shown(tmp_path: Path, channels: int) -> None:
    pictures = np.full((2, 8, 8, channels), 255, np.uint8)
    pictures[..., 0] = 90
    sprite = write_sprite(tmp_path, "first", pictures, 2)
    assert np.abs(tile(tmp_path, sprite, 1) - 90).max() <= 2


def test_a_sprite_is_replaced_whole(tmp_path: Path) -> None:
    for tone in (30, 200):
        sprite = write_sprite(tmp_path, "again", np.full((1, 8, 8, 3), tone, np.uint8), 1)
    assert np.abs(tile(tmp_path, sprite, 0) - 200).max() <= 2
    assert [path.name for path in (tmp_path / "exhibits").iterdir()] == ["again.jpg"]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("size", "grid"), [((32, 32), (4, 4)), ((24, 40), (3, 5))])
def test_heat_is_brightest_where_the_map_is_highest(channels: int, size, grid) -> None:
    heat = np.zeros(grid)
    heat[1, 2] = 1e-3  # of any scale
    shown = overlay_heat(np.full((*size, channels), 128, np.uint8), heat)
    assert shown.shape == (*size, 3) and shown.dtype == np.uint8
    light = shown.astype(int).sum(axis=2)
    row, column = np.unravel_index(light.argmax(), size)
    assert (row // 8, column // 8) == (1, 2)
    assert light.max() > light[-1, 0] + 200


def test_a_map_of_nothing_shows_the_picture() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4] = 250
    shown = overlay_heat(picture, np.zeros((2, 2))).astype(int)
    assert (shown[0].sum(axis=-1) > shown[-1].sum(axis=-1) + 200).all()


def test_a_full_disk_leaves_the_old_picture(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)).astype(np.uint8)
    sprite = write_sprite(tmp_path, "map", flat_pictures(1, (16, 16)), 1)
    before = (tmp_path / sprite["file"]).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # what does not fit is cut off first, and refused then
    try:
        with pytest.raises(OSError, match="File too large"):
            write_sprite(tmp_path, "map", noise, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / sprite["file"]).read_bytes() == before
    assert [path.name for path in (tmp_path / "exhibits").iterdir()] == ["map.jpg"], "nothing half written stays"
