"""Cache a source: its images are made smaller once, and their pixels stored in one memory-mapped file.

What differs from reading the files: a training view is cut out of an image whose short side has at most `short_side`
pixels, so it went through two resizings, and a crop with fewer pixels than its view is enlarged from fewer still.
What stays: every draw of chance. Crops are drawn for the original's size and cut from the copy to 1/1024 pixel.
Images that are no larger are kept as they are. Evaluation reads the originals.

A cache is a folder whose name is a digest of the settings and of each file's path, size and time of change: when those
change, another cache is made. It is written under a temporary name, flushed and renamed, so it is whole or not there.

Shapes: N images, H height, W width of the original; h, w of the copy; C channels.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import Need, NeedOf, Picture, UnreadableImage, need_all
from paddlemae.data.decode.pixel_format import Pixels, convert_depth
from paddlemae.data.sources import Source, add_stamps
from paddlemae.data.sources.readers import Reader
from paddlemae.data.views.augment import View, choose_reduction, resize_crop
from paddlemae.data.workers import make_ahead
from paddlemae.system.atomic import PARTIAL, flush_file, move_into_place, partial_path
from paddlemae.system.locks import lock_folder

CACHE_FORMAT = 1  # raised whenever the same originals would be cached otherwise
PIXELS_FILE = "pixels.u8"  # uint8 [h, w, C] of each image, one behind the other
DEEP_PIXELS_FILE = "pixels.u16"  # the same as uint16, of views that have 16 bits
SIZES_FILE = "sizes.i64"  # int64 [N, 4]: h, w, H, W; zeros for an image that could not be read
DESCRIPTION_FILE = "pack.json"

_CHUNK_IMAGES = 32  # images that a worker makes smaller at a time
# The size of the cache is estimated after this many images, to stop before hours are spent on what won't fit.
_IMAGES_BEFORE_ESTIMATE = 256

_PIXELS: dict[int, tuple[str, Any]] = {8: (PIXELS_FILE, np.uint8), 16: (DEEP_PIXELS_FILE, np.uint16)}
_Shrunk = list[tuple[Pixels, tuple[int, int]] | None]  # pixels and (H, W); None when unreadable


@dataclass(frozen=True)
class _Settings:
    source: str
    images: int
    channels: int
    short_side: int
    decode: str
    bits: int = 8
    format: int = CACHE_FORMAT


@dataclass(frozen=True, eq=False)
class CacheReader:
    """Training pictures from the cache in `folder`; all else, and whole images, from the original reader."""

    original: Reader
    folder: str
    channels: int
    bits: int

    def __len__(self) -> int:
        return len(self.original)

    def describe(self, i: int) -> str:
        return self.original.describe(i)

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        if need_of is need_all:
            return self.original.read_picture(i, channels, need_all)
        assert channels == self.channels
        cache = _open_cache(self.folder, channels, self.bits)
        h, w, H, W = cache.sizes_N4[i].tolist()
        if not h:  # it says again why it can't be read
            return self.original.read_picture(i, channels, need_of)
        need_of(H, W)
        start, end = cache.borders[i : i + 2].tolist()
        return Picture(cache.pixels[start:end].reshape(h, w, channels), (H, W), (h / H, w / W))

    def stored(self, i: int) -> bytes | NDArray[Any]:
        return self.original.stored(i)

    def room(self, i: int) -> int:
        return self.original.room(i)

    def stamp(self, i: int) -> str:
        return self.original.stamp(i)


@dataclass(frozen=True, eq=False)
class _Cache:
    sizes_N4: NDArray[np.int64]
    borders: NDArray[np.int64]  # [N + 1]: where each image's pixels begin, and where the last one's end
    pixels: Pixels


@functools.lru_cache(maxsize=4)  # not a field of the source: a pickled map would be a copy of all its bytes
def _open_cache(folder: str, channels: int, bits: int) -> _Cache:
    sizes_N4 = _read_sizes(Path(folder))
    borders = _borders(sizes_N4, channels)
    if not borders[-1]:  # nothing can be mapped then, and nothing will be read
        return _Cache(sizes_N4, borders, np.empty(0, np.uint8))
    name, dtype = _PIXELS[bits]
    pixels = np.memmap(Path(folder, name), dtype, mode="r").view(np.ndarray)
    return _Cache(sizes_N4, borders, pixels)


def cache_images(
    source: Source,
    folder: str | os.PathLike[str],
    view: View,
    *,
    short_side: int | None = None,
    workers: int = 0,
    on_start: Callable[[Path], None] | None = None,
    on_image: Callable[[int], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Source:
    """Return the source with its training images read from a cache in `folder`, which is made first if it is missing.

    Args:
        folder: holds caches of any sources; made if it is not there.
        view: the training views to come: their channels, and how images are decoded and resized.
        short_side: pixels; by default 8/7 of the view's longer side, as the customary 256 is of 224.
        workers: processes that read images; 0 reads them here.
        on_start: called before a cache is made, with its path.
        on_image: called with the number of images cached so far.
        on_wait: called with who is making a cache in the same folder, before this waits for it.
    Raises:
        ValueError: a short side below the view's.
        OSError: no space, no permission, or a file where the folder should be; no half a cache is left.
    """
    needed = max(view.image_size)
    short_side = short_side or round(needed * 8 / 7)
    if short_side < needed:
        raise ValueError(f"expected a cache_size of {needed} or more, as the view has, got {short_side}")
    settings = _Settings(source.name, len(source), view.channels, short_side, view.decode, view.depth)
    place = Path(folder).expanduser()
    path = place / _cache_name(source, settings)
    try:
        if not _is_whole(path, view):
            with lock_folder(place, on_wait or (lambda holder: None)):
                if not _is_whole(path, view):  # another process may have made it while this one waited
                    for unfinished in place.glob(f".*{PARTIAL}"):  # what a killed process left
                        shutil.rmtree(unfinished)
                    if on_start:
                        on_start(path)
                    _make(source, view, settings, path, workers, on_image)
    except OSError as fault:
        what = fault.strerror or str(fault)
        advice = "make room, name another folder or a smaller cache_size" if _is_full(fault) else "name another folder"
        text = f"could not make the cache ({what}); {advice}"
        raise OSError(fault.errno, text, str(path)) from fault
    return replace(source, reader=CacheReader(source.reader, str(path), view.channels, view.depth))


def _is_full(fault: OSError) -> bool:
    return fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_bytes(folder: str | os.PathLike[str]) -> int:
    """Return how many bytes the caches in a folder take."""
    place = Path(folder).expanduser()
    return sum(path.stat().st_size for name, _ in _PIXELS.values() for path in place.glob(f"*/{name}"))


def _cache_name(source: Source, settings: _Settings) -> str:
    """Return the cache folder's name, which changes with every file, their order and every setting."""
    content = {**asdict(settings), "source": ""}  # a folder of images may move
    if settings.bits == 8:  # caches of before there was a choice are still good
        del content["bits"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    add_stamps(digest, source)
    return f"{len(source)}-images-{settings.short_side}px-{digest.hexdigest()[:20]}"


def _is_whole(path: Path, view: View) -> bool:
    """Return whether a cache exists and has the length that it states; a truncated copy has not."""
    try:
        sizes_N4 = _read_sizes(path)
        described = json.loads((path / DESCRIPTION_FILE).read_text())
        end = int(_borders(sizes_N4, view.channels)[-1]) * view.depth // 8
        return described["images"] == len(sizes_N4) and end == (path / _PIXELS[view.depth][0]).stat().st_size
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _read_sizes(path: Path) -> NDArray[np.int64]:
    return np.fromfile(path / SIZES_FILE, "<i8").reshape(-1, 4)


def _borders(sizes_N4: NDArray[np.int64], channels: int) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes_N4[:, 0] * sizes_N4[:, 1] * channels)]).astype(np.int64)


