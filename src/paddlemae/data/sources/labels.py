"""Which part of a source is meant, and which class each image is of: the rules that all kinds of sources share."""

import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from paddlemae.display_names import shown

TEST_PARTS = ("val", "valid", "validation", "test")
PARTS = ("train", *TEST_PARTS)
_LONGEST_LIST = 10  # names that an error lists


class MissingPart(ValueError):
    """A split of a source that it does not have."""


def part_of(present: Collection[str], split: str | None, where: str, unit: str) -> str | None:
    """Which of the parts that are there a split means: "train", or the first of `TEST_PARTS`; None for the whole.

    Args:
        present: names of parts, perhaps among others.
        where: what is to be split, for errors.
        unit: what a part is there, for errors: "subfolder", say.
    Raises:
        MissingPart: it isn't there.
        ValueError: another split.
    """
    if split is None:
        return None
    if split not in ("train", "test"):
        raise ValueError(f"expected split 'train' or 'test' of {where}, got {split!r}")
    wanted = ("train",) if split == "train" else TEST_PARTS
    for name in wanted:
        if name in present:
            return name
    if split == "train" and not set(PARTS) & set(present):
        return None
    hint = "" if split == "train" else ", or hold part of the training images out with val_fraction"
    raise MissingPart(f"{where} has no {unit} {' or '.join(wanted)}; put the {split} images there{hint}")


def files_of_part(files: Sequence[str], split: str | None, where: str) -> list[str]:
    """The files of a split, by a word of their paths: `train-00000.tar`, `data/cifar_test.parquet`."""
    words = [words_of(file) for file in files]
    part = part_of(set().union(*words), split, where, "file named by")
    return [file for file, own in zip(files, words) if part is None or part in own]


def words_of(name: str) -> set[str]:
    """The words in a file's or an array's name: "train", "images" of `train-images_03`."""
    return set(re.split(r"[^a-z]+", name.lower()))


def numbered(values: Sequence[str], where: str, classes: tuple[str, ...] = ()) -> tuple[NDArray[np.int64], tuple]:
    """(labels, classes) of class names as they are written; whole numbers are in numeric order.

    Args:
        classes: those of the training part, if they are known already; others are refused then.
    Raises:
        ValueError: a class that is not among `classes`, or fewer than two.
    """
    known = classes or _in_order(set(values))
    if len(known) < 2:
        raise ValueError(f"labels need two classes or more, but all images of {where} are {''.join(known)!r}")
    number_of = {name: number for number, name in enumerate(known)}
    strangers = sorted(set(values) - set(number_of))
    if strangers:
        raise ValueError(
            f"{where} has labels that no training image has: {listed(strangers)}; mend them or add images to train on"
        )
    return np.fromiter((number_of[value] for value in values), np.int64, len(values)), known


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    names = sorted(names)
    return tuple(sorted(names, key=int)) if all(is_whole(name) for name in names) else tuple(names)


def is_whole(text: str) -> bool:
    """Whether a label is a whole number of 0 or more."""
    return text.isascii() and text.isdigit()


def listed(names: Sequence[str]) -> str:
    """Names for an error, not too many."""
    more = f" and {len(names) - _LONGEST_LIST} more" if len(names) > _LONGEST_LIST else ""
    return ", ".join(shown(repr(name)) for name in names[:_LONGEST_LIST]) + more


def class_folders(root: str, files: Iterable[str], folders: Iterable[str] | None = None) -> tuple[str, ...]:
    """The sorted names of the first folders of the files' paths, once they are known to be one a class.

    Args:
        root: what holds the files, for errors.
        folders: all folders there, if some may be empty.
    Raises:
        ValueError: another layout.
    """
    layout = f"labels need one folder a class, as in '{root}/cat/1.jpg'"
    filled, loose = set[str](), list[str]()
    for file in files:
        first, slash, _ = file.partition("/")
        if slash:
            filled.add(first)
        else:
            loose.append(file)
    if loose:
        raise ValueError(f"{layout}, but {len(loose)} images are outside any; move {loose[0]!r} and the like")
    classes = tuple(sorted(filled if folders is None else folders))
    if set(classes) <= set(PARTS):
        raise ValueError(f"{layout}, but {root!r} holds {', '.join(classes)}; ask for split 'train' or 'test'")
    for name in classes:
        if name not in filled:
            raise ValueError(f"{layout}, but '{root}/{name}' has no images; fill or remove it")
    if len(classes) < 2:
        raise ValueError(f"{layout}, and two classes or more, but {root!r} has only {classes[0]!r}")
    return classes


def labels_by_folder(files: Iterable[str], classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Each file's label: its first folder's place among the classes."""
    label_of = {name: label for label, name in enumerate(classes)}
    return np.array([label_of[file.partition("/")[0]] for file in files], np.int64)
