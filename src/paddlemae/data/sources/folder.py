"""A folder of image files, searched to any depth."""

import os
from typing import Literal

from paddlemae.data.images import ARRAY_EXTENSION, EXTENSIONS
from paddlemae.data.sources.labels import PARTS, class_folders, labels_by_folder, part_of
from paddlemae.data.sources.names import Names
from paddlemae.data.sources.source import FolderSource

RUN_MARKS = ("recipe.yaml", "environment.json")  # a folder with both is that of a training


def open_folder(root: str, split: str | None, labelled: bool) -> FolderSource:
    """The images of a folder, or of its subfolder that a split means; labels by folder."""
    parts = [name for name in PARTS if os.path.isdir(os.path.join(root, name))] if split else []
    part = part_of(parts, split, repr(root), "subfolder")
    root = os.path.join(root, part) if part else root
    files, num_others = list_images(root)
    if not files:
        raise ValueError(
            f"no images in {root!r}: {num_others} other files seen; expected names ending in "
            f"{' '.join((*EXTENSIONS, ARRAY_EXTENSION))}"
        )
    if not labelled:
        return FolderSource(root, root, Names.of(files))
    with os.scandir(root) as entries:
        folders = [entry.name for entry in entries if not entry.name.startswith(".") and os.path.isdir(entry.path)]
    classes = class_folders(root, files, folders)
    return FolderSource(root, root, Names.of(files), labels_by_folder(files, classes), classes)


def list_images(root: str) -> tuple[list[str], int]:
    """Paths of the images below `root`, relative, with "/" and sorted; and the number of other files.

    Real folders are walked before links to folders, so an image has its real path where it has one. Arrays count as
    images where there are no others. A run's folder below `root` is passed over: its pictures are no images of it.
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
        found, marks = [images, arrays, folders, links], 0
        before, others_before = [len(each) for each in found], num_others
        for entry in _entries(os.path.join(root, folder)):
            path = f"{folder}/{entry.name}" if folder else entry.name
            kind = _kind(entry)
            extension = os.path.splitext(entry.name)[1].lower()
            if kind == "folder":
                (links if entry.is_symlink() else folders).append(path)
            elif kind == "file" and extension in EXTENSIONS:
                images.append(path)
            elif kind == "file" and extension == ARRAY_EXTENSION:
                arrays.append(path)
            else:
                num_others += 1
                marks += entry.name in RUN_MARKS
        if folder and marks == len(RUN_MARKS):
            for each, length in zip(found, before):
                del each[length:]
            num_others = others_before
    return (sorted(images), num_others + len(arrays)) if images else (sorted(arrays), num_others)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Everything in a folder that isn't hidden."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(f"cannot list the folder {folder!r}: {error.strerror}; mend or move it") from error


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "other"]:
    """What it is, or what a link leads to, by one look at most, which is what listing a million links waits for.

    A dangling link counts as a file, so that reading it reports it; a pipe, which would hang, doesn't.
    """
    try:
        if entry.is_dir():
            return "folder"
        is_file = entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
        return "file" if is_file else "other"
    except OSError:  # a link in a circle
        return "file"
