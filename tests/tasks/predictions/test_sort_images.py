"""Images in folders of their classes: names that collide, files that are there, systems without links, no files."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.sources import Source, as_source, open_source
from paddlemae.tasks.predictions.sort_images import LONGEST_NAME, Sorter, folder_names
from tests.support.pictures import write_noise


def sort(source: Source, into: Path, *, copy: bool = False, folder: str = "a") -> Sorter:
    sorter = Sorter(source, into, channels=3, copy=copy)
    for i in range(len(source)):
        sorter.put(i, folder)
    return sorter


@pytest.fixture
def named(tmp_path) -> Source:
    """Four images, of which two have one name and the third the name that one of these would get; two are equal."""
    files = [tmp_path / "images" / name for name in ("1/x.png", "2/x.png", "3/x-2.png", "4/x.png")]
    for number, file in enumerate(files):
        write_noise(file, min(number, 2))
    return as_source(files)


def test_a_class_of_a_stranger_s_weights_stays_in_the_folder() -> None:
    classes = ["cat", "Cat", "../../etc", "/", "", ".", "..", "a/b", "unsure", "crane", "crane", "x" * 300, "x" * 300]
    names = folder_names(classes, ["unsure"])
    assert names[:5] == ["cat", "Cat-2", "_./.._etc".replace("/", "_"), "_", "_-2"]
    assert names[7:11] == ["a_b", "unsure-2", "crane", "crane-2"]
    assert len({name.casefold() for name in names}) == len(classes)
    assert all("/" not in name and not name.startswith(".") and len(name) <= LONGEST_NAME for name in names)


@pytest.mark.parametrize("copy", [False, True])
def test_equal_names_get_numbers_and_the_same_ones_again(tmp_path, named, copy: bool) -> None:
    for ways in ({"copies" if copy else "links": 4}, {"there already": 4}):
        assert sort(named, tmp_path / "sorted", copy=copy).ways == ways
        found = {path.name: path for path in (tmp_path / "sorted" / "a").iterdir()}
        assert sorted(found) == ["x-2-2.png", "x-2.png", "x-3.png", "x.png"]
        for name, i in (("x.png", 0), ("x-2.png", 1), ("x-2-2.png", 2), ("x-3.png", 3)):
            assert found[name].read_bytes() == named.stored(i)
            assert found[name].is_symlink() != copy


@pytest.mark.parametrize("copy", [False, True])
def test_what_is_there_is_never_replaced(tmp_path, named, copy: bool) -> None:
    place = tmp_path / "sorted" / "a"
    place.mkdir(parents=True)
    (place / "x.png").write_bytes(b"mine")
    (place / "x-2.png").symlink_to(tmp_path / "nothing")
    for ways in ({"copies" if copy else "links": 4}, {"there already": 4}):
        assert sort(named, tmp_path / "sorted", copy=copy).ways == ways
        assert (place / "x.png").read_bytes() == b"mine" and os.readlink(place / "x-2.png") == str(tmp_path / "nothing")
        assert len(list(place.iterdir())) == 6


@pytest.mark.parametrize("way", ["hard links", "copies"])
def test_a_system_without_links_gets_the_next_best(tmp_path, named, monkeypatch, way: str) -> None:
    def no(*arguments) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", no)
    if way == "copies":
        monkeypatch.setattr(os, "link", no)
    assert sort(named, tmp_path / "sorted").ways == {way: 4}
    assert (tmp_path / "sorted" / "a" / "x-3.png").read_bytes() == named.stored(3)
    assert sort(named, tmp_path / "sorted").ways == {"there already": 4}


def test_links_work_from_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_noise(Path("images/x.png"), 0)
    sort(open_source("images"), Path("sorted"))
    monkeypatch.chdir("/")
    assert (tmp_path / "sorted" / "a" / "x.png").read_bytes() == (tmp_path / "images" / "x.png").read_bytes()


def test_an_archive_gives_its_files_as_they_are(tmp_path, named) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i in range(4):
            archive.writestr(os.path.relpath(named.describe(i), tmp_path / "images"), named.stored(i))
    source = open_source(str(tmp_path / "images.zip"))
    for ways in ({"files": 4}, {"there already": 4}):
        assert sort(source, tmp_path / "sorted").ways == ways
    found = {path.name: path.read_bytes() for path in (tmp_path / "sorted" / "a").iterdir()}
    assert sorted(found) == ["x-2-2.png", "x-2.png", "x-3.png", "x.png"] and found["x.png"] == named.stored(0)


@pytest.mark.parametrize(
    ("shape", "kind", "ending"), [((9, 7), "uint8", "png"), ((9, 7), "uint16", "png"), ((9, 7, 5), "uint16", "npy")]
)
def test_an_array_gives_files_of_the_same_values(tmp_path, shape, kind: str, ending: str) -> None:
    values = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (2, *shape), kind)
    np.save(tmp_path / "images.npy", values)
    sorter = Sorter(open_source(str(tmp_path / "images.npy")), tmp_path / "sorted", channels=(shape + (1,))[2])
    sorter.put(1, "a")
    (file,) = (tmp_path / "sorted" / "a").iterdir()
    assert file.name == f"images.npy image 1.{ending}"
    if ending == "npy":
        np.testing.assert_array_equal(np.load(file), values[1])
    else:
        with Image.open(file) as image:
            np.testing.assert_array_equal(np.asarray(image), values[1])
