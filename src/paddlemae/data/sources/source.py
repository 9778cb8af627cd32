"""A source of images: a reader of them, their targets, and the groups that they belong to."""

import functools
from dataclasses import dataclass
from typing import Any, Protocol

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


IGNORE = -1  # in a mask: this pixel belongs to no class and counts nowhere
Mask = NDArray[np.int16]  # [H, W]: indices of classes, or IGNORE


class BadMask(ValueError):
    """A mask that can't be used: its file, what is wrong with it and how to fix that, in one line."""


class MaskReader(Protocol):
    """Masks by index."""

    def __len__(self) -> int: ...

    def describe(self, i: int) -> str:
        """Return the name of a mask for a person: its path."""

    def read(self, i: int) -> Mask:
        """Return mask i, int16 [H, W], upright as its image is shown; raise `BadMask` if that can't be done."""

    def stamp(self, i: int) -> str:
        """Return a text that changes when the mask does."""


@dataclass(frozen=True, eq=False)
class SubsetMasks:
    """Some masks of another reader, in the order of `indices`, their classes renumbered if `number_of` is given.

    Args:
        number_of: int16 [classes of `whole` + 1], the new index of each class; the last one is IGNORE.
    """

    whole: MaskReader
    indices: NDArray[np.int64]
    number_of: NDArray[np.int16] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def describe(self, i: int) -> str:
        return self.whole.describe(int(self.indices[i]))

    def read(self, i: int) -> Mask:
        mask = self.whole.read(int(self.indices[i]))
        return mask if self.number_of is None else np.take(self.number_of, mask)

    def stamp(self, i: int) -> str:
        return self.whole.stamp(int(self.indices[i]))


@dataclass(frozen=True, eq=False)
class MaskTargets:
    """A class for each pixel of an image.

    Args:
        classes: their names.
        palette: uint8 [classes, 3], a colour for each of them, in which masks are shown and written.
        reader: reads the masks, one an image.
    """

    classes: tuple[str, ...]
    palette: NDArray[np.uint8]
    reader: MaskReader

    def read(self, i: int, size: tuple[int, int] | None = None) -> Mask:
        """Return the mask of image i: int16 [H, W], index of a class or IGNORE.

        Args:
            size: (H, W) of the image as it is shown, which the mask must have; None: any.
        Raises:
            BadMask: it is missing, damaged, of another size, or has values that no class has.
        """
        mask = self.reader.read(i)
        if size is not None and mask.shape != size:
            raise BadMask(other_size(self.reader.describe(i), mask.shape, size))
        return mask

    def describe(self, i: int) -> str:
        """Return the name of the mask of image i for a person: its path."""
        return self.reader.describe(i)

    def subset(self, indices: NDArray[np.int64]) -> "MaskTargets":
        """Return the targets of the images at `indices`, in that order."""
        return MaskTargets(self.classes, self.palette, SubsetMasks(self.reader, indices))

    def renumber(self, classes: tuple[str, ...]) -> "MaskTargets":
        """Return the targets numbered as `classes` are; pixels of a class that is not among these are ignored."""
        old_of = {name: number for number, name in enumerate(self.classes)}
        number_of = np.full(len(self.classes) + 1, IGNORE, np.int16)
        palette = np.zeros((len(classes), 3), np.uint8)
        for number, name in enumerate(classes):
            if (old := old_of.get(name)) is not None:
                number_of[old], palette[number] = number, self.palette[old]
        return MaskTargets(classes, palette, SubsetMasks(self.reader, np.arange(len(self.reader)), number_of))

    @property
    def known(self) -> NDArray[np.bool_]:
        """Return which images have a mask: all, as a source lists no others."""
        return np.ones(len(self.reader), np.bool_)

    @functools.cached_property
    def pixels(self) -> NDArray[np.int64]:
        """Return the pixels of each class in each mask, ignored ones last: int64 [len, classes + 1]. Reads all masks.

        Raises:
            BadMask: as `read`.
        """
        counts = np.zeros((len(self.reader), len(self.classes) + 1), np.int64)
        for i, row in enumerate(counts):
            row[:] = np.roll(np.bincount(self.reader.read(i).ravel() + 1, minlength=len(row)), -1)
        return counts

    def counts(self) -> NDArray[np.int64]:
        """Return how many images have a pixel of each class: int64 [classes]. Reads all masks the first time."""
        return (self.pixels[:, :-1] > 0).sum(axis=0, dtype=np.int64)

    def having(self, number: int) -> NDArray[np.bool_]:
        """Return which images have a pixel of a class: bool [len]. Reads all masks the first time."""
        return self.pixels[:, number] > 0

    def names(self, i: int) -> tuple[str, ...]:
        """Return the names of the classes that image i has pixels of."""
        return tuple(self.classes[number] for number in np.unique(self.read(i)) if number != IGNORE)

    def batch(self, indices: NDArray[np.int64] | list[int]) -> Mask:
        """Return the masks of several images as they stand in a batch: int16 [B, H, W]; sizes must be equal."""
        masks = [self.read(int(i)) for i in indices]
        for i, mask in zip(indices, masks):
            if mask.shape != masks[0].shape:
                raise BadMask(other_size(self.describe(int(i)), mask.shape, masks[0].shape))
        return np.stack(masks) if masks else np.empty((0, 0, 0), np.int16)


def other_size(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Return the error of a mask whose (H, W) differs from its image's."""
    text = f"mask {name!r} has {found[1]} x {found[0]} pixels, its image {expected[1]} x {expected[0]}"
    if tuple(found) == tuple(expected[::-1]) and found[0] != found[1]:
        return (
            f"{text}: the mask is of the photo before its EXIF rotation; add ::turn_masks=true to turn masks as their "
            "photos are"
        )
    return f"{text}; save them in one size"


Targets = ClassTargets | MultiLabelTargets | MaskTargets
BatchTargets = NDArray[np.int64] | NDArray[np.float32] | Mask  # as `Targets.batch` returns them


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

    @property
    def masks(self) -> MaskTargets:
        """Return the masks; without them, raise a ValueError."""
        if not isinstance(self.targets, MaskTargets):
            raise ValueError(
                f"{self.name!r} has no masks; expected images with masks, such as folders images/ and masks/"
            )
        return self.targets


def add_stamps(digest: Any, source: Source) -> None:
    """Update a hashlib digest with the stamps of a source's images, in their order."""
    for i in range(len(source)):
        digest.update(source.stamp(i).encode("utf-8", "surrogateescape") + b"\n")
