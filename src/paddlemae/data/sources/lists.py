"""Lists of image files: `train_list.txt` as ImageNet ports have it, and CSV files with a header.

A list has a path and, where labels are known, a whole number a line, with spaces or a tab between them; a path may have
spaces in it. Paths are relative to the list's folder, or to `root`; Windows' backslashes do too. The held-out split
of `train_list.txt` is the list next to it that is called the same but for "train": `val_list.txt`. Lines end at a
line feed, a carriage return, or both.

A CSV has a column of paths, and may have one of classes, one of splits ("train", "val", "test") and one of groups. They
are known by their names, or named.
"""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from paddlemae.data.sources.image_groups import number_groups
from paddlemae.data.sources.labels import LABEL_COLUMNS, as_some_labels, is_whole, note_unused, number_labels
from paddlemae.data.sources.multi_labels import (
    SETS_OPTION,
    holds_sets,
    option_columns,
    targets_of_flags,
    targets_of_sets,
)
from paddlemae.data.sources.readers import FileReader
from paddlemae.data.sources.source import Source, Targets
from paddlemae.data.sources.splits import (
    TEST_WORDS,
    TRAIN_WORDS,
    MissingSplit,
    choose_split,
    is_held_out,
    list_names,
    split_of,
    words_of,
)
from paddlemae.data.sources.string_table import StringTable
from paddlemae.data.sources.subsets import spread_over

IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "filepath", "file_path", "image_path", "img")
MASK_COLUMNS = ("mask", "mask_path", "masks", "annotation", "label", "label_path", "segmentation")
SPLIT_COLUMNS = ("split", "set", "part", "partition")
GROUP_COLUMNS = ("group", "patient", "patient_id", "tile", "tile_id")
_BLANKS = " \t"  # between a path and its label; others may be in names
_MOST_TRIED = 100  # of a list's images, whether they are there


@dataclass
class _Rows:
    """Columns of a list: the path of each image, and its label, split, group and row number where the list has them.

    `flags`: class -> its column of 0 and 1; `are_sets`: labels such as `a|b` are several classes.
    """

    paths: list[str]
    labels: list[str] | None = None
    splits: list[str] | None = None
    groups: list[str] | None = None
    numbers: Sequence[int] | None = None
    flags: dict[str, list[str]] = field(default_factory=dict)
    are_sets: bool = False

    def select(self, split: str | None) -> "_Rows":
        if split is None or self.splits is None:
            return self
        kept = [number for number, name in enumerate(self.splits) if name == split]
        columns = (self.paths, self.labels, self.splits, self.groups, self.numbers)
        flags = {name: [column[number] for number in kept] for name, column in self.flags.items()}
        chosen = _Rows(*(column and [column[number] for number in kept] for column in columns))  # type: ignore[arg-type]
        return replace(chosen, flags=flags, are_sets=self.are_sets)


def open_list(path: str, split: str | None, labelled: bool, options: dict[str, str]) -> Source:
    """Open the images that a list names.

    Args:
        options: `root`, the folder that paths are relative to; for a CSV `image`, `label`, `split`, `group`: its
            columns, where their names are others; `labels`: the column of several classes, or columns of 0 and 1.
    Raises:
        FileNotFoundError, ValueError: images that are not there, no labels, labels that are no numbers or unknown.
    """
    read = _read_csv if os.path.splitext(path)[1].lower() in (".csv", ".tsv") else _read_lines
    rows, train_classes = read(path, labelled, options), tuple[str, ...]()
    if rows.splits is not None:
        counts = Counter(rows.splits)
        chosen = choose_split(counts, split, repr(path), "rows whose split is")
        train = next((name for name in counts if split_of(name) == "train"), None)
        if labelled and chosen and train and chosen != train:
            train_classes = _classes(path, rows.select(train))
        rows = rows.select(chosen)
    elif split and is_held_out(split):
        if labelled:
            train_classes = _classes(path, rows)
        path = _find_test_list(path, split)
        are_sets = rows.are_sets
        rows = read(path, labelled, options)
        rows.are_sets = rows.are_sets or are_sets
    if not rows.paths:
        raise ValueError(f"{path!r} names no images; expected one path per line")
    root = os.path.expanduser(options.get("root") or os.path.dirname(path) or ".")
    paths = StringTable.of(_find_paths(path, root, rows.paths))
    groups = (None, None) if rows.groups is None else number_groups(rows.groups)
    targets = _targets(path, rows, train_classes) if labelled else None
    return Source(path, FileReader(root, paths), targets, *groups)


