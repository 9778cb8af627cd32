"""Which split of a source is meant, and which class each image is of: the rules that all kinds of sources share.

A folder, or a value in a column of splits, is of a split if it is a word of it, in any case: "train" or "training";
"val", "valid", "validation" or "dev"; "test" or "testing". The name of a file or array is if it has the word among
others. What the words mean depends on all the names that hold images:
    no word                     one split, to train on
    to train and to hold out    splits; what has another name is left out and counted
    one side, nothing else      splits, of which the other is missing
    one side, and other names   a column's are splits, others are left out and counted. Folders may be classes: a folder
                                "train" is one then, and a word to hold out is refused; names of files and arrays too
Two words for one split are refused.
"""

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from paddlemae.system.display_names import shown

_TRAIN, _VAL, _TEST = "train", "val", "test"
_SPLIT_OF = {
    **dict.fromkeys(("train", "training"), _TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), _VAL),
    **dict.fromkeys(("test", "testing"), _TEST),
}
TRAIN_WORDS = tuple(word for word, split in _SPLIT_OF.items() if split == _TRAIN)
TEST_WORDS = tuple(word for word, split in _SPLIT_OF.items() if split != _TRAIN)
_MEANT = {"train": (_TRAIN,), "test": (_VAL, _TEST)}  # the first that is there
# Columns that labels are in, if none is named: the first that is there.
LABEL_COLUMNS = ("label", "class", "labels", "class_name", "category", "target", "y", "fine_label")
_LONGEST_LIST = 10  # names that an error lists
# What a text that is no name looks like: negative or broken numbers, and what programs write where a value is missing.
_NO_NAME = re.compile(r"[+-]\d+|[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?|[+-]?\d+[eE][+-]\d+|nan|NaN|[+-]?inf", re.ASCII)

Others = Literal["left out", "refused", "classes"]  # what names of no split are next to words of one side


class MissingPart(ValueError):
    """A split of a source that it does not have."""


class BadLabel(ValueError):
    """A label that is missing, or neither a name nor a whole number."""


class SourceNote(UserWarning):
    """How a source was understood where that is not plain: images that are left out, a word that names a class."""


def note(text: str) -> None:
    """Say how a source was understood."""
    warnings.warn(text, SourceNote, stacklevel=2)


def split_of(name: str) -> str | None:
    """Return which split a name is the word of: "train", "val" or "test"; None if it is another name."""
    return _SPLIT_OF.get(name.lower())


def part_of(
    present: Collection[str], split: str | None, where: str, unit: str, others: Others = "left out"
) -> str | None:
    """Return the name of the split that is meant, as it is written there; None for the whole.

    Args:
        present: names that hold images, perhaps not only of splits; a mapping to their numbers of images, if these are
            known.
        split: "train"; "test", which is the first that is there of "val" and "test"; None for the whole.
        where: what is to be split, for errors.
        unit: what a split is there, for errors: "subfolder", say.
        others: see the top of this module.
    Raises:
        MissingPart: it isn't there.
        ValueError: another split, or names that leave open what is meant.
    """
    if split is None:
        return None
    if split not in _MEANT:
        raise ValueError(f"expected split 'train' or 'test' of {where}, got {split!r}")
    words = _spelled(present, where)
    strangers = sorted(name for name in present if not split_of(name))
    if strangers and others != "left out" and words and not on_both_sides(words):
        _read_as_names(list(words.values()), strangers, where, unit, others)
        words = {}
    chosen = next((words[meant] for meant in _MEANT[split] if meant in words), None)
    if chosen is None and (split == "test" or words):
        raise _missing(where, unit, split)
    if chosen is not None:
        _tell_left_out(present, strangers, where, unit)
    if split == "test" and _VAL in words and _TEST in words:
        note(f"{where}: of {words[_VAL]!r} and {words[_TEST]!r} the first is held out, and the second is not used")
    return chosen


def _missing(where: str, unit: str, split: str) -> MissingPart:
    hint = "" if split == "train" else ", or hold part of the training images out with val_fraction"
    return MissingPart(f"{where} has no {unit} {' or '.join(_MEANT[split])}; put the {split} images there{hint}")


def _spelled(names: Iterable[str], where: str) -> dict[str, str]:
    """Return the name of each split that is there: split -> name."""
    found: dict[str, str] = {}
    for name in sorted(names):
        if split := split_of(name):
            if split in found:
                raise ValueError(
                    f"{where}: both {found[split]!r} and {name!r} name the split {split}; keep one of them"
                )
            found[split] = name
    return found


