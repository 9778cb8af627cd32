"""The same data set as many kinds of sources: images, labels, classes and splits are the same, or a line refuses them.

`check(seed, folder)` draws a data set with nasty names (split words among classes, numbers, other spellings and cases),
writes it as a folder, list, CSV, tar, zip, shards, Parquet and npz, and compares what is read with what data.md says.
"""

from __future__ import annotations

import csv
import json
import random
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from paddlemae.data.sources import MissingSplit, SourceNote, open_source
from tests.support.source_writers import add, png

TRAIN, VAL, TEST = ("train", "training"), ("val", "valid", "validation", "dev"), ("test", "testing")
SPLITS = {word: words[0] for words in (TRAIN, VAL, TEST) for word in words}
NAMES = (
    *(
        "cat",
        "Dog",
        "x,y;z",
        'q"uote',
        "é",
        "日本",
        "🐈",
        "a b",
        "sep=;",
        "None",
        "true",
        "-",
        "%s",
        "class.1",
        "US$_{$ bill",
    ),
    *("two\u2028lines", "a\nb", "a\x0cb", "trainer", "test tube", "0x1f", "1e5", "٣", "1_0"),
)
WORDS = ("train", "Training", "TRAIN", "val", "Dev", "test", "VALID")
NUMBERS = ("0", "1", "2", "9", "10", "11", "100", "007", "7")
NO_LABELS = ("nan", "3.5", "-1", "3.0", "inf", "5.", "1e-3")  # that a folder may be called, and no label
OTHERS = ("extra", "unlabelled", "trained", "tests")
Item = tuple[int, str]  # an image, by its number, and its class


@dataclass
class Case:
    """A data set: of each split, as it is spelled, images in the order of their paths; "" where there are no splits."""

    splits: dict[str, list[Item]]

    @property
    def words(self) -> dict[str, str]:
        """The splits that are there -> how they are spelled; of two spellings there is no right one."""
        return {SPLITS[name.lower()]: name for name in self.splits if name.lower() in SPLITS}

    @property
    def others(self) -> list[str]:
        return [name for name in self.splits if name and name.lower() not in SPLITS]

    @property
    def is_spelled_twice(self) -> bool:
        return len(self.words) < sum(name.lower() in SPLITS for name in self.splits)

    @property
    def classes(self) -> set[str]:
        return {label for items in self.splits.values() for _, label in items}


Wanted = tuple[list[Item], tuple[str, ...]] | None  # images with labels, and the classes; None is a refusal


def draw(rng: random.Random) -> Case:
    def spelled(words: tuple[str, ...]) -> str:
        word = rng.choice(words)
        return rng.choice((word, word, word.upper(), word.capitalize()))

    kinds = rng.choice(("", "", "t", "tv", "tv", "tv", "te", "tve", "tvo", "to", "vo", "v", "ttv", "tvv"))
    letters = {"t": TRAIN, "v": VAL, "e": TEST, "o": OTHERS}
    names = [spelled(letters[letter]) if letter != "o" else rng.choice(OTHERS) for letter in kinds] or [""]
    names = list({name.lower(): name for name in names}.values())
    pool = rng.choice((NUMBERS, NAMES, (*NAMES, *NUMBERS), (*NAMES[:4], *WORDS), (*NAMES[:4], *NO_LABELS)))
    unique = {name.lower(): name for name in pool}  # two that differ in case are two folders, and one on some systems
    classes = rng.sample(sorted(unique.values()), rng.randint(1 if rng.random() < 0.1 else 2, 4))
    number, splits = 0, {}
    for name in names:
        own = classes
        if name.lower() not in ("", *TRAIN) and rng.random() < 0.3:
            own = rng.sample(classes, rng.randint(1, len(classes)))
        items = []
        for label in sorted(own):
            for _ in range(rng.randint(1, 2)):
                items.append((number, label))
                number += 1
        splits[name] = items
    if len(names) > 1 and rng.random() < 0.1:  # a class that no training image has
        splits[names[0]] = [item for item in splits[names[0]] if item[1] != classes[0]] or splits[names[0]]
    return Case(splits)


# --- what data.md says


def in_order(names: set[str]) -> tuple[str, ...]:
    whole = all(re.fullmatch("[0-9]+", name) for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if whole else (0, name)))