def _make(
    source: Source, view: View, settings: _Settings, path: Path, workers: int, on_image: Callable[[int], None] | None
) -> None:
    temporary = partial_path(path)
    try:
        temporary.mkdir()
        with open(temporary / _PIXELS[view.depth][0], "wb") as file:
            sizes_N4 = _write_pixels(source, view, settings.short_side, file, workers, on_image)
            flush_file(file)
        for name, content in (
            (SIZES_FILE, sizes_N4.astype("<i8").tobytes()),
            (DESCRIPTION_FILE, json.dumps(asdict(settings), indent=2).encode() + b"\n"),
        ):
            with open(temporary / name, "wb") as file:
                file.write(content)
                flush_file(file)
        move_into_place(temporary, path)  # over one that was cut short
        _open_cache.cache_clear()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_pixels(
    source: Source, view: View, short_side: int, file: IO[bytes], workers: int, on_image: Callable[[int], None] | None
) -> NDArray[np.int64]:
    sizes_N4, done = np.zeros((len(source), 4), np.int64), 0
    chunks = (range(i, min(i + _CHUNK_IMAGES, len(source))) for i in range(0, len(source), _CHUNK_IMAGES))
    shrink = functools.partial(_shrink_chunk, source, view, short_side)
    with contextlib.closing(make_ahead(shrink, chunks, workers)) as chunks_made:
        for made in chunks_made:
            for number, image in enumerate(made, start=done):
                if image:
                    pixels_hwC, size = image
                    sizes_N4[number] = *pixels_hwC.shape[:2], *size
                    file.write(pixels_hwC.tobytes())
            done += len(made)
            _check_room(file, done, len(source))
            if on_image:
                on_image(done)
    return sizes_N4


def _check_room(file: IO[bytes], done: int, total: int) -> None:
    """Stop early when what is still to come won't fit, by the images so far."""
    to_come = file.tell() / done * (total - done)
    if done >= _IMAGES_BEFORE_ESTIMATE and to_come > shutil.disk_usage(file.name).free:
        raise OSError(errno.ENOSPC, f"{total} images need about {(file.tell() + to_come) / 1e9:.1f} GB")


def _shrink_chunk(source: Source, view: View, short_side: int, numbers: range) -> _Shrunk:
    def need_of(height: int, width: int) -> Need:
        return Need() if view.decode == "exact" else Need(choose_reduction(min(height, width) / short_side))

    shrunk: _Shrunk = []
    for i in numbers:
        try:
            picture = source.read_picture(i, view.channels, need_of)
            shrunk.append((shrink_picture(picture, short_side, view), picture.size))
        except UnreadableImage:  # training meets it again, and says so
            shrunk.append(None)
    return shrunk


def shrink_picture(picture: Picture, short_side: int, view: View) -> Pixels:
    """Return the picture with a short side of at most `short_side` pixels, [h, w, C] in the view's depth."""
    if min(picture.size) <= short_side:
        return convert_depth(picture.pixels_hwC, view.depth)
    scale = short_side / min(picture.size)
    height, width = (max(1, round(side * scale)) for side in picture.size)
    return resize_crop(picture, (0, 0, *picture.size[::-1]), (height, width), view)