def on_both_sides(names: Iterable[str]) -> bool:
    """Return whether a split to train on and one to hold out are among names."""
    splits = {split_of(name) for name in names} - {None}
    return _TRAIN in splits and len(splits) > 1


def _read_as_names(words: list[str], strangers: list[str], where: str, unit: str, others: Others) -> None:
    """Take words of one side as names of classes, or refuse them."""
    if others == "classes" and all(split_of(word) == _TRAIN for word in words):
        note(f"{where}: {listed(words)} is read as a class, not as a split, since {listed(strangers)} hold images too")
        return
    raise ValueError(
        f"{where}: {listed(words)} names a split, and {listed(strangers)} none, so it is open which images are meant; "
        + (
            "name the folder of training images 'train', or move all class folders into a folder 'train'"
            if others == "classes"
            else f"put the word of its split into the name of each {unit.split()[0]}"
        )
    )


def _tell_left_out(present: Collection[str], strangers: list[str], where: str, unit: str) -> None:
    if not strangers:
        return
    counts = [present[name] for name in strangers] if isinstance(present, Mapping) else None
    shown = [f"{name!r} ({count:,})" for name, count in zip(strangers, counts)] if counts else map(repr, strangers)
    few = list(shown)[:_LONGEST_LIST]
    total, what = (sum(counts), "image") if counts else (len(strangers), unit.split()[0])
    more = f" and {len(strangers) - _LONGEST_LIST} more" if len(strangers) > _LONGEST_LIST else ""
    note(f"{where} leaves out {total:,} {what}{'s' * (total != 1)} of no split: {', '.join(few)}{more}")


def files_of_part(files: Sequence[str], split: str | None, where: str, unit: str = "file") -> list[str]:
    """Return the files of a split, by a word of their paths: `train-00000.tar`, `data/cifar_test.parquet`.

    Raises:
        MissingPart, ValueError: as `part_of`; or a name with the words of two splits.
    """
    words = words_of_files(files)
    if split is not None:
        for file, own in zip(files, words):
            if len({_SPLIT_OF[word] for word in own}) > 1:
                raise ValueError(f"{where}: {file!r} has the words of two splits, {listed(sorted(own))}; rename it")
    tags = {file: sorted(own)[0] if own else file for file, own in zip(files, words)}
    part = part_of(set(tags.values()), split, where, f"{unit} named by", others="refused")
    return [file for file in files if part is None or tags[file] == part]


def words_of_files(files: Sequence[str]) -> list[set[str]]:
    """Return the words of splits in each path; a folder that all are in counts only where nothing else has a word."""
    common = len(_common_folder(files))
    words = [words_of(file[common:]) & _SPLIT_OF.keys() for file in files]
    return words if any(words) else [words_of(file) & _SPLIT_OF.keys() for file in files]


