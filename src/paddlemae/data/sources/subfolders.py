"""Find which subfolder of a folder holds the images of a split, without listing those of other splits."""

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from paddlemae.data.decode.images import ARRAY_EXTENSION, EXTENSIONS, has_ending
from paddlemae.data.sources.archive_entries import is_hidden
from paddlemae.data.sources.labels import class_folders, sort_names
from paddlemae.data.sources.splits import TEST_WORDS, TRAIN_WORDS, choose_split, note, on_both_sides, split_of

PICTURE, ARRAY = "picture", "array"
_MOST_FOLDERS = 1000  # that are searched for splits inside


def subfolder_of(root: str, split: str | None) -> str | None:
    """Return the subfolder that a split means; None for the whole folder.

    Raises:
        MissingSplit, ValueError: as `splits.choose_split`.
    """
    folder = choose_folder(
        subfolders(root) if split else [],
        split,
        repr(root),
        lambda name: _kind_of_images(os.path.join(root, name)),
        lambda name, kind: Counter(_images_below(os.path.join(root, name)))[kind],
    )
    if folder:
        _note_loose_images(root)
    return folder


def choose_folder(
    names: Collection[str],
    split: str | None,
    where: str,
    kind_of: Callable[[str], str | None],
    count_of: Callable[[str, str], int],
) -> str | None:
    """Return which of the folders next to each other a split means; None for all.

    Args:
        where: what holds them, for errors.
        kind_of: of a folder's name, whether it holds a `PICTURE`, or an `ARRAY` only, or None of them.
        count_of: of a name and one of these, how many it holds.
    Raises:
        MissingSplit, ValueError: as `splits.choose_split`.
    """
    words, others = [name for name in names if split_of(name)], [name for name in names if not split_of(name)]
    present = (
        _find_split_folders(words, others, kind_of, count_of) if split and words and others else dict.fromkeys(words, 0)
    )
    return choose_split(present, split, where, "subfolder", others="classes")


def _find_split_folders(
    words: list[str], others: list[str], kind_of: Callable[[str], str | None], count_of: Callable[[str, str], int]
) -> dict[str, int]:
    """Return the folders that decide what is a split: name -> number of images, counted where it is left out."""
    kinds = {name: kind_of(name) for name in words}
    filled = [name for name in words if kinds[name]]
    kind = PICTURE if PICTURE in kinds.values() else ARRAY  # arrays next to pictures are no images
    if on_both_sides(filled):
        counts = {name: count_of(name, kind) for name in others}
        return {**dict.fromkeys(words, 0), **{name: count for name, count in counts.items() if count}}
    held = [name for name in others if kind_of(name) in (PICTURE, kind)]
    return dict.fromkeys([*filled, *held] if held else words, 0)


def training_classes(root: str) -> tuple[str, ...]:
    """Return the class folders of the split to train on, in their order; none where there is no such split."""
    train = next((name for name in subfolders(root) if split_of(name) == "train"), None)
    return sort_names(class_folders(subfolders(os.path.join(root, train)))) if train else ()


def subfolders(root: str) -> list[str]:
    """Return the names of the folders in a folder that are not hidden."""
    with os.scandir(root) as entries:
        return [entry.name for entry in entries if not is_hidden(f"{entry.name}/") and os.path.isdir(entry.path)]


def note_deeper_splits(where: str, files: Sequence[str]) -> None:
    """Say if folders of splits lie one level deeper than where they are looked for, as in `images/train/1.png`.

    Args:
        where: what holds the files, for the note.
        files: paths in it, sorted.
    """

    def is_there(folder: str) -> bool:
        place = bisect_left(files, folder)
        return place < len(files) and files[place].startswith(folder)

    place = 0
    for _ in range(_MOST_FOLDERS):
        if place >= len(files):
            return
        first, slash, _ = files[place].partition("/")
        if not slash:
            place += 1
            continue
        spelled = [each for word in (*TRAIN_WORDS, *TEST_WORDS) for each in (word, word.capitalize(), word.upper())]
        splits = [word for word in spelled if is_there(f"{first}/{word}/")]
        if on_both_sides(splits):
            note(
                f"{where!r} is read as one split with all that is in it, though {first!r} holds folders "
                f"{' and '.join(map(repr, splits))}; to use these as splits, give the folder {first!r}"
            )
            return
        place = bisect_left(files, f"{first}0", place)  # "0" follows "/"


def _note_loose_images(root: str) -> None:
    """Say how many images next to the folders of splits are left out."""
    with os.scandir(root) as entries:
        loose = sum(has_ending(entry.name, EXTENSIONS) and not is_hidden(entry.name) for entry in entries)
    if loose:
        note(f"{root!r} leaves out {loose:,} image{'s' * (loose != 1)} in no folder of a split")


def _kind_of_images(folder: str) -> str | None:
    """Return "picture" at the first one; "array" if there are only arrays; None without images."""
    last = None
    for last in _images_below(folder):
        if last == PICTURE:
            break
    return last


def holds_images(folder: str) -> bool:
    """Return whether a folder has a picture or an array at any depth."""
    return next(_images_below(folder), None) is not None


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
                        yield PICTURE
                    elif has_ending(entry.name, (ARRAY_EXTENSION,)):
                        yield ARRAY
        except OSError:
            continue