def _classes(path: str, rows: _Rows) -> tuple[str, ...]:
    return _targets(path, rows, ()).classes


def _targets(path: str, rows: _Rows, train_classes: tuple[str, ...]) -> Targets:
    """Return the targets of the rows that are used; a cell of a CSV may be empty."""
    numbers, where = rows.numbers, repr(path)

    def row_of(row: int) -> str:
        return f"{where}, row {numbers[row]}" if numbers else where

    if rows.flags:
        return targets_of_flags(rows.flags, row_of, where)
    assert rows.labels is not None
    if rows.are_sets:
        return targets_of_sets(rows.labels, row_of, where, train_classes)
    labels = rows.labels if numbers is None else as_some_labels(rows.labels, row_of)
    return number_labels(labels, where, train_classes)


@dataclass(frozen=True)
class ListedPairs:
    """Images and masks that a list names; a mask that is missing is "".

    Args:
        every: the masks of all splits.
        groups: of each image; None without groups.
    """

    images: list[str]
    masks: list[str]
    every: list[str]
    groups: list[str] | None = None


def read_pairs(path: str, split: str | None, options: dict[str, str]) -> ListedPairs:
    """Return the images and masks of a split that a list names.

    Args:
        options: as of `open_list`, and `mask`, the column of masks.
    Raises:
        MissingSplit, ValueError: as `open_list`.
    """
    read = _read_csv_pairs if os.path.splitext(path)[1].lower() in (".csv", ".tsv") else _read_line_pairs
    rows, every = read(path, options), list[str]()
    if rows.splits is not None:
        every = rows.labels or []
        rows = rows.select(choose_split(Counter(rows.splits), split, repr(path), "rows whose split is"))
    elif split and is_held_out(split):
        every = rows.labels or []
        rows = read(_find_test_list(path, split), options)
    assert rows.labels is not None
    if not rows.paths:
        raise ValueError(f"{path!r} names no images; expected an image and its mask in each line")
    return ListedPairs(rows.paths, rows.labels, [*every, *rows.labels], rows.groups)


def read_header(path: str) -> list[str]:
    """Return the names of a CSV's columns; raise a ValueError for a file that is none."""
    return _read_rows(path)[0]


def _read_csv_pairs(path: str, options: dict[str, str]) -> _Rows:
    header, rows, _ = _read_rows(path)
    roles = {"image": IMAGE_COLUMNS, "mask": MASK_COLUMNS, "split": SPLIT_COLUMNS, "group": GROUP_COLUMNS}
    columns: dict[str, list[str] | None] = {}
    for role, usual in roles.items():
        place = _find_column(path, header, role, options.get(role), usual, needed=role in ("image", "mask"))
        columns[role] = None if place is None else [row[place].strip() for row in rows]
    splits = columns["split"]
    lower = splits and [each.lower() for each in splits]
    return _Rows(columns["image"] or [], columns["mask"] or [], lower, columns["group"])


def _read_line_pairs(path: str, options: dict[str, str]) -> _Rows:
    """Read lines of an image's and its mask's path, with a tab, a comma or one blank between them."""
    pairs = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        line = line.strip(_BLANKS)
        if not line or line.startswith("#"):
            continue
        separator = next((each for each in ("\t", ",", " ") if line.count(each) == 1), None)
        if separator is None:
            raise ValueError(
                f"{path!r}, line {number}: expected the paths of an image and of its mask with a blank, a tab or a "
                f"comma between them, got {line[-80:]!r}"
            )
        pairs.append([each.strip() for each in line.split(separator)])
    return _Rows([image for image, _ in pairs], [mask for _, mask in pairs])


