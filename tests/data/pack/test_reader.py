"""What is no whole or sound pack is told, and not read."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paddlemae.data.sources import open_source
from paddlemae.tasks.data.pack import verify
from tests.support.packs import packed, write_photos


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A pack of 3 shards to train and 2 to test."""
    packed(write_photos(tmp_path / "photos"), tmp_path / "p")
    return tmp_path / "p"


def test_verify_finds_a_damaged_shard(finished: Path, paddlemae: Callable) -> None:
    done = paddlemae("data", "verify", finished, "--quiet")
    assert done.status == 0 and "5 shards, 0.1 MB, as they were written" in done.out
    path = finished / "train-00001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    (finished / "test-00001.tar").unlink()
    done = paddlemae("data", "verify", finished, "--quiet")
    assert done.status == 1 and done.out.count("\n") == 2
    assert f"{path} is damaged: its SHA-256 is " in done.out
    assert f"{finished / 'test-00001.tar'} is missing (No such file or directory)" in done.out
    for folder, words in ((finished.parent, "is not a pack"), (finished / "x", "No such file")):
        done = paddlemae("data", "verify", folder)
        assert done.status == 2 and words in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda pack: (pack / "train-00001.tar").unlink(),
            r"not the whole pack: train-00001.tar is missing \(.*\); copy",
        ),
        (lambda pack: os.truncate(pack / "test-00001.tar", 5120), "test-00001.tar has 5120 bytes instead of 10240"),
        (lambda pack: (pack / "train-00009.tar").write_bytes(b""), "train-00009.tar is not in pack.json"),
        (lambda pack: (pack / "images.npy").unlink(), "images.npy is missing"),
        (lambda pack: (pack / "images.npy").write_bytes(bytes(656)), "images.npy': the magic string is not correct"),
        (
            lambda pack: np.save(pack / "images.npy", np.zeros((66, 1), int)),
            "is not of the images in pack.json",
        ),
        (lambda pack: (pack / "pack.json").write_text("{"), "pack.json' can't be read"),
        (lambda pack: (pack / "pack.json").write_text('{"pack": 99}'), "is of format 99, not of 1"),
        (lambda pack: (pack / "pack.json").rename(pack / "packing.jsonl"), "is an unfinished pack"),
    ],
)
def test_what_is_not_the_whole_pack_is_not_read(finished: Path, change: Callable[[Path], object], words: str) -> None:
    change(finished)
    with pytest.raises(ValueError, match=words) as fault:
        open_source(str(finished), "train")
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("text", ['{"pack": "of wolves"}', "{", "[]"])
def test_a_file_called_pack_json_among_images_is_theirs(tmp_path: Path, text: str) -> None:
    photos = write_photos(tmp_path / "photos")
    (photos / "pack.json").write_text(text)
    assert len(open_source(str(photos))) == 14


HOSTILE_INDEX: dict[str, Callable[[dict], object]] = {
    "a name that leads out": lambda index: index["shards"][0].update(name="../train-00000.tar"),
    "more images than fit": lambda index: index["shards"][0].update(images=10**15),
    "no images": lambda index: index["shards"][0].update(images=0),
    "no checksum": lambda index: index["shards"][1].pop("sha256"),
    "no part": lambda index: index["shards"][1].update(part="more"),
    "an unhashable part": lambda index: index["shards"][1].update(part=[]),
    "a size that is none": lambda index: index["images"].update(bytes="656"),
    "a part without shards": lambda index: index["parts"].update(val=index["parts"]["test"]),
    "no parts": lambda index: index.update(parts=None),
    "shards that are none": lambda index: index.update(shards=7),
    "classes that are none": lambda index: index["parts"]["train"].update(classes=[1, 2]),
}


@pytest.mark.parametrize("change", HOSTILE_INDEX.values(), ids=HOSTILE_INDEX)
def test_an_index_of_anyone_is_looked_at_before_it_is_used(finished: Path, change: Callable[[dict], object]) -> None:
    index = json.loads((finished / "pack.json").read_text())
    change(index)
    (finished / "pack.json").write_text(json.dumps(index))
    for use in (lambda: open_source(str(finished), "train"), lambda: verify(finished)):
        with pytest.raises(ValueError, match=r"pack.json' is damaged; copy it again"):
            use()


@pytest.mark.parametrize(
    ("column", "value"), [(0, -1), (1, -512), (1, 2**62), (2, -1), (2, 2**40), (3, 4), (3, -1), (4, 2), (4, -2)]
)
def test_places_of_anyone_are_looked_at_before_they_are_used(finished: Path, column: int, value: int) -> None:
    rows = np.load(finished / "images.npy")
    rows[3, column] = value
    np.save(finished / "images.npy", rows)
    with pytest.raises(ValueError, match=r"is not of the images in pack.json"):
        open_source(str(finished), "test")
