"""Random cases of what is written: files that are replaced while the disk fails, and outputs below the images."""

import contextlib
import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from paddlemae.data.sources.folder import RUN_MARKS, list_images
from paddlemae.data.sources.output_folders import check_outside
from paddlemae.system import atomic
from paddlemae.system.atomic import move_into_place, replace_bytes

NAMES = ("a", "runs", "train", "b c", "é", "x.png", "cat")
IMAGES = ("0.png", "1.JPG", "recipe.yaml.png", "environment.json.jpg")


def check(seed: int, folder: Path) -> None:
    """Build case `seed` in an empty folder; an AssertionError says what is not as it should be."""
    dice = random.Random(seed)
    (check_replaced, check_put, check_listed, check_kept_outside)[seed % 4](dice, folder)


@contextlib.contextmanager
def failing(dice: random.Random) -> Iterator[None]:
    """One of the system's calls fails, or none."""
    calls = [(os, "replace"), (os, "fsync"), (atomic.Path, "write_bytes"), (atomic, "flush_path")]
    owner, name = dice.choice(calls)
    real, left = getattr(owner, name), dice.randrange(4)

    def fail(*arguments, **named):
        nonlocal left
        left -= 1
        if left >= 0:
            return real(*arguments, **named)
        if name == "write_bytes":  # a part of it fits
            real(arguments[0], bytes(arguments[1])[:1])
        raise OSError(dice.choice([errno.ENOSPC, errno.EIO, errno.EACCES]), "the disk failed")

    with mock.patch.object(owner, name, fail):
        yield


def check_replaced(dice: random.Random, folder: Path) -> None:
    """A file always has all of one content, errors name it, and nothing else is left."""
    place = folder / dice.choice(NAMES)
    path = place
    if dice.random() < 0.3:
        path = folder / "link"
        path.symlink_to(place.name)
    before = None
    for _ in range(dice.randrange(1, 5)):
        content = dice.randbytes(dice.randrange(2, 50))
        with failing(dice) if dice.random() < 0.5 else contextlib.nullcontext():
            try:
                replace_bytes(path, content, flush=dice.random() < 0.5)
                before = content
            except OSError as fault:
                assert fault.filename == str(path), fault
        if place.exists():  # the last flush, of the folder, fails when the name is there
            assert place.read_bytes() in (before, content)
            before = place.read_bytes()
        assert before is None or place.exists(), "a good file is lost"
        assert {one.name for one in folder.iterdir()} <= {place.name, "link"}
        assert path == place or path.is_symlink()


def check_put(dice: random.Random, folder: Path) -> None:
    """A folder or file takes its place whole, or what was there is there again."""

    def made(path: Path) -> Path:
        if dice.random() < 0.5:
            path.mkdir()
            (path / "in").write_text(str(dice.random()))
        else:
            path.write_text(str(dice.random()))
        return path

    def content(path: Path) -> str | None:
        return (path / "in" if path.is_dir() else path).read_text() if os.path.lexists(path) else None

    final, beside = folder / "final", made(folder / "beside")
    if dice.random() < 0.8:
        made(final)
    old, new, real, left = content(final), content(beside), os.replace, dice.randrange(1, 4)

    def replace(source: Path, target: Path) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise OSError(errno.EIO, "the disk failed")
        real(source, target)

    with mock.patch.object(os, "replace", replace), contextlib.suppress(OSError):
        move_into_place(beside, final)
    assert content(final) in ([new] if not beside.exists() else [old])
    assert {one.name for one in folder.iterdir()} <= {"final", "beside"}


def tree(dice: random.Random, folder: Path, depth: int, inside_run: bool, own: list[str]) -> None:
    """Fill a folder at random; `own` gets the images that are no run's."""
    folder.mkdir(exist_ok=True)
    is_run = depth > 0 and dice.random() < 0.3
    marks = RUN_MARKS if is_run else dice.sample(RUN_MARKS, dice.randrange(len(RUN_MARKS)))
    for name in marks:
        (folder / name).touch()
    for name in dice.sample(IMAGES, dice.randrange(len(IMAGES))):
        (folder / name).touch()
        if not (inside_run or is_run):
            own.append(str(folder / name))
    for name in dice.sample(NAMES, dice.randrange(3) if depth < 3 else 0):
        tree(dice, folder / name, depth + 1, inside_run or is_run, own)


def check_listed(dice: random.Random, folder: Path) -> None:
    """A folder has the images that are in no run's folder below it."""
    own: list[str] = []
    tree(dice, folder / "data", 0, False, own)
    found, _ = list_images(str(folder / "data"))
    assert found == sorted(os.path.relpath(path, folder / "data") for path in own), (found, own)


def check_kept_outside(dice: random.Random, folder: Path) -> None:
    """An output is refused where walking up from it, links followed, comes through the data."""
    places = [folder]
    for _ in range(dice.randrange(1, 7)):
        path = dice.choice(places) / dice.choice(NAMES)
        if not os.path.lexists(path):
            if dice.random() < 0.3:
                path.symlink_to(dice.choice(places), target_is_directory=True)
            else:
                path.mkdir()
            places.append(path)
    data = dice.choice(places)
    out = dice.choice(places) / "new" / "deeper" if dice.random() < 0.5 else dice.choice(places)
    real = Path(os.path.realpath(out))
    inside = any(one.exists() and one.samefile(data) for one in (real, *real.parents))
    spec = os.path.relpath(data, folder) if dice.random() < 0.5 else str(data)
    before = os.getcwd()
    os.chdir(folder)
    try:
        check_outside(out, [spec, "digits", None])
        refused = False
    except ValueError as fault:
        refused = True
        assert "\n" not in str(fault)
    finally:
        os.chdir(before)
    assert refused == inside, (out, data, inside)