def labelled(items: list[Item], known: set[str]) -> Wanted:
    """Images whose classes are those of the training split, if there is one."""
    own = {label for _, label in items}
    classes = known or own
    return (items, in_order(classes)) if own <= classes and len(classes) > 1 else None


def chosen(case: Case, split: str) -> str | None:
    """The split that is meant, as it is spelled; None if it is not there."""
    wanted = ("train",) if split == "train" else ("val", "test")
    return next((case.words[word] for word in wanted if word in case.words), None)


def wanted_of_split(case: Case, split: str) -> Wanted:
    name = chosen(case, split)
    if name is None:
        return None
    train = case.words.get("train")
    known = {label for _, label in case.splits[train]} if train and train != name else set()
    return labelled(case.splits[name], known)


def wanted_of_tags(case: Case, split: str, *, may_leave_out: bool) -> Wanted:
    """Of rows, which may be of no split, and of files and arrays, which may not unless both sides are there."""
    used = {"", case.words.get("train"), chosen(case, split)} if split == "test" else {"", chosen(case, split)}
    if any(label in NO_LABELS for name, items in case.splits.items() if name in used for _, label in items):
        return None
    if "" in case.splits:
        return labelled(case.splits[""], set()) if split == "train" else None
    is_open = case.others and not may_leave_out and not {"train"} < set(case.words)
    return None if case.is_spelled_twice or is_open else wanted_of_split(case, split)


def wanted_of_folders(case: Case, split: str) -> Wanted:
    """Of folders, whose first names are splits or classes."""
    if "" in case.splits:
        words = [SPLITS[name.lower()] for name in case.classes if name.lower() in SPLITS]
        if len(words) == len(case.classes) or words not in ([], ["train"]):
            return None
        return labelled(case.splits[""], set()) if split == "train" else None
    if case.is_spelled_twice:
        return None
    if case.others and not {"train"} < set(case.words):
        if split == "test" or set(case.words) != {"train"}:
            return None
        names = [name for name in sorted(case.splits) if name != "unlabelled"] or list(case.splits)
        items = [(number, name) for name in names for number, _ in case.splits[name]]
        return labelled(items, set())
    wanted = wanted_of_split(case, split)
    name = chosen(case, split)
    if name and all(label.lower() in SPLITS for _, label in case.splits[name]):
        return None  # splits in a split
    return wanted


# --- the same as each kind


def image(number: int) -> bytes:
    return png(np.full((1, 2), number, np.uint8))


def paths_of(case: Case) -> list[tuple[str, int, str, str]]:
    """(path, image, class, split) in the order of the paths."""
    rows = [
        (f"{name}/{label}/{number:03}.png".lstrip("/"), number, label, name)
        for name, items in case.splits.items()
        for number, label in items
    ]
    return sorted(rows)


def write_folder(case: Case, root: Path) -> Path:
    for path, number, _, _ in paths_of(case):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(image(number))
    if {"train", "val"} <= set(case.words):  # among class folders it would be an empty one
        (root / "docs").mkdir()
        (root / "docs" / "read me.txt").write_text("no image")
    return root


def write_list(case: Case, root: Path) -> Path:
    write_folder(case, root)
    for name in case.splits:
        lines = [f"{path} {label}\n" for path, number, label, own in paths_of(case) if own == name]
        (root / f"{name or 'all'}_list.txt").write_text("".join(lines))
    return root / f"{case.words.get('train', 'all')}_list.txt"


def write_csv(case: Case, root: Path) -> Path:
    write_folder(case, root)
    with open(root / "all.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", *([] if "" in case.splits else ["split"])])
        rows.writerows([path, label, *([name] if name else [])] for path, _, label, name in paths_of(case))
    return root / "all.csv"


def write_tar(case: Case, root: Path) -> Path:
    with tarfile.open(root / "a.tar", "w") as archive:
        for path, number, _, _ in reversed(paths_of(case)):
            add(archive, f"around/{path}", image(number))
    return root / "a.tar"


def write_zip(case: Case, root: Path) -> Path:
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        for path, number, _, _ in reversed(paths_of(case)):
            archive.writestr(path, image(number))
    return root / "a.zip"


def write_shards(case: Case, root: Path) -> Path:
    for name, items in case.splits.items():
        with tarfile.open(root / f"{name or 'a'}-000.tar", "w") as archive:
            for number, label in items:
                add(archive, f"{number:06}.png", image(number))
                add(archive, f"{number:06}.json", json.dumps({"label": label}).encode())
    return root


