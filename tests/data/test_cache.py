"""Packs: the same views from smaller copies, made once, whole or not there, anew when a file changes."""

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from paddlemae.data import cache
from paddlemae.data.batches import Batch, eval_batches, train_batches
from paddlemae.data.cache import PIXELS_FILE, cache_bytes, cache_images
from paddlemae.data.decode.images import Need, NeedOf, UnreadableImage
from paddlemae.data.sources import Source, open_source, subset
from paddlemae.data.sources.readers import FileReader
from paddlemae.data.views.augment import View
from tests.support.pictures import photo

VIEW = View((32, 32), 3)
SIZES = [(60, 80), (96, 64), (37, 37), (20, 300), (30, 24), (128, 72)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for number, (height, width) in enumerate(SIZES):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        photo(height, width, number).save(folder / "ab"[number % 2] / f"{number}.jpg", quality=95)
    return folder


def batches(source: Source, view: View = VIEW, **settings: object) -> list[Batch]:
    return list(train_batches(source, view, **{"batch_size": 4, "seed": 5, "num_steps": 9, **settings}))


def packs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@dataclass
class Made:
    """Which packs were made."""

    paths: list[Path] = field(default_factory=list)

    def __call__(self, path: Path) -> None:
        self.paths.append(path)


def test_views_from_a_pack_are_close_to_those_from_the_files(images: Path, tmp_path: Path) -> None:
    """The same boxes and flips, from copies of 37 pixels a short side instead of up to 96."""
    source = open_source(str(images))
    original, from_pack = batches(source), batches(cache_images(source, tmp_path / "packs", VIEW))
    for one, other in zip(original, from_pack, strict=True):
        assert (one.indices == other.indices).all() and (one.epochs == other.epochs).all()
        assert other.images.dtype == np.uint8 and other.images.shape == one.images.shape
        assert np.abs(one.images.astype(int) - other.images).mean() < 6


@pytest.mark.parametrize("decode", ["fast", "exact"])
@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_images_that_are_no_larger_give_the_very_same_views(tmp_path: Path, decode: str, extension: str) -> None:
    for number in range(4):
        photo(30 + number, 40, number).save(tmp_path / f"{number}.{extension}")
    source, view = open_source(str(tmp_path)), View((32, 32), 3, decode=decode)
    packed_source = cache_images(source, tmp_path / "packs", view)
    for one, other in zip(batches(source, view), batches(packed_source, view), strict=True):
        assert (one.images == other.images).all()


def test_copies_have_the_short_side_that_was_asked_for(images: Path, tmp_path: Path) -> None:
    source = open_source(str(images))
    for short_side, expected in ((None, 37), (50, 50)):
        copy = cache_images(source, tmp_path / "packs", VIEW, short_side=short_side)
        for i in range(len(source)):
            picture = copy.read_picture(i, 3, lambda height, width: 1)
            whole = source.read(i, 3)
            assert picture.size == whole.shape[:2]
            assert min(picture.pixels_hwC.shape[:2]) == min(expected, *whole.shape[:2])
            shape = np.array(picture.pixels_hwC.shape[:2])
            assert (np.abs(shape - np.array(picture.size) * shape.min() / min(picture.size)) <= 0.5).all()
    assert len(packs(tmp_path / "packs")) == 2


def test_evaluation_reads_the_originals(images: Path, tmp_path: Path) -> None:
    source = open_source(str(images), labelled=True)
    copy = cache_images(source, tmp_path / "packs", VIEW)
    assert (copy.name, copy.classes, len(copy)) == (source.name, source.classes, len(source))
    assert copy.labels is source.labels and copy.describe(2) == source.describe(2) and copy.stamp(2) == source.stamp(2)
    for one, other in zip(*(eval_batches(s, VIEW, batch_size=4) for s in (source, copy)), strict=True):
        assert (one.images == other.images).all()


def test_a_pack_is_made_once_and_reads_no_file_again(images: Path, tmp_path: Path) -> None:
    source, made, counts = open_source(str(images)), Made(), []
    for _ in range(2):
        copy = cache_images(source, tmp_path / "packs", VIEW, on_start=made, on_image=counts.append)
    assert made.paths == [Path(copy.reader.folder)] and counts == [len(SIZES)]
    assert cache_bytes(tmp_path / "packs") == os.path.getsize(Path(copy.reader.folder, PIXELS_FILE))
    expected = batches(copy)
    for file in images.rglob("*.jpg"):
        file.unlink()
    for one, other in zip(expected, batches(copy), strict=True):
        assert (one.images == other.images).all()


def rewrite(file: Path) -> None:
    photo(90, 90, 7).save(file, quality=95)


def touch(file: Path) -> None:
    info = file.stat()
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns + 1))


