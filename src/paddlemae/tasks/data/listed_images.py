"""The image files of a source with their classes and groups, of all its splits, for lists that name them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.masks.holds_masks import holds_masks
from paddlemae.data.masks.readers import mask_file_of
from paddlemae.data.sources import MultiLabelTargets, Source, subset
from paddlemae.data.sources.image_files import file_of
from paddlemae.data.sources.image_groups import number_groups
from paddlemae.data.sources.labels import as_labels, sort_names
from paddlemae.data.sources.lists import GROUP_COLUMNS, IMAGE_COLUMNS, SPLIT_COLUMNS
from paddlemae.data.sources.multi_labels import SEPARATOR, SETS_COLUMN, SETS_OPTION
from paddlemae.data.sources.readers import FileReader
from paddlemae.data.sources.string_table import StringTable
from paddlemae.tasks.data.splits import ALL_SPLITS, open_masked_splits, open_splits, open_three_splits

NO_CLASS = "(no label)"
_Classes = tuple[str, ...] | None  # of an image; None for an image without a label


@dataclass(frozen=True, eq=False)
class ListedImages:
    """Files of images.

    Args:
        source: reads them; `describe` gives their paths.
        classes: their names.
        labels: the classes of each image.
        multi_label: whether an image may have any number of classes.
        groups_N: int64 [N], equal for images of a group; None without groups.
        group_names: the name of each image's group.
        masks: the file of each image's mask; None without masks. An image then has the classes of its mask's pixels.
    """

    source: Source
    classes: tuple[str, ...]
    labels: Sequence[_Classes]
    multi_label: bool
    groups_N: NDArray[np.int64] | None = None
    group_names: Sequence[str] | None = None
    masks: Sequence[str] | None = None

    def subset(self, indices: NDArray[np.int64]) -> ListedImages:
        """Return the images at `indices`, in that order."""
        chosen = indices.tolist()
        groups = None if self.groups_N is None else self.groups_N[indices]
        names = None if self.group_names is None else [self.group_names[i] for i in chosen]
        labels = [self.labels[i] for i in chosen]
        masks = None if self.masks is None else [self.masks[i] for i in chosen]
        source = subset(self.source, indices)
        return replace(self, source=source, labels=labels, groups_N=groups, group_names=names, masks=masks)

    def class_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (images, classes), a pair for each class of an image; without a label it is `len(classes)`."""
        number_of = {name: number for number, name in enumerate(self.classes)}
        pairs = [
            (i, number)
            for i, names in enumerate(self.labels)
            for number in ([len(self.classes)] if names is None else [number_of[name] for name in names])
        ]
        images, classes = np.array(pairs, np.int64).reshape(-1, 2).T
        return images, classes

    @property
    def needs_columns(self) -> bool:
        """Return whether classes take a column of 0 and 1 each: an image has none of them, or a name has a `|`."""
        return (
            self.multi_label
            and self.masks is None
            and (() in self.labels or any(SEPARATOR in name for name in self.classes))
        )

    def label_columns(self) -> dict[str, list[str]]:
        """Return the columns of a list that hold the labels: name -> cells; none without labels.

        Raises:
            ValueError: labels that no list can hold.
        """
        if not self.classes or self.masks is not None:
            return {}
        if not self.multi_label:
            return {"label": ["".join(names or ()) for names in self.labels]}
        if not self.needs_columns:
            return {SETS_COLUMN: [SEPARATOR.join(names or ()) for names in self.labels]}
        if None in self.labels:
            raise ValueError("some images have no label, and others none of the classes; a list can't distinguish them")
        reserved = {*IMAGE_COLUMNS, *SPLIT_COLUMNS, *GROUP_COLUMNS}
        names = [name.lower() for name in self.classes]
        if bad := [name for name in names if name in reserved or "," in name or names.count(name) > 1]:
            raise ValueError(f"class {bad[0]!r} can't be the name of a column of the list; rename it")
        return {name: [str(int(name in (each or ()))) for each in self.labels] for name in self.classes}

    def label_option(self) -> str:
        """Return the option behind a list's path that says which columns hold the labels; "" where none is needed."""
        if self.needs_columns:
            return f"::{SETS_OPTION}={','.join(self.classes)}"
        if self.masks is not None:
            return ""
        are_seen = any(len(names or ()) > 1 for names in self.labels)
        return f"::{SETS_OPTION}={SETS_COLUMN}" if self.multi_label and not are_seen else ""


