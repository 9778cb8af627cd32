"""What a source of images is, and the three ways of holding one: files, contents by number, one array.

A source is any object with the attributes of `Source`. It reaches worker processes by pickling, so it holds no open
file: each read opens what it needs, or finds it loaded by this process.
"""

import errno
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import (
    NeedOf,
    Picture,
    UnreadableImage,
    decode_picture,
    read_content,
    read_picture,
    whole,
)
from paddlemae.data.decode.limits import MAX_IMAGE_BYTES, room_for
from paddlemae.data.decode.pixel_format import Pixels, as_channels, as_HWC, check_channels
from paddlemae.data.disk.retry import patiently
from paddlemae.data.disk.slow_reads import noticed
from paddlemae.data.sources.string_table import Names

_LONGEST_REASON = 100


class Source(Protocol):
    """Images by index, with labels where they are known."""

    @property
    def name(self) -> str:
        """For messages and logs."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """int64 [len], indices into `classes`; None when unlabelled."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; empty when unlabelled."""

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """int64 [len], equal for images that must stay together when the source is split; None when there are none."""

    @property
    def group_names(self) -> Names | None:
        """What the numbers in `groups` mean, in other parts of the images too; None where only numbers are known."""

    def __len__(self) -> int: ...

    def describe(self, i: int) -> str:
        """Which image this is, to a person: a path, or "digits image 17"."""

    def read(self, i: int, channels: int) -> Pixels:
        """Return uint8 or uint16 [H, W, channels], or raise `images.UnreadableImage`."""

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        """The same, or as much of it as is needed; `need_of` is asked once, with the whole image's size."""

    def stored(self, i: int) -> bytes | NDArray[Any]:
        """What is kept of image i: the bytes of an image file, or an array's values. Raises as `read` does."""

    def room(self, i: int) -> int:
        """Return the bytes of memory that reading image i may take (see `data.decode.limits`)."""

    def stamp(self, i: int) -> str:
        """What changes when image i does: for a file its path, size and time of change."""


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, read on demand.

    Args:
        root: the folder that is away when the images are.
        files: paths, relative to `root` or absolute.
    """

    name: str
    root: str
    files: Names
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    groups: NDArray[np.int64] | None = None
    group_names: Names | None = None
    max_image_bytes: int = MAX_IMAGE_BYTES

    def __len__(self) -> int:
        return len(self.files)

    def describe(self, i: int) -> str:
        return os.path.join(self.root, self.files[i])

    def read(self, i: int, channels: int) -> Pixels:
        return self.read_picture(i, channels, whole).pixels_hwC

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        path = self.describe(i)
        with noticed(path):
            # a disk's faults come before the size is known, so `need_of` is still asked once
            return patiently(lambda: read_picture(path, channels, need_of, self.max_image_bytes), self.root)

    def stored(self, i: int) -> bytes:
        path = self.describe(i)
        with noticed(path):
            return patiently(lambda: read_content(path), self.root)

    def room(self, i: int) -> int:
        return room_for(os.path.getsize(self.describe(i)), self.max_image_bytes)

    def stamp(self, i: int) -> str:
        return f"{self.files[i]}\0{file_stamp(self.describe(i))}"  # the path as it is listed, so that a folder may move


class Contents(Protocol):
    """What image files hold, by number: entries of archives, rows of tables."""

    @property
    def root(self) -> str:
        """The folder that is away when the contents are."""

    def __len__(self) -> int: ...

    def describe(self, i: int) -> str: ...

    def content(self, i: int, max_image_bytes: int) -> bytes:
        """The bytes of an image file; OSError when they can't be read, ValueError when they can't be used or are many.

        Args:
            max_image_bytes: as of `data.decode.limits`.
        """

    def stored_bytes(self, i: int) -> int:
        """Return how many bytes of the file that it is in the image takes, as they are stored."""

    def stamp(self, i: int) -> str: ...


@dataclass(frozen=True, eq=False)
class EncodedSource:
    """Image files inside other files."""

    name: str
    contents: Contents
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    groups: NDArray[np.int64] | None = None
    group_names: Names | None = None
    max_image_bytes: int = MAX_IMAGE_BYTES

    def __len__(self) -> int:
        return len(self.contents)

    def describe(self, i: int) -> str:
        return self.contents.describe(i)

    def read(self, i: int, channels: int) -> Pixels:
        return self.read_picture(i, channels, whole).pixels_hwC

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        return decode_picture(self.stored(i), self.describe(i), channels, need_of, self.room(i))

    def stored(self, i: int) -> bytes:
        name = self.describe(i)

        def read() -> bytes:
            try:
                return self.contents.content(i, self.max_image_bytes)
            except (OSError, ValueError) as fault:
                errno = fault.errno if isinstance(fault, OSError) else None
                reason = fault.strerror if isinstance(fault, OSError) else None
                raise UnreadableImage(name, reason or " ".join(str(fault).split()), errno) from fault

        with noticed(name):
            return patiently(read, self.contents.root)

    def room(self, i: int) -> int:
        return room_for(self.contents.stored_bytes(i), self.max_image_bytes)

    def stamp(self, i: int) -> str:
        return self.contents.stamp(i)


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images of one size in one array, which each process loads or maps for itself when it first reads one.

    Args:
        load: called with `arguments`, gives the array: [N, H, W], [N, H, W, C] or [N, C, H, W]. It travels to worker
            processes by its name.
        stamped: what changes when the array's file does.
    """

    name: str
    count: int
    load: Callable[..., NDArray]
    arguments: tuple[Any, ...]
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    groups: NDArray[np.int64] | None = None
    group_names: Names | None = None
    stamped: str = ""

    def __len__(self) -> int:
        return self.count

    def describe(self, i: int) -> str:
        return f"{self.name} image {i}"

    def read(self, i: int, channels: int) -> Pixels:
        check_channels(channels)
        try:
            return as_channels(as_HWC(self.stored(i), channels), channels)
        except ValueError as fault:
            raise UnreadableImage(self.describe(i), str(fault)) from fault

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        image_HWC = self.read(i, channels)
        size = image_HWC.shape[:2]
        need_of(*size)
        return Picture(image_HWC, size)

    def stored(self, i: int) -> NDArray[Any]:
        return loaded(self.load, self.arguments, self.stamped)[i]

    def room(self, i: int) -> int:
        return MAX_IMAGE_BYTES  # for what is made of an image that is in memory

    def stamp(self, i: int) -> str:
        return f"{i}\0{self.stamped}"