def rename(file: Path) -> None:
    file.rename(file.with_name("8.jpg"))


@pytest.mark.parametrize("change", [rewrite, touch, rename, Path.unlink])
def test_changed_files_are_cached_again(images: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    before = cache_images(open_source(str(images)), tmp_path / "packs", VIEW)
    change(images / "a" / "4.jpg")
    made, source = Made(), open_source(str(images))
    after = cache_images(source, tmp_path / "packs", VIEW, on_start=made)
    assert made.paths == [Path(after.reader.folder)] and after.reader.folder != before.reader.folder
    fresh = cache_images(source, tmp_path / "others", VIEW)
    for one, other in zip(batches(after), batches(fresh), strict=True):
        assert (one.images == other.images).all()


def test_a_folder_may_move_and_its_pack_stays(images: Path, tmp_path: Path) -> None:
    first = cache_images(open_source(str(images)), tmp_path / "packs", VIEW)
    moved = images.rename(tmp_path / "elsewhere")
    assert cache_images(open_source(str(moved)), tmp_path / "packs", VIEW).reader.folder == first.reader.folder


def test_every_setting_that_changes_the_copies_has_a_pack_of_its_own(images: Path, tmp_path: Path) -> None:
    source = open_source(str(images))
    views = [VIEW, View((32, 32), 1), replace(VIEW, decode="exact"), View((40, 24), 3)]
    folders = {cache_images(source, tmp_path / "packs", view).reader.folder for view in views}
    folders.add(cache_images(subset(source, [1, 0]), tmp_path / "packs", VIEW).reader.folder)
    folders.add(cache_images(subset(source, [0, 1]), tmp_path / "packs", VIEW).reader.folder)
    assert len(folders) == 6 == len(packs(tmp_path / "packs"))
    for same in (replace(VIEW, flip=False), replace(VIEW, repeats=2)):
        assert cache_images(source, tmp_path / "packs", same).reader.folder in folders


def test_gray_images_are_packed_as_gray(images: Path, tmp_path: Path) -> None:
    source, view = open_source(str(images)), View((32, 32), 1)
    assert batches(cache_images(source, tmp_path / "packs", view), view)[0].images.shape == (4, 1, 32, 32)


def test_a_pack_that_was_cut_short_is_made_again(images: Path, tmp_path: Path) -> None:
    source = open_source(str(images))
    first = cache_images(source, tmp_path / "packs", VIEW)
    expected = Path(first.reader.folder, PIXELS_FILE).read_bytes()
    for name in (PIXELS_FILE, cache.SIZES_FILE, cache.DESCRIPTION_FILE):
        path, made = Path(first.reader.folder, name), Made()
        path.write_bytes(path.read_bytes()[:-1] if name != cache.DESCRIPTION_FILE else b"{")
        cache_images(source, tmp_path / "packs", VIEW, on_start=made)
        assert made.paths == [Path(first.reader.folder)]
        assert Path(first.reader.folder, PIXELS_FILE).read_bytes() == expected


def test_what_a_killed_process_left_is_removed(images: Path, tmp_path: Path) -> None:
    left = tmp_path / "packs" / ".6-images-37px-0.partial"
    left.mkdir(parents=True)
    (left / PIXELS_FILE).write_bytes(b"half")
    cache_images(open_source(str(images)), tmp_path / "packs", VIEW)
    assert not left.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(images: Path, tmp_path: Path, monkeypatch) -> None:
    def full(file: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache, "flush_file", full)
    with pytest.raises(OSError, match=r"could not make the cache \(No space left on device\); make room") as caught:
        cache_images(open_source(str(images)), tmp_path / "packs", VIEW)
    assert "\n" not in str(caught.value) and caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "packs").exists()