def _find_test_list(path: str, split: str) -> str:
    """Return the list of held-out images that belongs to this one, or this one if it is called so itself."""
    folder, name = os.path.split(path)
    words = words_of(name)
    if words & set(TEST_WORDS):
        if words & set(TRAIN_WORDS):
            raise ValueError(f"{path!r} has the words of two splits in its name; rename it, or hold part of it out")
        if split != "test":
            choose_split(words & set(TEST_WORDS), split, repr(path), "list called")
        return path
    if "train" in name.lower():
        files = {other.lower(): other for other in sorted(os.listdir(folder or "."), reverse=True)}
        lists = {word: re.sub("training|train", word, name.lower()) for word in TEST_WORDS}
        present = [word for word, other in lists.items() if other in files]
        if present and (word := choose_split(present, split, f"the lists next to {path!r}", "list")):
            return os.path.join(folder, files[lists[word]])
    end = os.path.splitext(name)[1]
    raise MissingSplit(
        f"there is no held-out list for {path!r}; put {name.replace('train', 'val')!r} next to it"
        if "train" in name.lower()
        else f"{path!r} says nothing of a held-out split; rename it to 'train{end}' and put 'val{end}' next to it"
    )


def _read_text(path: str) -> str:
    """Return the text of a file; lines end at line feeds, and at nothing else that Unicode calls a line's end."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline=None) as file:
            text = file.read()
    except OSError as fault:
        raise ValueError(f"cannot read the list {path!r}: {fault.strerror}") from fault
    if "\0" in text:
        raise ValueError(f"{path!r} is not a list of images: it is not UTF-8 text; save it as UTF-8")
    return text


def _read_lines(path: str, labelled: bool, options: dict[str, str]) -> _Rows:
    check_options(path, options, ("root",))
    paths, labels = [], []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        line = line.strip(_BLANKS)
        if not line or line.startswith("#"):
            continue
        image, label = _split_line(line)
        if labelled and label is None:
            raise ValueError(
                f"{path!r}, line {number}: expected a path and a whole number as its label, got {line[-80:]!r}"
            )
        paths.append(image)
        labels.append(label or "")
    return _Rows(paths, labels if labelled else None)


def _split_line(line: str) -> tuple[str, str | None]:
    """Return (path, label or None): the last word is a label if it is a number."""
    path, _, label = line.rpartition(" ")
    if "\t" in label:
        path, _, label = line.rpartition("\t")
    return (path.rstrip(_BLANKS), label) if path and is_whole(label) else (line, None)


def _read_csv(path: str, labelled: bool, options: dict[str, str]) -> _Rows:
    check_options(path, options, ("root", "image", "label", SETS_OPTION, "split", "group"))
    header, rows, numbers = _read_rows(path)

    def column(role: str, given: str | None, usual: Sequence[str], needed: bool) -> list[str] | None:
        place = _find_column(path, header, role, given, usual, needed)
        return None if place is None else [row[place].strip() for row in rows]

    paths = column("image", options.get("image"), IMAGE_COLUMNS, needed=True)
    several = option_columns(options) if labelled else []
    flags = {name: column(SETS_OPTION, name, (), needed=True) or [] for name in several[1:] and several}
    given = several[0] if len(several) == 1 else options.get("label")
    labels = column("label", given, LABEL_COLUMNS, needed=True) if labelled and not flags else None
    splits = column("split", options.get("split"), SPLIT_COLUMNS, needed=False)
    groups = column("group", options.get("group"), GROUP_COLUMNS, needed=False)
    assert paths is not None
    if not all(paths):
        raise ValueError(f"{path!r}, row {numbers[paths.index('')]}: no path; fill it in or remove the row")
    if labelled and not given and not flags:
        note_unused(repr(path), [name for name in header if name.lower() in LABEL_COLUMNS])
    if splits and not any(split_of(name) for name in set(splits)):
        expected = ", ".join((*TRAIN_WORDS, *TEST_WORDS))
        raise ValueError(f"{path!r}: its column of splits has {list_names(sorted(set(splits)))}; expected {expected}")
    are_sets = labels is not None and (len(several) == 1 or holds_sets(given or _label_column(header), labels))
    return _Rows(paths, labels, splits and [name.lower() for name in splits], groups, numbers, flags, are_sets)


def _label_column(header: list[str]) -> str:
    """Return the name of the column of labels where none is given."""
    lower = [name.lower() for name in header]
    return next((name for name in LABEL_COLUMNS if name in lower), "")


def _read_rows(path: str) -> tuple[list[str], list[list[str]], Sequence[int]]:
    """Return (names of the columns, rows, their numbers) of a CSV; empty rows are passed over."""
    file, first = io.StringIO(_read_text(path)), 1
    head = file.readline().rstrip("\n")
    delimiter = max(",;\t", key=head.count)
    if re.fullmatch(r"sep=[,;\t|]", head, re.IGNORECASE):  # Excel's first line, which no column is called like
        delimiter, first = head[-1], 2
    else:
        file.seek(0)
    try:
        rows = list(csv.reader(file, delimiter=delimiter))
    except csv.Error as fault:
        raise ValueError(f"{path!r} is not valid CSV: {fault}; is a quotation mark left open?") from fault
    header = [name.strip() for name in rows[0]] if rows else []
    del rows[:1]
    numbers: Sequence[int] = range(first + 1, first + 1 + len(rows))
    if not all(rows):
        numbers, rows = [number for number, row in zip(numbers, rows) if row], [row for row in rows if row]
    for number, row in zip(numbers, rows):
        if len(row) != len(header):
            raise ValueError(f"{path!r}, row {number}: {len(row)} values under {len(header)} column names")
    return header, rows, numbers


def _find_column(
    path: str, header: list[str], role: str, given: str | None, usual: Sequence[str], needed: bool
) -> int | None:
    """Return the number of the column that has a role."""
    lower = [name.lower() for name in header]
    for name in [given.lower()] if given else usual:
        if lower.count(name) > 1:
            raise ValueError(f"{path!r} has {lower.count(name)} columns called {name!r}; rename all but one")
        if name in lower:
            return lower.index(name)
    if not given and not needed:
        return None
    missing = repr(given) if given else f"of {role}s (called {', '.join(usual)})"
    hint = "" if given else f"; name it with {f'{path}::{role}=COLUMN'!r}"
    raise ValueError(f"{path!r} has no column {missing}; its columns: {list_names(header)}{hint}")


def check_options(spec: str, options: dict[str, str], allowed: Sequence[str]) -> None:
    """Raise a ValueError if a source is given other options than those that are allowed."""
    if strangers := sorted(set(options) - set(allowed)):
        raise ValueError(f"{spec!r} takes no {list_names(strangers)}; only {', '.join(allowed)}")


def _find_paths(path: str, root: str, images: list[str]) -> list[str]:
    """Return the paths of a list, with slashes if they are there so rather than with backslashes.

    Refuse a list of which no image is where it says; single ones that are missing are left out as they are met.
    """
    tried = [images[place] for place in spread_over(len(images), _MOST_TRIED)]

    def exist(images: Sequence[str]) -> bool:
        return any(os.path.lexists(os.path.join(root, image)) for image in images)

    if exist(tried):
        return images
    if exist([image.replace("\\", "/") for image in tried]):
        return [image.replace("\\", "/") for image in images]
    if exist([image.rsplit(maxsplit=1)[0] for image in tried if image.split()]):
        raise ValueError(
            f"{path!r}: expected a path and a whole number as its label in a line, got {tried[0][-80:]!r}; "
            "number the classes, or name the list .csv, with a line 'image,label' first and commas"
        )
    raise FileNotFoundError(
        f"the images listed in {path!r}, such as {tried[0]!r}, do not exist below {root!r}; name their folder with "
        f"{f'{path}::root=FOLDER'!r}"
    )
