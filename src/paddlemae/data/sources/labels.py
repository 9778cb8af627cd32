"""Class targets from labels as they are stored: names or whole numbers in columns and arrays, or folders."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from paddlemae.data.sources.source import ClassTargets
from paddlemae.data.sources.splits import list_names, note, on_both_sides, split_of

# Columns that labels are in, if none is named: the first that is there.
LABEL_COLUMNS = ("label", "class", "labels", "class_name", "category", "target", "y", "fine_label")
# What a text that is no name looks like: negative or broken numbers, and what programs write where a value is missing.
_NO_NAME = re.compile(r"[+-]\d+|[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?|[+-]?\d+[eE][+-]\d+|nan|NaN|[+-]?inf", re.ASCII)


UNLABELLED = ("unlabelled", "unlabeled")  # folders next to class folders, whose images have no label


class BadLabel(ValueError):
    """A label that is missing, or neither a name nor a whole number."""


def as_some_labels(values: Sequence[Any], row_of: Callable[[int], str]) -> list[str | None]:
    """Return labels as `as_labels`, and None where a label is missing; if all are missing, raise a ValueError."""
    present = [number for number, value in enumerate(values) if not _is_absent(value)]
    if not present or len(present) == len(values):
        return list(as_labels(values, row_of))
    labels: list[str | None] = [None] * len(values)
    for number, label in zip(present, as_labels([values[n] for n in present], lambda n: row_of(present[n]))):
        labels[number] = label
    return labels


def as_labels(values: Sequence[Any], row_of: Callable[[int], str]) -> list[str]:
    """Return labels as texts: names, and whole numbers of 0 or more.

    Args:
        values: as they are stored; bytes are names if they are UTF-8.
        row_of: says where value i is, for errors.
    Raises:
        BadLabel: anything else, such as a missing value, a fraction or a truth value.
    """
    kinds = set(map(type, values))
    if len(kinds) == 1 and kinds <= {str, int, bytes}:  # of one type, so that equal ones are the same
        texts = {value: _label_of(value) for value in set(values)}
        if None not in texts.values():
            return list(values) if kinds == {str} else [texts[value] for value in values]  # type: ignore[misc]
    labels = []
    for number, value in enumerate(values):
        label = _label_of(value)
        if label is None:
            raise unusable_label(values, row_of(number), _problem(value))
        labels.append(label)
    return labels


def note_unused(where: str, columns: Sequence[str]) -> None:
    """Say which column has the labels where several are called so."""
    if len(columns) > 1:
        first = min(columns, key=lambda name: LABEL_COLUMNS.index(name.lower()))
        others = list_names([name for name in columns if name != first])
        note(f"{where}: labels are of column {first!r}, and {others} not used; name another with ::label=")


def unusable_label(values: Sequence[Any], row: str, problem: str) -> ValueError:
    """Return the error of a row of labels: a `BadLabel`, unless there are no labels in any row."""
    return (ValueError if all(map(_is_missing, values)) else BadLabel)(f"{row}: {problem}")


def _is_missing(value: object) -> bool:
    """Return whether there is no label; data sets write -1 for one that is not published."""
    return _is_absent(value) or value == -1


def _is_absent(value: object) -> bool:
    return value is None or value != value or (isinstance(value, str | bytes) and not value.strip())


def _label_of(value: object) -> str | None:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, str):
        return value if value.strip() and not _NO_NAME.fullmatch(value.strip()) else None
    return str(value) if type(value) is int and value >= 0 else None


def _problem(value: object) -> str:
    if _is_absent(value):
        return "no label; fill it in or remove the row"
    text = repr(value)
    text = text if len(text) <= 40 else f"{text[:40]}..."
    return f"the label {text} ({type(value).__name__}) is neither a name nor a whole number of 0 or more; change it"


def number_labels(values: Sequence[str | None], where: str, classes: tuple[str, ...] = ()) -> ClassTargets:
    """Return the targets of images whose classes are named; classes that are whole numbers are in numeric order.

    Args:
        values: the class of each image; None for one without a label, whose number is -1.
        classes: those of the training split, if they are known already; others are refused then.
    Raises:
        ValueError: a class that is not among `classes`, or fewer than two.
    """
    present = {value for value in values if value is not None}
    names = classes or sort_names(present)
    if len(names) < 2:
        raise ValueError(f"labels need at least two classes, but all images of {where} are {''.join(names)!r}")
    check_known(present, names, where)
    number_of: dict[str | None, int] = {None: -1, **{name: number for number, name in enumerate(names)}}
    return ClassTargets(np.fromiter((number_of[value] for value in values), np.int64, len(values)), names)


def check_known(names: Collection[str], classes: Collection[str], where: str) -> None:
    """Raise a ValueError if labels are not among the classes of the training split."""
    if strangers := sorted(name for name in names if name not in classes):
        raise ValueError(
            f"{where} has labels that no training image has: {list_names(strangers)}; change them or train on them"
        )


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in their order: by value where all are whole numbers, else by their characters."""
    names = sorted(names)
    return tuple(sorted(names, key=_value) if all(is_whole(name) for name in names) else names)


