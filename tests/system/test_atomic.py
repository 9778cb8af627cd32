"""Files are there whole or not at all, and errors name them; outputs stay out of the images."""

import errno
import os
import re
from pathlib import Path

import pytest
from PIL import Image

import paddlemae
from paddlemae.data.sources.folder import RUN_MARKS, list_images
from paddlemae.data.sources.output_folders import check_outside
from paddlemae.runs import figures
from paddlemae.runs.contact_sheet import draw_sheet
from paddlemae.runs.figures import draw_curves
from paddlemae.runs.runlog import ENVIRONMENT_FILE, RECIPE_FILE
from paddlemae.system.atomic import (
    append_text,
    move_into_place,
    name_in_errors,
    replace_bytes,
    replace_file,
    replace_text,
)
from tests.fuzz.writes import check

pytestmark = pytest.mark.usefixtures("rendered_figures")

SEEDS = 400


@pytest.fixture
def full(monkeypatch) -> None:
    """A disk that takes a part of what is written, and says so."""

    def write_bytes(path: Path, content: bytes) -> int:
        with open(path, "wb") as file:
            file.write(bytes(content)[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: replace_bytes(path, b"new"),
        lambda path: replace_text(path, "new", flush=True),
        lambda path: draw_sheet(path, [("heading", [])]),
        lambda path: draw_curves(path, [{"step": 1, "loss": 2.0}], ["loss"], "title"),
    ],
    ids=["bytes", "text", "sheet", "figure"],
)
def test_a_full_disk_keeps_the_good_file_and_is_reported_with_its_name(tmp_path: Path, write, request) -> None:
    path = tmp_path / "a.png"
    write(path)
    good = path.read_bytes()
    request.getfixturevalue("full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(path)
    assert caught.value.filename == str(path) and caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == good and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.jpeg", "a.webp", "a.pdf", "a.svg"])
def test_pictures_are_of_the_kind_that_their_name_says(tmp_path: Path, name: str) -> None:
    figures.draw_curves(tmp_path / "new" / name, [{"step": 1, "loss": 2.0}], ["loss"], "title")
    (path,) = (tmp_path / "new").iterdir()
    assert path.name == name
    kinds = {".pdf": b"%PDF", ".svg": b"<?xml"}
    if path.suffix in kinds:
        assert path.read_bytes().startswith(kinds[path.suffix])
    else:
        with Image.open(path) as picture:
            assert picture.format == {".png": "PNG", ".webp": "WEBP"}.get(path.suffix, "JPEG")


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    replace_text(tmp_path / "a", "old")
    with pytest.raises(KeyboardInterrupt), replace_file(tmp_path / "a") as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_two_that_write_one_file_do_not_write_into_each_other_s(tmp_path: Path) -> None:
    with replace_file(tmp_path / "a") as first, replace_file(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "first" and len(list(tmp_path.iterdir())) == 1


def test_a_place_that_can_t_be_taken_keeps_what_was_there(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "old").write_text("old")
    replace = os.replace

    def fails(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError(errno.EIO, "failed")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="failed"):
        move_into_place(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "old"


def test_errors_that_are_not_the_system_s_keep_their_text() -> None:
    with pytest.raises(OSError, match="^no picture$"), name_in_errors(Path("a")):
        raise OSError("no picture")


def test_lines_are_appended_all_or_none(tmp_path: Path) -> None:
    resource, path = pytest.importorskip("resource"), tmp_path / "results.jsonl"
    append_text(path, "1\n")
    with path.open("a") as file:
        file.write('{"half')
    append_text(path, "2\n3\n")
    assert path.read_text() == '1\n{"half\n2\n3\n'
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            append_text(path, "4" * 30 + "\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(path) and path.read_text() == '1\n{"half\n2\n3\n'


def test_random_writes_and_outputs_keep_the_rules(tmp_path: Path) -> None:
    for seed in range(SEEDS):
        (tmp_path / str(seed)).mkdir()
        check(seed, tmp_path / str(seed))


def test_an_output_in_the_images_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    (tmp_path / "list.txt").write_text("photos/a.png\n")
    for out, spec in (("photos/a", "photos"), ("photos", "photos/"), ("link/a", "photos"), ("photos/a", "link")):
        with pytest.raises(
            ValueError, match=r"--out .* is in the folder of the images, .*; name a place outside of it"
        ):
            check_outside(tmp_path / out, [str(tmp_path / spec)])
    with pytest.raises(ValueError, match="cache photos/a is in"):
        monkeypatch.chdir(tmp_path)
        check_outside("photos/a", ["."], "cache")
    for out, spec in (
        ("photos-2", "photos"),
        ("a", "photos"),
        ("photos/a", "list.txt"),
        ("a", "digits"),
        ("a", "none"),
    ):
        check_outside(out, [spec, None])


def test_runs_below_the_images_are_passed_over(tmp_path: Path) -> None:
    assert set(RUN_MARKS) == {RECIPE_FILE, ENVIRONMENT_FILE}
    for name in ("a.png", "runs/a/figures/loss.png", "runs/a/exhibits/map.jpg", "runs/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in RUN_MARKS:
        assert len(list_images(str(tmp_path))[0]) == 4
        (tmp_path / "runs" / "a" / name).touch()
    assert list_images(str(tmp_path)) == (["a.png", "runs/b.png"], 0)
    assert list_images(str(tmp_path / "runs" / "a"))[0] == ["exhibits/map.jpg", "figures/loss.png"]  # asked for by name


def test_files_are_replaced_and_locked_in_one_place() -> None:
    for call, home in [
        (r"\bos\.(replace|rename|fsync)\b|\.rename\(|NamedTemporaryFile|mkstemp", "system/atomic.py"),
        (r"\bfcntl\b|\bflock\(", "system/locks.py"),
    ]:
        root = Path(paddlemae.__file__).parent
        found = {str(path.relative_to(root)) for path in root.rglob("*.py") if re.search(call, path.read_text())}
        assert found == {home}