def _common_folder(files: Sequence[str]) -> str:
    first, last = min(files, default=""), max(files, default="")
    length = next((n for n, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return first[: first.rfind("/", 0, length) + 1]


def words_of(name: str) -> set[str]:
    """Return the words in a file's or an array's name: "train", "images" of `train-images_03`."""
    return set(re.split(r"[^a-z]+", name.lower()))


def as_labels(values: Sequence, row_of: Callable[[int], str]) -> list[str]:
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
            raise unusable(values, row_of(number), _problem(value))
        labels.append(label)
    return labels


def note_unused(where: str, columns: Sequence[str]) -> None:
    """Say which column has the labels where several are called so."""
    if len(columns) > 1:
        first = min(columns, key=lambda name: LABEL_COLUMNS.index(name.lower()))
        others = listed([name for name in columns if name != first])
        note(f"{where}: labels are of column {first!r}, and {others} not used; name another with ::label=")


def unusable(values: Sequence, row: str, problem: str) -> ValueError:
    """Return the error of a row of labels: a `BadLabel`, unless there are no labels in any row."""
    return (ValueError if all(map(_is_missing, values)) else BadLabel)(f"{row}: {problem}")


def _is_missing(value: object) -> bool:
    """Return whether there is no label; data sets write -1 for one that is not published."""
    return value is None or value != value or value == -1 or (isinstance(value, str | bytes) and not value.strip())


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
    if _is_missing(value) and value != -1:
        return "no label; fill it in or remove the row"
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
    return f"the label {shown} ({type(value).__name__}) is neither a name nor a whole number of 0 or more; change it"


def numbered(values: Sequence[str], where: str, classes: tuple[str, ...] = ()) -> tuple[NDArray[np.int64], tuple]:
    """Return (labels, classes) of class names as they are written; whole numbers are in numeric order.

    Args:
        classes: those of the training split, if they are known already; others are refused then.
    Raises:
        ValueError: a class that is not among `classes`, or fewer than two.
    """
    known = classes or in_order(set(values))
    if len(known) < 2:
        raise ValueError(f"labels need two classes or more, but all images of {where} are {''.join(known)!r}")
    number_of = {name: number for number, name in enumerate(known)}
    _check_known(set(values), number_of, where)
    return np.fromiter((number_of[value] for value in values), np.int64, len(values)), known


def _check_known(names: Collection[str], known: Collection[str], where: str) -> None:
    if strangers := sorted(name for name in names if name not in known):
        raise ValueError(
            f"{where} has labels that no training image has: {listed(strangers)}; change them or train on them"
        )


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in their order: by value where all are whole numbers, else by their characters."""
    names = sorted(names)
    return tuple(sorted(names, key=_value) if all(is_whole(name) for name in names) else names)


def _value(digits: str) -> tuple[int, str]:
    """Return what orders whole numbers of any length; Python turns no more than 4,300 digits into a number."""
    digits = digits.lstrip("0")
    return len(digits), digits


def renumbered(
    labels: NDArray[np.int64], classes: Sequence[str], order: Sequence[str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return (labels, classes) with the classes in another order, which has all of them, by their names."""
    if tuple(classes) == tuple(order):
        return labels, tuple(order)
    number_of = {name: number for number, name in enumerate(order)}
    return np.array([number_of[name] for name in classes], np.int64)[labels], tuple(order)


def by_value(labels: NDArray[np.int64], classes: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return (labels, classes) of classes that have an order of their own, which only whole numbers don't keep."""
    return renumbered(labels, classes, in_order(classes) if all(map(is_whole, classes)) else classes)


def is_whole(text: str) -> bool:
    """Whether a label is a whole number of 0 or more."""
    return text.isascii() and text.isdigit()


def listed(names: Sequence[str]) -> str:
    """Return names for an error, not too many."""
    more = f" and {len(names) - _LONGEST_LIST} more" if len(names) > _LONGEST_LIST else ""
    return ", ".join(shown(repr(name)) for name in names[:_LONGEST_LIST]) + more


def class_folders(
    root: str,
    files: Iterable[str],
    folders: Iterable[str] | None = None,
    known: tuple[str, ...] = (),
    is_split: bool = False,
) -> tuple[str, ...]:
    """Return the names of the first folders of the files' paths in their order, once they are known to be one a class.

    Args:
        root: what holds the files, for errors.
        folders: all folders there, if some may be empty.
        known: the classes of the training split, where this is another: they are returned, and no others may be there.
        is_split: whether a split was chosen, so that a word of one may be a class's name here.
    Raises:
        ValueError: another layout.
    """
    layout = f"labels need one folder a class, as in {f'{root}/cat/1.jpg'!r}"
    filled, loose = set[str](), list[str]()
    for file in files:
        first, slash, _ = file.partition("/")
        if slash:
            filled.add(first)
        else:
            loose.append(file)
    if loose:
        raise ValueError(f"{layout}, but {len(loose)} images are outside any; move {loose[0]!r} and the like")
    classes = in_order(filled if folders is None else folders)
    if all(split_of(name) for name in classes) or (not is_split and on_both_sides(classes)):
        raise ValueError(f"{layout}, but {root!r} holds {listed(classes)}; ask for split 'train' or 'test'")
    for name in classes:
        if name not in filled:
            raise ValueError(f"{layout}, but {f'{root}/{name}'!r} has no images; fill or remove it")
    if known:
        _check_known(classes, known, repr(root))
        classes = known
    if len(classes) < 2:
        raise ValueError(f"{layout}, and two classes or more, but {root!r} has only {classes[0]!r}")
    return classes


def labels_by_folder(files: Iterable[str], classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Return each file's label: its first folder's place among the classes."""
    label_of = {name: label for label, name in enumerate(classes)}
    return np.array([label_of[file.partition("/")[0]] for file in files], np.int64)
