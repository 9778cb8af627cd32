"""Masks by choice: which patches go."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.tasks.models.mask_choice import MaskChoice, choose_mask, parse_mask

GRID = (4, 6)
PATCH_SIZE = (8, 16)


def removed(choice: MaskChoice, batch_size: int = 3) -> np.ndarray:
    return choose_mask(choice, GRID, batch_size).as_map().reshape(batch_size, *GRID)


def test_a_random_mask_follows_its_seed_and_differs_between_images() -> None:
    maps = removed(MaskChoice("random", 0.5, seed=1))
    assert maps.sum(axis=(1, 2)).tolist() == [12, 12, 12]
    assert (maps[0] != maps[1]).any() and (removed(MaskChoice("random", 0.5, seed=1)) == maps).all()
    assert (removed(MaskChoice("random", 0.5, seed=2)) != maps).any()


def test_a_block_mask_removes_the_ratio_and_differs_between_images() -> None:
    maps = removed(MaskChoice("block", 0.25))
    assert maps.sum(axis=(1, 2)).tolist() == [6, 6, 6] and (maps[0] != maps[1]).any()


def test_a_grid_mask_keeps_one_of_four() -> None:
    maps = removed(MaskChoice("grid"))
    assert maps.sum(axis=(1, 2)).tolist() == [18] * 3 and (maps[0] == maps[2]).all()


@pytest.mark.parametrize("name", ["mask.npy", "mask.txt"])
def test_a_mask_from_a_file_is_used_for_every_image(tmp_path, name: str) -> None:
    wanted = np.zeros(GRID, int)
    wanted[1:3, 2:5] = 1
    path = tmp_path / name
    np.save(path, wanted) if path.suffix == ".npy" else np.savetxt(path, wanted, fmt="%d")
    maps = removed(MaskChoice("given", file=path))
    assert (maps == wanted).all() and len(maps) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, "mask file .*gone.txt does not exist"),
        ("a.txt", b"1 0 1\n0 1 1\n", r"a mask must be \[B, 24\] or \[B, 4, 6\] .*, got \[3, 2, 3\]"),
        ("a.txt", b"zero one\n", "a.txt is not a mask; expected rows of 0"),
        ("a.txt", b"0 1\n1\n", "a.txt is not a mask"),
        ("a.txt", b"", "a.txt is not a mask"),
        ("a.npy", b"", "a.npy is not a mask"),
        ("a.npy", b"garbage", "a.npy is not a mask"),
        ("a.txt", b"2 0 0 0 0 0\n" * 4, "0 .kept. and 1 .removed. only"),
        ("a.txt", b"1 1 1 1 1 1\n" * 4, "keep"),
    ],
)
def test_a_wrong_mask_file_is_one_line(tmp_path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as fault:
        removed(MaskChoice("given", file=tmp_path / name))
    assert str(tmp_path / name) in str(fault.value) and "\n" not in str(fault.value)


def test_a_wrong_choice_is_one_line() -> None:
    for choice, message in [
        (MaskChoice("holes"), "mask must be random, block, grid or a given map, got 'holes'"),
        (MaskChoice("random", 1.0), r"mask_ratio must be in \[0, 1\), got 1.0"),
        (MaskChoice("block", -0.5), r"mask_ratio must be in \[0, 1\), got -0.5"),
        (MaskChoice("random", 0.99), "keeps none of 24 patches"),
    ]:
        with pytest.raises(ValueError, match=message):
            removed(choice)


def chosen(text: str) -> np.ndarray:
    return choose_mask(parse_mask(text), GRID, 2, PATCH_SIZE).as_map().reshape(2, *GRID)


@pytest.mark.parametrize("name", ["random", "block", "grid"])
def test_words_mean_what_is_drawn(name: str) -> None:
    assert (chosen(name) == removed(MaskChoice(name), 2)).all()
    assert parse_mask(name, 0.5, 7) == MaskChoice(name, 0.5, 7)


def test_none_removes_nothing() -> None:
    assert not chosen("none").any()


def test_a_box_removes_every_patch_that_it_touches() -> None:
    for boxes, slices in [
        ("0,0,16,8", [(slice(0, 1), slice(0, 1))]),
        ("15,7,17,9", [(slice(0, 2), slice(0, 2))]),  # one pixel in each of four
        ("16,8,48,16", [(slice(1, 2), slice(1, 3))]),  # right and bottom are not included
        ("0,0,96,8; 80,24,96,32;", [(slice(0, 1), slice(0, 6)), (slice(3, 4), slice(5, 6))]),
    ]:
        expected = np.zeros(GRID, bool)
        for place in slices:
            expected[place] = True
        assert (chosen(f"boxes:{boxes}") == expected).all()


@pytest.mark.parametrize(("name", "mode"), [("m.png", "L"), ("m.png", "RGB"), ("m.png", "1"), ("m.PNG", "I;16")])
@pytest.mark.parametrize("scale", [1, 7])
def test_a_picture_removes_what_is_white(tmp_path, name: str, mode: str, scale: int) -> None:
    expected = np.zeros(GRID, bool)
    expected[1:3, 2:5] = True
    pixels = np.kron(expected, np.ones((scale, scale))).astype(np.uint8) * 255
    if mode == "I;16":
        Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / name)
    else:
        Image.fromarray(pixels).convert(mode).save(tmp_path / name)
    assert (chosen(str(tmp_path / name)) == expected).all()


def test_a_patch_goes_from_half_white_on(tmp_path) -> None:
    pixels = np.zeros((4 * 4, 6 * 4), np.uint8)
    pixels[:4, :2] = 255  # half of the first patch
    pixels[:4, 4:5] = 255  # a quarter of the second
    pixels[4:8, :] = 127  # a grey below the middle
    Image.fromarray(pixels).save(tmp_path / "m.png")
    expected = np.zeros(GRID, bool)
    expected[0, 0] = True
    assert (chosen(str(tmp_path / "m.png")) == expected).all()


def test_a_map_may_differ_between_images() -> None:
    maps = np.zeros((2, *GRID), int)
    maps[0, 0, 0] = maps[1, 3, 5] = 1
    assert (choose_mask(MaskChoice(removed=maps), GRID, 2).as_map().reshape(maps.shape) == maps).all()
    assert (removed(MaskChoice(removed=maps[1])) == maps[1]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("holes", "mask must be random, block, grid, none, boxes:.*; got 'holes'"),
        ("boxes:", "boxes: needs at least one box, such as boxes:10,20,60,80"),
        ("boxes:1,2,3", "boxes must be LEFT,TOP,RIGHT,BOTTOM in whole pixels.*; got '1,2,3'"),
        ("boxes:1,2,3,x", "boxes must be LEFT,TOP,RIGHT,BOTTOM in whole pixels.*; got '1,2,3,x'"),
        ("boxes:0,0,97,8", "in the resized image, 96 pixels wide and 32 high, .*; got 0,0,97,8"),
        ("boxes:-1,0,9,8", "in the resized image, 96 pixels wide and 32 high, .*; got -1,0,9,8"),
        ("boxes:9,0,9,8", "with left < right and top < bottom; got 9,0,9,8"),
        ("boxes:0,0,96,32", "the boxes touch every patch"),
        ("unmade.png", "mask file unmade.png does not exist"),
        ("white.png", "white.png is white in every patch"),
        ("bad.png", r"bad.png is not a mask; expected a picture, white = removed \(not an image"),
    ],
)
def test_a_wrong_word_is_one_line(tmp_path, monkeypatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (9, 9), 255).save("white.png")
    Path("bad.png").write_bytes(b"no image")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as fault:
        chosen(text)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("text", ["grid", "none", "boxes:0,0,9,9", "m.txt"])
def test_a_ratio_that_does_nothing_is_reported(tmp_path, monkeypatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    np.savetxt("m.txt", np.eye(4, 6), fmt="%d")
    with pytest.warns(UserWarning, match=f"--mask-ratio has no effect with --mask {text.split(':')[0]}"):
        choose_mask(parse_mask(text, 0.5), GRID, 2, PATCH_SIZE)