def list_images(spec: str, split: str) -> ListedImages:
    """List the image files of a source's split, or of all of them; an image that is listed twice counts once.

    Raises:
        ValueError: images that are in no files of their own, names that a list can't hold, unusable labels.
        FileNotFoundError: no such path.
    """
    if holds_masks(spec):
        return list_masked_images(spec, split)
    labels: dict[str, _Classes] = {}
    groups: dict[str, str] = {}
    reader: FileReader | None = None
    classes: dict[str, None] = {}
    multi_label = False
    for opened in open_three_splits(spec) if split == ALL_SPLITS else open_splits(spec, split, multi_label=True):
        if opened.is_fault:
            raise ValueError(opened.unlabelled)
        source, targets = opened.source, opened.source.targets
        if not isinstance(source.reader, FileReader):
            raise ValueError(
                f"{spec!r} holds its images in archives, tables or arrays, and lists name image files; unpack it (as "
                "with 'tar xf') and split the folder"
            )
        reader = reader or source.reader
        multi_label = multi_label or isinstance(targets, MultiLabelTargets)
        classes |= dict.fromkeys(source.classes)
        for i in range(len(source)):
            path = source.describe(i)
            labels.setdefault(path, targets.names(i) if targets and targets.known[i] else None)
            if source.groups is not None:
                number = int(source.groups[i])
                groups[path] = str(number) if source.group_names is None else source.group_names[number]
    assert reader
    _check_paths(labels)
    ordered = tuple(classes) if multi_label else sort_names(classes)
    as_labels(ordered, lambda i: f"{spec!r}, class {ordered[i]!r}")  # as the list will be read
    everything = Source(spec, replace(reader, files=StringTable.of(map(os.path.abspath, labels))))
    listed = ListedImages(everything, ordered, list(labels.values()), multi_label)
    listed.label_columns()  # refused before all images are read
    return _with_groups(listed, labels, groups)


def _with_groups(listed: ListedImages, paths: Iterable[str], groups: Mapping[str, str]) -> ListedImages:
    """Return images with the groups of those that have one; any other image is a group of its own."""
    if not groups:
        return listed
    names = [groups.get(path, path) for path in paths]
    return replace(listed, groups_N=number_groups(names)[0], group_names=names)


def list_masked_images(spec: str, split: str) -> ListedImages:
    """List the image files of a source with mask files, with the classes that each mask has; raises as `list_images`.

    `BadMask` is raised for the first mask that can't be used.
    """
    labels: dict[str, _Classes] = {}
    masks: dict[str, str] = {}
    groups: dict[str, str] = {}
    classes: dict[str, None] = {}
    root = ""
    for source in open_masked_splits(spec, split):
        root = root or source.name
        classes |= dict.fromkeys(source.classes)
        for i in range(len(source)):
            image, mask = file_of(source.reader, i), mask_file_of(source.masks.reader, i)
            if image is None or mask is None:
                raise ValueError(
                    f"{spec!r} does not keep each image and mask in a file of its own, and lists name files; convert "
                    "it to folders of images and masks"
                )
            masks.setdefault(os.path.abspath(image), os.path.abspath(mask))
            labels.setdefault(os.path.abspath(image), source.masks.names(i))
            if source.groups is not None and source.group_names is not None:
                groups[os.path.abspath(image)] = source.group_names[int(source.groups[i])]
    _check_paths([*labels, *masks.values()])
    everything = Source(spec, FileReader(root if os.path.isdir(root) else ".", StringTable.of(labels)))
    listed = ListedImages(everything, tuple(classes), list(labels.values()), True, masks=list(masks.values()))
    return _with_groups(listed, labels, groups)


def _check_paths(paths: Iterable[str]) -> None:
    """Raise a ValueError for a path that a line of a list can't hold."""
    for path in paths:
        if path != path.strip() or "\n" in path or "\r" in path:
            raise ValueError(
                f"{path!r} begins or ends with a blank or has a line break, which lists can't hold; rename it"
            )