def write_parquet(case: Case, root: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, items in case.splits.items():
        (root / "data").mkdir(exist_ok=True)
        columns = {"image": [image(number) for number, _ in items], "label": [label for _, label in items]}
        pq.write_table(pa.table(columns), root / "data" / f"{name or 'a'}-00000.parquet")
    return root


def write_npz(case: Case, root: Path) -> Path:
    arrays = {}
    for name, items in case.splits.items():
        ending = f"_{name}" if name else ""
        arrays[f"images{ending}"] = np.array([[[number, number]] for number, _ in items], np.uint8)
        arrays[f"labels{ending}"] = np.array([label for _, label in items])
    np.savez(root / "a.npz", **arrays)
    return root / "a.npz"


Expect = Callable[[Case, str], Wanted]
KINDS: dict[str, tuple[Callable[[Case, Path], Path], Expect]] = {
    "folder": (write_folder, wanted_of_folders),
    "tar": (write_tar, wanted_of_folders),
    "zip": (write_zip, wanted_of_folders),
    "csv": (write_csv, lambda case, split: wanted_of_tags(case, split, may_leave_out=True)),
    "shards": (write_shards, lambda case, split: wanted_of_tags(case, split, may_leave_out=False)),
    "npz": (write_npz, lambda case, split: wanted_of_tags(case, split, may_leave_out=False)),
    "list": (write_list, lambda case, split: wanted_of_tags(case, split, may_leave_out=True)),
    "parquet": (write_parquet, lambda case, split: wanted_of_tags(case, split, may_leave_out=False)),
}


def suits(kind: str, case: Case) -> bool:
    """Whether a kind can hold a data set: the labels of a list are whole numbers, and one of its own is named."""
    if kind == "list":
        return all(label.isascii() and label.isdigit() for label in case.classes) and (
            "" in case.splits or ("train" in case.words and not case.others and not case.is_spelled_twice)
        )
    return kind != "parquet" or bool(find_spec("pyarrow"))


def read(spec: Path, split: str, with_labels: bool) -> tuple[Wanted, list[str]]:
    """(images, labels and classes, or None where it is refused; notes). Another fault than a refusal gets through."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            source = open_source(str(spec), split, labelled=with_labels)
        except (ValueError, MissingSplit) as refusal:
            assert "\n" not in str(refusal) and len(str(refusal)) < 2000, refusal
            return None, []
    assert all(issubclass(warning.category, SourceNote) for warning in caught), [str(w.message) for w in caught]
    numbers = [int(source.read(i, 1)[0, 0, 0]) for i in range(len(source))]
    names = [""] * len(source) if source.labels is None else [source.classes[label] for label in source.labels]
    return (list(zip(numbers, names)), source.classes), [str(warning.message) for warning in caught]


def check(seed: int, folder: Path) -> None:
    """Raise AssertionError if two kinds of sources read a data set otherwise, or one otherwise than data.md says.

    Args:
        folder: an empty one, to write sources to.
    """
    rng = random.Random(seed)
    case = draw(rng)
    kinds = [kind for kind in KINDS if suits(kind, case)]
    for kind in rng.sample(kinds, min(4, len(kinds))):
        write, expect = KINDS[kind]
        (folder / kind).mkdir()
        spec = write(case, folder / kind)
        for split in ("train", "test"):
            found, notes = read(spec, split, with_labels=True)
            wanted = expect(case, split)
            told = f"seed {seed}, {kind}, {split}: {case}, got {found}, notes {notes}"
            assert found == wanted, f"{told}, wanted {wanted}"
            without, notes = read(spec, split, with_labels=False)
            if wanted:
                assert without and [number for number, _ in without[0]] == [number for number, _ in wanted[0]], told
                check_notes(case, kind, split, notes, told)


def check_notes(case: Case, kind: str, split: str, notes: list[str], told: str) -> None:
    """What is left out is counted: images where they are known by looking at names, else files or arrays."""
    is_left_out = case.others and (set(case.words) > {"train"} or kind == "csv")
    if is_left_out:
        (name,) = case.others
        count = len(case.splits[name]) if kind in ("folder", "tar", "zip", "csv") else 1
        assert any(f"{count} " in note and "of no split" in note for note in notes), told
    if split == "test" and {"val", "test"} <= set(case.words):
        assert any("is not used" in note for note in notes), told
