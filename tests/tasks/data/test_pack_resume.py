"""A pack that is stopped anywhere resumes to the same bytes, and nothing else than a pack is ever touched."""

import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import paddlemae
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import open_source
from paddlemae.system.locks import lock_folder
from paddlemae.tasks.data.pack import verify
from tests.support.packs import SETTINGS, packed, write_photos
from tests.support.pictures import photo


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    stats = {path.name: path.stat() for path in folder.iterdir()}
    return {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}


KILLED_AT = """
import os, sys
from paddlemae.tasks.data.pack import pack

settings = {settings!r}
real = {{"fsync": os.fsync, "replace": os.replace, "unlink": os.unlink}}
for number in range(1, 100):
    child = os.fork()
    if not child:
        calls = 0

        def dying(do):
            def call(*arguments, **named):
                global calls
                calls += 1
                if calls == number and number % 2:
                    os._exit(9)
                try:
                    do(*arguments, **named)
                finally:
                    if calls == number:
                        os._exit(9)
            return call

        for name, do in real.items():
            setattr(os, name, dying(do))
        sys.stderr = open(os.devnull, "w")
        pack(sys.argv[1], __import__("pathlib").Path(sys.argv[2] + str(number)), **settings)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not status:
        print(number)
        break
    assert status == 9, status
"""


