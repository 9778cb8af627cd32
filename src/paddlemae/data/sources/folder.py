"""A folder of image files, searched to any depth."""

import os
from collections.abc import Iterator
from typing import Literal

from paddlemae.data.decode.images import ARRAY_EXTENSION, EXTENSIONS, has_ending
from paddlemae.data.sources.archive_entries import RUN_MARKS, SYSTEM_FOLDERS
from paddlemae.data.sources.labels import targets_by_folder
from paddlemae.data.sources.mask_folders import folder_of_images, without_sample_masks
from paddlemae.data.sources.readers import FileReader
from paddlemae.data.sources.source import Source
from paddlemae.data.sources.splits import is_held_out
from paddlemae.data.sources.string_table import StringTable
from paddlemae.data.sources.subfolders import note_deeper_splits, subfolder_of, subfolders, training_classes

TAR = ".tar"


def open_folder(root: str, split: str | None, labelled: bool) -> Source:
    """Open the images of a folder, or of the subfolder of a split; labels are the class folders.

    Of folders `images` and `masks` next to each other, in the folder or in that of a split, the first is opened.
    """
    root = whole = folder_of_images(root)
    if folder := subfolder_of(root, split):
        root = folder_of_images(os.path.join(root, folder))
    files, num_others = list_images(root)
    if not files:
        raise ValueError(
            f"no images in {root!r}: {num_others} other files seen; expected names ending in "
            f"{' '.join((*EXTENSIONS, ARRAY_EXTENSION))}"
        )
    if split and not folder:
        note_deeper_splits(root, files)
    targets = None
    if labelled:
        train_classes = training_classes(whole) if folder and is_held_out(split) else ()
        targets = targets_by_folder(root, files, subfolders(root), train_classes, is_split=folder is not None)
    return Source(root, FileReader(root, StringTable.of(files)), targets)


def list_images(root: str, *, with_masks: bool = False) -> tuple[list[str], int]:
    """List the images below `root`: sorted relative paths with "/", and the number of other files.

    Real folders are walked before links to folders, so an image has its real path where it has one. Arrays count as
    images where there are no others. `1.mask.png` next to `1.jpg` counts only `with_masks`. Hidden ones,
    `SYSTEM_FOLDERS` and a run's folder below `root` are passed over.
    """
    images: list[str] = []
    arrays: list[str] = []
    num_others = 0
    folders, links, seen = [""], list[str](), set[tuple[int, int]]()
    while folders or links:
        if not folders:
            links.sort(reverse=True)
            folders.append(links.pop())
        folder = folders.pop()
        info = os.stat(os.path.join(root, folder))
        if (info.st_dev, info.st_ino) in seen:
            continue
        seen.add((info.st_dev, info.st_ino))
        lists, marks = [images, arrays, folders, links], 0
        before, others_before = [len(each) for each in lists], num_others
        for entry in _entries(os.path.join(root, folder)):
            path = f"{folder}/{entry.name}" if folder else entry.name
            kind = _kind(entry)
            extension = os.path.splitext(entry.name)[1].lower()
            if kind == "folder":
                if entry.name not in SYSTEM_FOLDERS:
                    (links if entry.is_symlink() else folders).append(path)
            elif kind == "file" and extension in EXTENSIONS:
                images.append(path)
            elif kind == "file" and extension == ARRAY_EXTENSION:
                arrays.append(path)
            else:
                num_others += 1
                marks += entry.name in RUN_MARKS
        if folder and marks == len(RUN_MARKS):
            for each, length in zip(lists, before):
                del each[length:]
            num_others = others_before
    if not images:
        return sorted(arrays), num_others
    pictures = images if with_masks else without_sample_masks(images)
    return sorted(pictures), num_others + len(arrays) + len(images) - len(pictures)


def list_tars(root: str) -> list[str]:
    """Return the tars below a folder, relative and sorted; none if a subfolder has images, which came in the tar."""
    tars: list[str] = []
    folders, seen = [""], set[str]()
    while folders:
        folder = folders.pop()
        if (real := os.path.realpath(os.path.join(root, folder))) in seen:
            continue
        seen.add(real)
        for entry in _entries(os.path.join(root, folder)):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if folder and has_ending(entry.name, (*EXTENSIONS, ARRAY_EXTENSION)):
                return []
            kind = _kind(entry)
            if kind == "folder" and entry.name not in SYSTEM_FOLDERS:
                folders.append(path)
            elif kind == "file" and has_ending(entry.name, (TAR,)):
                tars.append(path)
    return sorted(tars)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Return everything in a folder that isn't hidden."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield entry
    except OSError as error:
        raise ValueError(f"cannot list the folder {folder!r}: {error.strerror}; fix or move it") from error


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "other"]:
    """Return the kind of an entry or of its link's target, by one system call at most: a folder may hold a million.

    A dangling link counts as a file, so that reading it reports it; a pipe, which would hang, doesn't.
    """
    try:
        if entry.is_dir():
            return "folder"
        is_file = entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
        return "file" if is_file else "other"
    except OSError:  # a link in a circle
        return "file"