@functools.lru_cache(maxsize=4)  # not a field of the source: it would travel to every worker
def loaded(load: Callable[..., Any], arguments: tuple[Any, ...], stamped: str = "") -> Any:
    """What `load` gives, kept by this process; a file that has changed is loaded anew when it is opened again."""
    return load(*arguments)


def add_stamps(digest: Any, source: Source) -> None:
    """Put into a hashlib digest what changes when one of a source's images does, or its place among the others."""
    for i in range(len(source)):
        digest.update(source.stamp(i).encode("utf-8", "surrogateescape") + b"\n")


def not_read(path: str, fault: Exception) -> ValueError:
    """Return the error of a file that can't be read: what the system said, or that its content is damaged."""
    if isinstance(fault, OSError) and fault.errno is not None:
        advice = "; raise 'ulimit -n'" if fault.errno in (errno.EMFILE, errno.ENFILE) else ""
        return ValueError(f"cannot read {path!r}: {os.strerror(fault.errno)}{advice}")
    reason = " ".join(str(fault).split())[:_LONGEST_REASON]
    return ValueError(f"{path!r} is cut short, damaged or of another kind ({reason}); download it again")


def file_stamp(path: str) -> str:
    """What changes when a file does."""
    try:
        info = os.stat(path)
    except OSError as error:  # reading it will say so again
        return str(error.strerror)
    return f"{info.st_size}\0{info.st_mtime_ns}"