def test_too_small_a_disk_is_noticed_after_the_first_images(images: Path, tmp_path: Path, monkeypatch) -> None:
    whole, counts = open_source(str(images)), []
    monkeypatch.setattr(cache, "_IMAGES_BEFORE_ESTIMATE", 2)
    monkeypatch.setattr(cache, "_CHUNK_IMAGES", 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 9000, 9000))
    with pytest.raises(OSError, match=r"6 images need about 0\.0 GB.*make room"):
        cache_images(whole, tmp_path / "packs", VIEW, on_image=counts.append)
    assert counts == [] and not (tmp_path / "packs").exists()


def test_an_interrupted_pack_leaves_nothing(images: Path, tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_images(open_source(str(images)), tmp_path / "packs", VIEW, on_image=interrupt)
    assert not (tmp_path / "packs").exists()


def test_a_file_for_a_folder_and_a_small_side_are_refused(images: Path, tmp_path: Path) -> None:
    source = open_source(str(images))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"could not make the cache \(.*\); name another folder: "):
        cache_images(source, tmp_path / "file", VIEW)
    with pytest.raises(ValueError, match="cache_size of 32 or more, as the view has, got 31"):
        cache_images(source, tmp_path / "packs", VIEW, short_side=31)
    assert not (tmp_path / "packs").exists()


def test_an_unreadable_image_is_still_unreadable_and_replaced(images: Path, tmp_path: Path) -> None:
    broken = images / "a" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    source = open_source(str(images))
    reports: list[list[str]] = []
    for one in (source, cache_images(source, tmp_path / "packs", VIEW)):
        reported: list[UnreadableImage] = []
        batches(one, on_skip=reported.append)
        reports.append([str(error) for error in reported])
    assert reports[0] == reports[1] and str(broken) in reports[0][0]


def test_nothing_readable_is_the_same_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    copy = cache_images(open_source(str(tmp_path)), tmp_path / "packs", VIEW)
    with pytest.raises(ValueError, match="1 images in a row"):
        batches(copy)


def test_workers_pack_and_read_the_very_same(images: Path, tmp_path: Path) -> None:
    source = open_source(str(images))
    here = cache_images(source, tmp_path / "here", VIEW)
    there = cache_images(source, tmp_path / "there", VIEW, workers=1)
    assert Path(here.reader.folder, PIXELS_FILE).read_bytes() == Path(there.reader.folder, PIXELS_FILE).read_bytes()
    expected = batches(here)
    for one, other in zip(expected, batches(there, workers=1), strict=True):
        assert (one.images == other.images).all()


def test_a_source_travels_to_a_worker_without_its_pixels(images: Path, tmp_path: Path) -> None:
    copy = cache_images(open_source(str(images)), tmp_path / "packs", VIEW)
    batches(copy)
    assert len(pickle.dumps(copy)) < 2000 < cache_bytes(tmp_path / "packs")


def test_repeats_and_resumption_work_on_packs(images: Path, tmp_path: Path) -> None:
    view = replace(VIEW, repeats=2)
    copy = cache_images(open_source(str(images)), tmp_path / "packs", view)
    whole = batches(copy, view)
    for one, other in zip(whole[4:], batches(copy, view, start_step=4, num_steps=5), strict=True):
        assert (one.images == other.images).all() and (one.epochs == other.epochs).all()


def test_large_jpegs_are_decoded_reduced_unless_exactness_is_wanted(tmp_path: Path, monkeypatch) -> None:
    photo(300, 400, 0).save(tmp_path / "a.jpg")
    asked: list[Need] = []
    read = FileReader.read_picture

    def recorded(reader: FileReader, i: int, channels: int, need_of: NeedOf):
        return read(reader, i, channels, lambda *size: asked.append(need_of(*size)) or asked[-1])

    monkeypatch.setattr(FileReader, "read_picture", recorded)
    for decode in ("fast", "exact"):
        cache_images(open_source(str(tmp_path)), tmp_path / "packs", replace(VIEW, decode=decode))
    assert asked == [Need(8), Need()]
