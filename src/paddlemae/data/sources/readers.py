"""Three ways of holding images: files, contents of files by number, one array.

A reader reaches worker processes by pickling, so it holds no open file: each read opens what it needs, or finds it
loaded by this process.
"""

import errno
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from paddlemae.data.decode.images import NeedOf, Picture, UnreadableImage, decode_picture, read_content, read_picture
from paddlemae.data.decode.limits import MAX_IMAGE_BYTES, room_for
from paddlemae.data.decode.pixel_format import as_channels, as_HWC, check_channels
from paddlemae.data.disk.retry import retry_read
from paddlemae.data.disk.slow_reads import report_slow_read
from paddlemae.data.sources.string_table import StringTable

_LONGEST_REASON = 100


class Reader(Protocol):
    """Images by index."""

    def __len__(self) -> int: ...

    def describe(self, i: int) -> str:
        """Return the name of an image for a person: a path, or "digits image 17"."""

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        """Return as much of an image, uint8 or uint16, as is needed; `need_of` is called once, with its whole size.

        Raises:
            UnreadableImage: it is missing, damaged or too large.
        """

    def stored(self, i: int) -> bytes | NDArray[Any]:
        """Return what is stored of an image: the bytes of a file, or an array's values. Raises as `read_picture`."""

    def room(self, i: int) -> int:
        """Return the bytes of memory that reading an image may take (see `data.decode.limits`)."""

    def stamp(self, i: int) -> str:
        """Return a text that changes when the image does: of a file its path, size and time of change."""


@dataclass(frozen=True, eq=False)
class FileReader:
    """Image files.

    Args:
        root: the folder that is away when the images are.
        files: paths, relative to `root` or absolute.
    """

    root: str
    files: StringTable
    max_image_bytes: int = MAX_IMAGE_BYTES

    def __len__(self) -> int:
        return len(self.files)

    def describe(self, i: int) -> str:
        return os.path.join(self.root, self.files[i])

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        path = self.describe(i)
        with report_slow_read(path):
            # a disk's faults come before the size is known, so `need_of` is still called once
            return retry_read(lambda: read_picture(path, channels, need_of, self.max_image_bytes), self.root)

    def stored(self, i: int) -> bytes:
        path = self.describe(i)
        with report_slow_read(path):
            return retry_read(lambda: read_content(path), self.root)

    def room(self, i: int) -> int:
        return room_for(os.path.getsize(self.describe(i)), self.max_image_bytes)

    def stamp(self, i: int) -> str:
        return f"{self.files[i]}\0{file_stamp(self.describe(i))}"  # the path as it is listed, so that a folder may move


class Contents(Protocol):
    """Bytes of image files, by number: entries of archives, rows of tables."""

    @property
    def root(self) -> str:
        """Return the folder that is away when the contents are."""

    def __len__(self) -> int: ...

    def describe(self, i: int) -> str: ...

    def content(self, i: int, max_image_bytes: int) -> bytes:
        """Return the bytes of an image file.

        Args:
            max_image_bytes: as of `data.decode.limits`.
        Raises:
            OSError: they can't be read.
            ValueError: they are damaged or too many.
        """

    def stored_bytes(self, i: int) -> int:
        """Return how many bytes the image takes in the file that holds it."""

    def stamp(self, i: int) -> str: ...


@dataclass(frozen=True, eq=False)
class ContentReader:
    """Image files inside other files."""

    contents: Contents
    max_image_bytes: int = MAX_IMAGE_BYTES

    def __len__(self) -> int:
        return len(self.contents)

    def describe(self, i: int) -> str:
        return self.contents.describe(i)

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        return decode_picture(self.stored(i), self.describe(i), channels, need_of, self.room(i))

    def stored(self, i: int) -> bytes:
        name = self.describe(i)

        def read() -> bytes:
            try:
                return self.contents.content(i, self.max_image_bytes)
            except (OSError, ValueError) as fault:
                number = fault.errno if isinstance(fault, OSError) else None
                reason = fault.strerror if isinstance(fault, OSError) else None
                raise UnreadableImage(name, reason or " ".join(str(fault).split()), number) from fault

        with report_slow_read(name):
            return retry_read(read, self.contents.root)

    def room(self, i: int) -> int:
        return room_for(self.contents.stored_bytes(i), self.max_image_bytes)

    def stamp(self, i: int) -> str:
        return self.contents.stamp(i)


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """Images of one size in one array, which each process loads or maps for itself when it first reads one.

    Args:
        name: of the array, in the names of its images.
        load: called with `arguments`, returns the array: [N, H, W], [N, H, W, C] or [N, C, H, W]. It travels to worker
            processes by its name.
        stamped: a text that changes when the array's file does.
    """

    name: str
    count: int
    load: Callable[..., NDArray[Any]]
    arguments: tuple[Any, ...]
    stamped: str = ""

    def __len__(self) -> int:
        return self.count

    def describe(self, i: int) -> str:
        return f"{self.name} image {i}"

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        check_channels(channels)
        try:
            image_HWC = as_channels(as_HWC(self.stored(i), channels), channels)
        except ValueError as fault:
            raise UnreadableImage(self.describe(i), str(fault)) from fault
        size = image_HWC.shape[:2]
        need_of(*size)
        return Picture(image_HWC, size)

    def stored(self, i: int) -> NDArray[Any]:
        return load_once(self.load, self.arguments, self.stamped)[i]

    def room(self, i: int) -> int:
        return MAX_IMAGE_BYTES  # for copies of an image that is in memory

    def stamp(self, i: int) -> str:
        return f"{i}\0{self.stamped}"


@functools.lru_cache(maxsize=4)  # not a field of the reader: it would travel to every worker
def load_once(load: Callable[..., Any], arguments: tuple[Any, ...], stamped: str = "") -> Any:
    """Return the result of `load`, kept by this process until `stamped` is another."""
    return load(*arguments)


def unreadable_file(path: str, fault: Exception) -> ValueError:
    """Return the error of a file that can't be read: what the system said, or that its content is damaged."""
    if isinstance(fault, OSError) and fault.errno is not None:
        advice = "; raise 'ulimit -n'" if fault.errno in (errno.EMFILE, errno.ENFILE) else ""
        return ValueError(f"cannot read {path!r}: {os.strerror(fault.errno)}{advice}")
    reason = " ".join(str(fault).split())[:_LONGEST_REASON]
    return ValueError(f"{path!r} is cut short, damaged or of another kind ({reason}); download it again")


def file_stamp(path: str) -> str:
    """Return a text that changes when a file does."""
    try:
        info = os.stat(path)
    except OSError as error:  # reading it will say so again
        return str(error.strerror)
    return f"{info.st_size}\0{info.st_mtime_ns}"
