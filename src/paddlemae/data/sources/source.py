"""A source of images: a reader of them, their targets, and the groups that they belong to."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import NeedOf, Picture, need_all
from paddlemae.data.decode.pixel_format import Pixels
from paddlemae.data.sources.readers import Reader
from paddlemae.data.sources.string_table import StringTable


@dataclass(frozen=True, eq=False)
class ClassTargets:
    """One class an image.

    Args:
        labels: int64 [len], indices into `classes`; -1 for an image without a label, which `open_source` leaves out
            unless it is asked to keep such images.
        classes: their names.
    """

    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def subset(self, indices: NDArray[np.int64]) -> "ClassTargets":
        """Return the targets of the images at `indices`, in that order."""
        return ClassTargets(self.labels[indices], self.classes)

    def renumber(self, classes: tuple[str, ...]) -> "ClassTargets":
        """Return the targets numbered as `classes`, which have the names of all labels, are."""
        number_of = {name: number for number, name in enumerate(classes)}
        numbers = np.array([*(number_of.get(name, -1) for name in self.classes), -1], np.int64)
        return ClassTargets(numbers[self.labels], classes)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Return which images have a label: bool [len]."""
        return self.labels >= 0

    def counts(self) -> NDArray[np.int64]:
        """Return how many images have each class: int64 [classes]."""
        return np.bincount(self.labels[self.known], minlength=len(self.classes))

    def having(self, number: int) -> NDArray[np.bool_]:
        """Return which images have a class: bool [len]."""
        return self.labels == number

    def names(self, i: int) -> tuple[str, ...]:
        """Return the name of the class of image i, or nothing without a label."""
        return (self.classes[self.labels[i]],) if self.labels[i] >= 0 else ()

    def batch(self, indices: NDArray[np.int64] | list[int]) -> NDArray[np.int64]:
        """Return the targets of several images as they stand in a batch: int64 [B]."""
        return self.labels[indices]


@dataclass(frozen=True, eq=False)
class MultiLabelTargets:
    """Any number of classes an image.

    Args:
        labels: bool [len, classes], whether an image has a class.
        classes: their names.
        known: bool [len], which images have labels at all; `open_source` leaves the others out unless it is asked to
            keep such images.
    """

    labels: NDArray[np.bool_]
    classes: tuple[str, ...]
    known: NDArray[np.bool_]

    def subset(self, indices: NDArray[np.int64]) -> "MultiLabelTargets":
        """Return the targets of the images at `indices`, in that order."""
        return MultiLabelTargets(self.labels[indices], self.classes, self.known[indices])

    def renumber(self, classes: tuple[str, ...]) -> "MultiLabelTargets":
        """Return the targets with a column for each of `classes`, which have the names of all labels."""
        column_of = {name: column for column, name in enumerate(self.classes)}
        absent = np.zeros((len(self.labels), 1), np.bool_)  # the last column, which -1 takes
        columns = [column_of.get(name, -1) for name in classes]
        return MultiLabelTargets(np.hstack([self.labels, absent])[:, columns], classes, self.known)

    def counts(self) -> NDArray[np.int64]:
        """Return how many images have each class: int64 [classes]."""
        return self.labels.sum(axis=0, dtype=np.int64)

    def having(self, number: int) -> NDArray[np.bool_]:
        """Return which images have a class: bool [len]."""
        return self.labels[:, number]

    def names(self, i: int) -> tuple[str, ...]:
        """Return the names of the classes of image i."""
        return tuple(self.classes[number] for number in np.flatnonzero(self.labels[i]))

    def batch(self, indices: NDArray[np.int64] | list[int]) -> NDArray[np.float32]:
        """Return the targets of several images as they stand in a batch: float32 [B, classes], 0 or 1."""
        return self.labels[indices].astype(np.float32)


Targets = ClassTargets | MultiLabelTargets
BatchTargets = NDArray[np.int64] | NDArray[np.float32]  # as `Targets.batch` returns them


@dataclass(frozen=True, eq=False)
class Source:
    """Images by index, with their targets and groups where they are known.

    Args:
        name: for messages and logs.
        reader: reads the images.
        targets: what a model is to say of each image; None without labels.
        groups: int64 [len], equal for images that must stay together when the source is split; None without groups.
        group_names: of the numbers in `groups`, in other splits too; None where only numbers are known.
    """

    name: str
    reader: Reader
    targets: Targets | None = None
    groups: NDArray[np.int64] | None = None
    group_names: StringTable | None = None

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Return the labels of class targets, int64 [len], indices into `classes`; None without such targets."""
        return self.targets.labels if isinstance(self.targets, ClassTargets) else None

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes; none without labels."""
        return () if self.targets is None else self.targets.classes

    def target(self, i: int) -> int | None:
        """Return the target of image i: its class as an index into `classes`; None without class targets."""
        return None if self.labels is None else int(self.labels[i])

    def describe(self, i: int) -> str:
        """Return the name of image i for a person: a path, or "digits image 17"."""
        return self.reader.describe(i)

    def read(self, i: int, channels: int) -> Pixels:
        """Return uint8 or uint16 [H, W, channels], or raise `UnreadableImage`."""
        return self.reader.read_picture(i, channels, need_all).pixels_hwC

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        """Return as much of image i as is needed; `need_of` is called once, with the whole image's size."""
        return self.reader.read_picture(i, channels, need_of)

    def stored(self, i: int) -> bytes | NDArray[Any]:
        """Return what is stored of image i: the bytes of an image file, or an array's values. Raises as `read`."""
        return self.reader.stored(i)

    def room(self, i: int) -> int:
        """Return the bytes of memory that reading image i may take (see `data.decode.limits`)."""
        return self.reader.room(i)

    def stamp(self, i: int) -> str:
        """Return a text that changes when image i does: of a file its path, size and time of change."""
        return self.reader.stamp(i)


def add_stamps(digest: Any, source: Source) -> None:
    """Update a hashlib digest with the stamps of a source's images, in their order."""
    for i in range(len(source)):
        digest.update(source.stamp(i).encode("utf-8", "surrogateescape") + b"\n")
