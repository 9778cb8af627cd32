"""Which subfolder of a folder holds the images of a split, found without listing those of other splits."""

import os
from collections import Counter
from collections.abc import Iterator

from paddlemae.data.images import ARRAY_EXTENSION, EXTENSIONS, has_ending
from paddlemae.data.sources.labels import in_order, note, on_both_sides, part_of, split_of
from paddlemae.data.sources.stored import is_hidden

_PICTURE, _ARRAY = "picture", "array"


def subfolder_of(root: str, split: str | None) -> str | None:
    """Return the subfolder that a split means; None for the whole folder.

    Raises:
        MissingPart, ValueError: as `labels.part_of`.
    """
    names = subfolders(root) if split else []
    words, others = [name for name in names if split_of(name)], [name for name in names if not split_of(name)]
    present = _present(root, words, others) if words and others else dict.fromkeys(words, 0)
    part = part_of(present, split, repr(root), "subfolder", others="classes")
    if part:
        _tell_loose(root)
    return part


def _present(root: str, words: list[str], others: list[str]) -> dict[str, int]:
    """Return the subfolders that decide what is a split: name -> number of images, counted where it is left out."""
    kinds = {name: _kind_of_images(os.path.join(root, name)) for name in words}
    filled = [name for name in words if kinds[name]]
    kind = _PICTURE if _PICTURE in kinds.values() else _ARRAY  # arrays next to pictures are no images
    if on_both_sides(filled):
        counts = {name: Counter(_images_below(os.path.join(root, name)))[kind] for name in others}
        return {**dict.fromkeys(words, 0), **{name: count for name, count in counts.items() if count}}
    held = [name for name in others if _kind_of_images(os.path.join(root, name)) in (_PICTURE, kind)]
    return dict.fromkeys([*filled, *held] if held else words, 0)


def classes_to_train_on(root: str) -> tuple[str, ...]:
    """Return the class folders of the split to train on, in their order; none where there is no such split."""
    train = next((name for name in subfolders(root) if split_of(name) == "train"), None)
    return in_order(subfolders(os.path.join(root, train))) if train else ()


def subfolders(root: str) -> list[str]:
    """Return the names of the folders in a folder that are not hidden."""
    with os.scandir(root) as entries:
        return [entry.name for entry in entries if not is_hidden(f"{entry.name}/") and entry.is_dir()]


def _tell_loose(root: str) -> None:
    """Say how many images next to the folders of splits are left out."""
    with os.scandir(root) as entries:
        loose = sum(has_ending(entry.name, EXTENSIONS) and not is_hidden(entry.name) for entry in entries)
    if loose:
        note(f"{root!r} leaves out {loose:,} image{'s' * (loose != 1)} in no folder of a split")


def _kind_of_images(folder: str) -> str | None:
    """Return "picture" at the first one; "array" if there are only arrays; None without images."""
    found = None
    for kind in _images_below(folder):
        if kind == _PICTURE:
            return kind
        found = kind
    return found


def _images_below(folder: str) -> Iterator[str]:
    """Give the kind of each image file, in no order; what can't be listed is passed over."""
    folders, seen = [folder], set[tuple[int, int]]()
    while folders:
        path = folders.pop()
        try:
            info = os.stat(path)
            if (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            with os.scandir(path) as entries:
                for entry in entries:
                    if is_hidden(f"{entry.name}/"):
                        continue
                    if entry.is_dir():
                        folders.append(entry.path)
                    elif has_ending(entry.name, EXTENSIONS):
                        yield _PICTURE
                    elif has_ending(entry.name, (ARRAY_EXTENSION,)):
                        yield _ARRAY
        except OSError:
            continue