def test_killed_at_any_step_it_resumes_to_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    """Before or after each flush to the disk, renaming and removal; what was half written is there then."""
    settings = {**SETTINGS, "shard_size": "4"}
    packed(photos, tmp_path / "whole", **settings)
    expected = content(tmp_path / "whole")
    shards = {"train-00000.tar", "train-00001.tar", "test-00000.tar"}
    assert set(expected) == {"pack.json", "images.npy", "skipped.jsonl", *shards}
    code = KILLED_AT.format(settings=settings)
    done = subprocess.run(
        [sys.executable, "-c", code, str(photos), str(tmp_path / "k")], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps > 20
    seen = set[int]()
    for number in range(1, steps):
        out = tmp_path / f"k{number}"
        if "pack.json" not in os.listdir(out):
            with pytest.raises(ValueError, match="is an unfinished pack|no images in"):
                open_source(str(out))
        seen.add(len(list(out.glob("*.tar"))))
        if number == 10:
            with open(out / "packing.jsonl", "a") as file:
                file.write('{"name": "train-00')  # half a line
        packed(photos, out, **{**settings, "workers": int(number == 12)})
        assert content(out) == expected, number
    assert seen == {0, 1, 2, 3}


def test_workers_and_a_second_run_change_nothing(photos: Path, tmp_path: Path) -> None:
    packed(photos, tmp_path / "a")
    packed(photos, tmp_path / "b", workers=2)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    before = snapshot(tmp_path / "a")
    again = packed(photos, tmp_path / "a")
    assert snapshot(tmp_path / "a") == before
    assert (again.images, again.skipped, again.images_now) == (11, 3, 0)


def test_unreadable_images_are_left_out_and_listed(photos: Path, tmp_path: Path, paddlemae: Callable) -> None:
    done = paddlemae("data", "pack", photos, "--out", tmp_path / "p", "--max-bad-images", "0.4", "--quiet")
    assert done.status == 0 and "packed 11 images in 2 shards" in done.out and "3 skipped, see" in done.out
    assert done.err.count("skipped: cannot read image") == 3
    lines = [json.loads(line) for line in (tmp_path / "p" / "skipped.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [
        str(photos / "train" / name) for name in ("cat/1.jpg", "dog/3.jpg", "dog/4.jpg")
    ]
    assert all(line["part"] == "train" and "not an image" in line["reason"] for line in lines)
    source = open_source(str(tmp_path / "p"), "train", labelled=True)
    assert source.labels.tolist() == [0] * 4 + [1] * 3 and source.classes == ("cat", "dog")
    assert source.describe(1).endswith("entry 000000002.jpg")


def test_too_many_unreadable_images_stop_it_and_what_is_done_is_kept(
    photos: Path, tmp_path: Path, paddlemae: Callable
) -> None:
    words = ("data", "pack", photos, "--size", 24, "--shard-size", 3, "--out", tmp_path / "p", "--quiet")
    done = paddlemae(*words)
    assert done.status == 2 and done.err.splitlines()[-1].startswith("paddlemae: error: 2 of 10 images of ")
    assert f"listed in {tmp_path / 'p' / 'skipped.jsonl'}, and max_bad_images=0.01 allows 1" in done.err
    kept = snapshot(tmp_path / "p")
    assert set(kept) == {"packing.jsonl", "skipped.jsonl", "train-00000.tar", "train-00001.tar"}
    assert paddlemae(*words, "--max-bad-images", 0.4).status == 0
    assert snapshot(tmp_path / "p")["train-00001.tar"] == kept["train-00001.tar"]
    packed(photos, tmp_path / "whole")
    assert content(tmp_path / "p") == content(tmp_path / "whole")
    for path in photos.rglob("*.jpg"):
        path.write_bytes(b"no image")
    with pytest.raises(DataFault, match="no image of .*train can be read; fix or replace them; first: "):
        packed(photos, tmp_path / "q", max_bad_images=1)


def test_what_differs_is_reported(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = paddlemae.__version__
    packed(photos, tmp_path / "p")
    (tmp_path / "begun").mkdir()
    for name in ("train-00000.tar", "pack.json"):
        (tmp_path / "begun" / name).write_bytes((tmp_path / "p" / name).read_bytes())
    index = json.loads((tmp_path / "begun" / "pack.json").read_text())
    shards = index.pop("shards")
    (tmp_path / "begun" / "pack.json").unlink()
    lines = [index, {**shards[0], "skipped": [[str(photos / "train/cat/1.jpg"), "no image"]]}]
    (tmp_path / "begun" / "packing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def refused(words: str, **settings: Any) -> None:
        for out in (tmp_path / "p", tmp_path / "begun"):
            before = snapshot(out)
            with pytest.raises(ValueError, match=f"holds a pack of something else: {words}; add --overwrite"):
                packed(photos, out, **settings)
            assert snapshot(out) == before

    refused("size 24 then, 25 now", size=25)
    refused("quality 95 then, 90 now, lossless False then, True now", quality=90, lossless=True)
    refused("shard-size 3 images then, 4000000 bytes now", shard_size="4MB")
    refused("bits none then, 8 now", bits=8)
    refused("splits train, test then, train now", split="train")
    monkeypatch.setattr(paddlemae, "__version__", "9.9")
    assert packed(photos, tmp_path / "p").images == 11
    with pytest.raises(ValueError, match=f"something else: PaddleMAE {version} then, 9.9 now; add"):
        packed(photos, tmp_path / "begun")
    monkeypatch.undo()
    file = photos / "test" / "dog" / "0.jpg"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    refused(r"test files \(names, sizes or times of change\)")
    photo(9, 9, 1).save(photos / "train" / "dog" / "9.jpg")
    refused(r"train images 10 then, 11 now, test files \(.*\)")
    packed(photos, tmp_path / "p", overwrite=True)
    packed(photos, tmp_path / "fresh")
    assert content(tmp_path / "p") == content(tmp_path / "fresh")


def test_other_labels_are_another_source(tmp_path: Path) -> None:
    for number in range(4):
        photo(9, 9, number).save(tmp_path / f"{number}.png")
    for name, labels in (("a", "aabb"), ("b", "abab")):
        rows = [f"{number}.png,{label}\n" for number, label in enumerate(labels)]
        (tmp_path / f"{name}.csv").write_text("image,label\n" + "".join(rows))
    packed(tmp_path / "a.csv", tmp_path / "p")
    with pytest.raises(ValueError, match="of something else: train labels;"):
        packed(tmp_path / "b.csv", tmp_path / "p")


@pytest.mark.parametrize(
    "strangers", [["notes.txt"], ["train-00000.tar"], ["pack.json"], ["pack.json", "a.jpg"], [".x"]]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_not_touched(
    photos: Path, tmp_path: Path, strangers: list[str], overwrite: bool
) -> None:
    (tmp_path / "out").mkdir()
    for name in strangers:
        (tmp_path / "out" / name).write_text("{}")
    before = snapshot(tmp_path / "out")
    with pytest.raises(ValueError, match=f"holds '{min(strangers)}', which is not part of a pack; move it"):
        packed(photos, tmp_path / "out", overwrite=overwrite)
    assert snapshot(tmp_path / "out") == before


def test_a_pack_next_to_other_files_is_not_touched(photos: Path, tmp_path: Path) -> None:
    packed(photos, tmp_path / "p")
    (tmp_path / "p" / "README.md").write_text("mine")
    before = snapshot(tmp_path / "p")
    with pytest.raises(ValueError, match=r"not part of a pack"):
        packed(photos, tmp_path / "p", size=10, overwrite=True)
    assert snapshot(tmp_path / "p") == before


@pytest.mark.parametrize("text", ["", "notes\n", '{"step": 3}\n', "[]\n", '{"pack": 1'])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_journal_of_something_else_is_not_touched(photos: Path, tmp_path: Path, text: str, overwrite: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "packing.jsonl").write_text(text)
    (tmp_path / "out" / "train-00000.tar").write_text("theirs")
    before = snapshot(tmp_path / "out")
    with pytest.raises(ValueError, match=r"packing.jsonl is damaged, or of something else than a pack; move it"):
        packed(photos, tmp_path / "out", overwrite=overwrite)
    assert snapshot(tmp_path / "out") == before


def test_places_that_can_not_be(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is in the folder of the images"):
        packed(photos, photos / "packed")
    assert not (photos / "packed").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is no folder"):
        packed(photos, tmp_path / "file")
    for words, settings in (
        ("--shard-size must be a number", {"shard_size": "many"}),
        ("--shard-size must be a number", {"shard_size": "0"}),
        ("--bits must be 8 or 16; got 12", {"bits": 12}),
        ("--split must be train, test or all; got 'val'", {"split": "val"}),
    ):
        with pytest.raises(ValueError, match=words):
            packed(photos, tmp_path / "p", **settings)
    with pytest.raises(FileNotFoundError):
        packed(tmp_path / "nowhere", tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_two_processes_do_not_write_one_pack(photos: Path, tmp_path: Path) -> None:
    with lock_folder(tmp_path / "p"):
        with pytest.raises(BlockingIOError, match=f"another command is writing there .process {os.getpid()} on "):
            packed(photos, tmp_path / "p")
        assert [path.name for path in (tmp_path / "p").iterdir()] == [".lock"]
    packed(photos, tmp_path / "p")


def test_a_full_disk_is_a_line_and_the_pack_resumes(photos: Path, tmp_path: Path, paddlemae: Callable) -> None:
    words = ("data", "pack", photos, "--out", tmp_path / "p", "--shard-size", 3, "--size", 24, "--max-bad-images", 0.4)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))  # of a shard's 10,240 bytes
    try:
        done = paddlemae(*words, "--quiet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.status == 2 and os.strerror(errno.EFBIG) in done.err and "rerun the command to resume" in done.err
    assert done.err.splitlines()[-1].startswith("paddlemae: error: could not write the pack (")
    assert not list((tmp_path / "p").glob("*.tar*"))
    assert paddlemae(*words, "--quiet").status == 0
    packed(photos, tmp_path / "whole")
    assert content(tmp_path / "p") == content(tmp_path / "whole")


def test_a_shard_that_the_disk_gives_back_otherwise_gets_no_name(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def flip(number: int) -> None:
        flush(number)
        for path in (tmp_path / "p").glob("train-00001.tar.partial"):
            content = bytearray(path.read_bytes())
            content[600] ^= 4
            path.write_bytes(content)

    monkeypatch.setattr(os, "fsync", flip)
    with pytest.raises(OSError, match="returned other bytes than were written.*rerun the command to resume"):
        packed(photos, tmp_path / "p")
    assert [path.name for path in (tmp_path / "p").glob("*.tar*")] == ["train-00000.tar"]
    monkeypatch.undo()
    packed(photos, tmp_path / "p")
    assert not verify(tmp_path / "p", quiet=True).faults


SIGNALLED_AT_THE_SECOND_SHARD = """
import os, signal, sys
from paddlemae.cli import app as cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background inherit that it is ignored
rename, number, shards = os.replace, int(sys.argv.pop(1)), []


def replace(source, target):
    rename(source, target)
    if str(target).endswith(".tar"):
        shards.append(target)
        if len(shards) == 2:
            os.kill(os.getpid(), number)


os.replace = replace
cli.main()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals_leave_it_resumable(photos: Path, tmp_path: Path, number: signal.Signals, status: int) -> None:
    out = tmp_path / "p"
    words = ["data", "pack", str(photos), "--out", str(out), "--shard-size=3", "--size=24", "--max-bad-images=0.4"]
    command = [sys.executable, "-c", SIGNALLED_AT_THE_SECOND_SHARD, str(int(number)), *words, "--workers=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == status and "rerun the same command to resume" in done.stderr.splitlines()[-1], done.stderr
    assert len(list(out.glob("*.tar"))) == 2
    assert not list(out.glob("*.partial")) and not (out / "pack.json").exists()
    assert packed(photos, out).images_now >= 5
    packed(photos, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


@pytest.fixture
def finished(photos: Path, tmp_path: Path) -> Path:
    packed(photos, tmp_path / "p")
    return tmp_path / "p"


def test_a_finished_pack_that_lost_a_shard_is_not_taken_for_whole(finished: Path, photos: Path) -> None:
    expected = content(finished)
    (finished / "train-00001.tar").unlink()
    with pytest.raises(ValueError, match="train-00001.tar is missing .* add --overwrite to replace it"):
        packed(photos, finished)
    packed(photos, finished, overwrite=True)
    assert content(finished) == expected
    for out in (finished, finished.parent / "fresh"):
        packed(photos, out, overwrite=True, shard_size="100")  # fewer shards than before
    assert content(finished) == content(finished.parent / "fresh") and len(content(finished)) == 5


def test_a_shard_that_is_gone_is_made_again(photos: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "begun"
    with pytest.raises(DataFault):
        packed(photos, out, max_bad_images=0.1)
    before = snapshot(out)
    (out / "train-00001.tar").unlink()
    with open(out / "packing.jsonl", "a") as file:
        file.write('{"name": "train-00')  # half a line, behind which the next one must not be
    with pytest.raises(DataFault):
        packed(photos, out, max_bad_images=0.1)
    assert snapshot(out)["train-00001.tar"] != before["train-00001.tar"]
    packed(photos, out)
    assert content(out) == content(finished)
    assert snapshot(out)["train-00000.tar"] == before["train-00000.tar"]