def _value(digits: str) -> tuple[int, str]:
    """Return what orders whole numbers of any length; Python turns no more than 4,300 digits into a number."""
    digits = digits.lstrip("0")
    return len(digits), digits


def sort_classes(targets: ClassTargets) -> ClassTargets:
    """Return targets with their classes in numeric order where all are whole numbers, else as they are."""
    return targets.renumber(sort_names(targets.classes)) if all(map(is_whole, targets.classes)) else targets


def is_whole(text: str) -> bool:
    """Return whether a label is a whole number of 0 or more."""
    return text.isascii() and text.isdigit()


def targets_by_folder(
    root: str, files: Sequence[str], folders: Iterable[str] | None, train_classes: tuple[str, ...], is_split: bool
) -> ClassTargets:
    """Return the targets of files whose classes are the first folders of their paths; those in `UNLABELLED` have none.

    Args:
        root: what holds the files, for errors.
        folders: all folders there, if some may be empty.
        train_classes: the classes of the training split, where this is another; no others may be there.
        is_split: whether a split was chosen, so that a word of one may be a class's name here.
    Raises:
        ValueError: another layout.
    """
    folders = None if folders is None else class_folders(folders)
    layout = f"labels need one folder per class, as in {f'{root}/cat/1.jpg'!r}"
    filled, loose = set[str](), list[str]()
    for file in files:
        first, slash, _ = file.partition("/")
        if slash:
            filled.add(first)
        else:
            loose.append(file)
    filled = set(class_folders(filled))
    if loose:
        raise ValueError(
            f"{layout}, but {len(loose)} images are in no class folder; move {loose[0]!r} ... into class folders"
        )
    classes = sort_names(filled if folders is None else folders)
    if all(split_of(name) for name in classes) or (not is_split and on_both_sides(classes)):
        raise ValueError(f"{layout}, but {root!r} holds {list_names(classes)}; ask for split 'train' or 'test'")
    for name in classes:
        if name not in filled:
            raise ValueError(f"{layout}, but {f'{root}/{name}'!r} has no images; fill or remove it")
    if train_classes:
        check_known(classes, train_classes, repr(root))
        classes = train_classes
    if len(classes) < 2:
        raise ValueError(f"{layout}, and at least two classes, but {root!r} has only {classes[0]!r}")
    firsts = (file.partition("/")[0] for file in files)
    return number_labels([first if first in filled else None for first in firsts], repr(root), classes)


def class_folders(names: Iterable[str]) -> list[str]:
    """Return the names of class folders: all but those of `UNLABELLED`, where there are others."""
    names = list(names)
    return [name for name in names if name.lower() not in UNLABELLED] or names
