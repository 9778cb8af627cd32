"""Rules for the split of a source that is meant, which all kinds of sources share.

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
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from paddlemae.system.display_names import display_name

_TRAIN, _VAL, _TEST = "train", "val", "test"
_SPLIT_OF = {
    **dict.fromkeys(("train", "training"), _TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), _VAL),
    **dict.fromkeys(("test", "testing"), _TEST),
}
TRAIN_WORDS = tuple(word for word, split in _SPLIT_OF.items() if split == _TRAIN)
TEST_WORDS = tuple(word for word, split in _SPLIT_OF.items() if split != _TRAIN)
VAL_ONLY, TEST_ONLY = "val-only", "test-only"
_MEANT = {  # the first that is there
    "train": (_TRAIN,),
    "val": (_VAL,),
    "test": (_VAL, _TEST),
    VAL_ONLY: (_VAL,),
    TEST_ONLY: (_TEST,),
}
_LONGEST_LIST = 10  # names that an error lists
Others = Literal["left out", "refused", "classes"]  # what names of no split are next to words of one side


class MissingSplit(ValueError):
    """A split of a source that it does not have."""


class SourceNote(UserWarning):
    """A warning of how an ambiguous source was read: images that are left out, a split's word that names a class."""


def note(text: str) -> None:
    """Warn of how a source was understood."""
    warnings.warn(text, SourceNote, stacklevel=2)


def split_of(name: str) -> str | None:
    """Return which split a name is the word of: "train", "val" or "test"; None if it is another name."""
    return _SPLIT_OF.get(name.lower())


def choose_split(
    present: Collection[str], split: str | None, where: str, unit: str, others: Others = "left out"
) -> str | None:
    """Return the name of the split that is meant, as it is written there; None for the whole.

    Args:
        present: names that hold images, perhaps not only of splits; a mapping to their numbers of images, if these are
            known.
        split: "train"; "val"; "test", which is the first that is there of "val" and "test"; "val-only" or "test-only",
            which is that one; None for the whole.
        where: what is to be split, for errors.
        unit: what a split is there, for errors: "subfolder", say.
        others: see the top of this module.
    Raises:
        MissingSplit: it isn't there.
        ValueError: another split, or names that leave open what is meant.
    """
    if split is None:
        return None
    if split not in _MEANT:
        raise ValueError(f"expected split 'train', 'val' or 'test' of {where}, got {split!r}")
    words = _find_spellings(present, where)
    strangers = sorted(name for name in present if not split_of(name))
    if strangers and others != "left out" and words and not on_both_sides(words):
        _read_as_names(list(words.values()), strangers, where, unit, others)
        words = {}
    chosen = next((words[meant] for meant in _MEANT[split] if meant in words), None)
    if chosen is None and (is_held_out(split) or words):
        names = " or ".join(_MEANT[split])
        raise MissingSplit(f"{where} has no {unit} {names}; put the {split.removesuffix('-only')} images there")
    if chosen is not None:
        _note_left_out(present, strangers, where, unit)
    if split == "test" and _VAL in words and _TEST in words:
        note(f"{where}: of {words[_VAL]!r} and {words[_TEST]!r} the first is held out, and the second is not used")
    return chosen


def is_held_out(split: str | None) -> bool:
    """Return whether a split that is asked for is not trained on."""
    return split not in (None, "train")


def _find_spellings(names: Iterable[str], where: str) -> dict[str, str]:
    """Return the name of each split that is there: split -> name."""
    spellings: dict[str, str] = {}
    for name in sorted(names):
        if (split := split_of(name)) and (other := spellings.setdefault(split, name)) != name:
            raise ValueError(f"{where}: both {other!r} and {name!r} name the split {split}; keep one of them")
    return spellings


def on_both_sides(names: Iterable[str]) -> bool:
    """Return whether a split to train on and one to hold out are among names."""
    splits = {split_of(name) for name in names} - {None}
    return _TRAIN in splits and len(splits) > 1


def _read_as_names(words: list[str], strangers: list[str], where: str, unit: str, others: Others) -> None:
    """Take words of one side as names of classes, or refuse them."""
    if others == "classes" and all(split_of(word) == _TRAIN for word in words):
        note(
            f"{where}: {list_names(words)} is read as a class, not as a split, since {list_names(strangers)} hold "
            "images too"
        )
        return
    raise ValueError(
        f"{where}: {list_names(words)} names a split, and {list_names(strangers)} none, so the images of the split "
        "are ambiguous; "
        + (
            "name the folder of training images 'train', or move all class folders into a folder 'train'"
            if others == "classes"
            else f"put the word of its split into the name of each {unit.split()[0]}"
        )
    )


def _note_left_out(present: Collection[str], strangers: list[str], where: str, unit: str) -> None:
    if not strangers:
        return
    counts = [present[name] for name in strangers] if isinstance(present, Mapping) else None
    named = [f"{name!r} ({count:,})" for name, count in zip(strangers, counts)] if counts else map(repr, strangers)
    few = list(named)[:_LONGEST_LIST]
    total, what = (sum(counts), "image") if counts else (len(strangers), unit.split()[0])
    more = f" and {len(strangers) - _LONGEST_LIST} more" if len(strangers) > _LONGEST_LIST else ""
    note(f"{where} leaves out {total:,} {what}{'s' * (total != 1)} of no split: {', '.join(few)}{more}")


def files_of_split(files: Sequence[str], split: str | None, where: str, unit: str = "file") -> list[str]:
    """Return the files of a split, by a word of their paths: `train-00000.tar`, `data/cifar_test.parquet`.

    Raise as `choose_split` does, and a ValueError for a name with the words of two splits.
    """
    words = words_of_files(files)
    if split is not None:
        for file, split_words in zip(files, words):
            if len({_SPLIT_OF[word] for word in split_words}) > 1:
                names = list_names(sorted(split_words))
                raise ValueError(f"{where}: {file!r} has the words of two splits, {names}; rename it")
    tags = {file: min(split_words, default=file) for file, split_words in zip(files, words)}
    chosen = choose_split(set(tags.values()), split, where, f"{unit} named by", others="refused")
    return [file for file in files if chosen is None or tags[file] == chosen]


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


def list_names(names: Sequence[str]) -> str:
    """Return names for an error, not too many."""
    more = f" and {len(names) - _LONGEST_LIST} more" if len(names) > _LONGEST_LIST else ""
    return ", ".join(display_name(repr(name)) for name in names[:_LONGEST_LIST]) + more
