"""The image files of a source with their labels and groups, of all its splits, for lists that name them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.sources import Source, subset
from paddlemae.data.sources.image_groups import number_groups
from paddlemae.data.sources.labels import as_labels, sort_names
from paddlemae.data.sources.readers import FileReader
from paddlemae.data.sources.string_table import StringTable
from paddlemae.tasks.data.splits import ALL_SPLITS, open_splits, open_three_splits

NO_CLASS = "(no label)"


@dataclass(frozen=True, eq=False)
class ListedImages:
    """Files of images.

    Args:
        source: reads them; `describe` gives their paths.
        classes: their names.
        labels_N: int64 [N], the class of each; -1 for an image without a label.
        groups_N: int64 [N], equal for images of a group; None without groups.
        group_names: the name of each image's group.
    """

    source: Source
    classes: tuple[str, ...]
    labels_N: NDArray[np.int64]
    groups_N: NDArray[np.int64] | None = None
    group_names: Sequence[str] | None = None
    label_column: str = "label"

    def subset(self, indices: NDArray[np.int64]) -> ListedImages:
        """Return the images at `indices`, in that order."""
        groups = None if self.groups_N is None else self.groups_N[indices]
        names = None if self.group_names is None else [self.group_names[i] for i in indices.tolist()]
        chosen = subset(self.source, indices)
        return replace(self, source=chosen, labels_N=self.labels_N[indices], groups_N=groups, group_names=names)

    def class_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (images, classes), a pair for each class of an image; without a label it is `len(classes)`."""
        return np.arange(len(self.labels_N)), np.where(self.labels_N < 0, len(self.classes), self.labels_N)

    def label(self, i: int) -> str:
        """Return the label of an image as it stands in a list; "" without."""
        label = int(self.labels_N[i])
        return "" if label < 0 else self.classes[label]


def list_images(spec: str, split: str) -> ListedImages:
    """List the image files of a source's split, or of all of them; an image that is listed twice counts once.

    Raises:
        ValueError: images that are in no files of their own, names that a list can't hold, unusable labels.
        FileNotFoundError: no such path.
    """
    labels: dict[str, str | None] = {}
    groups: dict[str, str] = {}
    reader: FileReader | None = None
    for opened in open_three_splits(spec) if split == ALL_SPLITS else open_splits(spec, split):
        if opened.is_fault:
            raise ValueError(opened.unlabelled)
        source = opened.source
        if not isinstance(source.reader, FileReader):
            raise ValueError(
                f"{spec!r} holds its images in archives, tables or arrays, and lists name image files; unpack it (as "
                "with 'tar xf') and split the folder"
            )
        reader = reader or source.reader
        for i in range(len(source)):
            path = source.describe(i)
            label = -1 if source.labels is None else source.labels[i]
            labels.setdefault(path, None if label < 0 else source.classes[label])
            if source.groups is not None:
                number = int(source.groups[i])
                groups[path] = str(number) if source.group_names is None else source.group_names[number]
    _check_paths(labels)
    classes = sort_names({label for label in labels.values() if label is not None})
    as_labels(classes, lambda i: f"{spec!r}, class {classes[i]!r}")  # as the list will be read
    number_of = {name: number for number, name in enumerate(classes)}
    labels_N = np.array([-1 if label is None else number_of[label] for label in labels.values()], np.int64)
    assert reader
    everything = Source(spec, replace(reader, files=StringTable.of(map(os.path.abspath, labels))))
    if not groups:
        return ListedImages(everything, classes, labels_N)
    names = [groups.get(path, path) for path in labels]
    return ListedImages(everything, classes, labels_N, number_groups(names)[0], names)


def _check_paths(paths: Iterable[str]) -> None:
    """Raise a ValueError for a path that a line of a list can't hold."""
    for path in paths:
        if path != path.strip() or "\n" in path or "\r" in path:
            raise ValueError(
                f"{path!r} begins or ends with a blank or has a line break, which lists can't hold; rename it"
            )
