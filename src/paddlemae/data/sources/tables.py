"""Tables with the bytes of image files in a column: Parquet and Arrow, as Hugging Face's `datasets` stores them.

An Arrow file is mapped into memory, and any row of it is at hand. Parquet stores rows in groups, and reading a row
means reading its whole group; the groups read last are kept, up to a limit a process. A larger table is better read as
Arrow (`load_dataset(...).save_to_disk(FOLDER)`) or as shards. Needs pyarrow, an extra of a third of Paddle's size.
"""

import contextlib
import importlib.util
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import ARRAY_EXTENSION, EXTENSIONS, has_ending
from paddlemae.data.sources.image_groups import number_groups
from paddlemae.data.sources.labels import (
    LABEL_COLUMNS,
    as_some_labels,
    note_unused,
    number_labels,
    sort_classes,
    unusable_label,
)
from paddlemae.data.sources.lists import GROUP_COLUMNS, IMAGE_COLUMNS, SPLIT_COLUMNS, check_options
from paddlemae.data.sources.multi_labels import (
    SETS_COLUMN,
    SETS_OPTION,
    holds_sets,
    option_columns,
    targets_of_flags,
    targets_of_sets,
)
from paddlemae.data.sources.readers import ContentReader, file_stamp
from paddlemae.data.sources.source import ClassTargets, Source, Targets
from paddlemae.data.sources.splits import (
    MissingSplit,
    choose_split,
    files_of_split,
    is_held_out,
    list_names,
    split_of,
    words_of_files,
)
from paddlemae.data.sources.table_files import ArrowTable, ParquetTable, open_table, read_schema

PARQUET, ARROW = ".parquet", ".arrow"
_METADATA = b"huggingface"


@dataclass(frozen=True)
class _Columns:
    """Columns of a table's images and labels; `classes` if the table itself names them.

    `flags`: columns of 0 and 1, one a class; `are_sets`: labels such as `a|b` are several classes; None if that is
    seen by the labels.
    """

    image: str
    is_struct: bool
    label: str | None = None
    group: str | None = None
    split: str | None = None
    classes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    are_sets: bool | None = None


@dataclass(frozen=True, eq=False)
class TableContents:
    """Rows of tables.

    Args:
        tables: their files; `stamps`: of each what changes when it does.
        borders: [tables + 1]: the number of each one's first row, and of all.
        chosen: the numbers of the rows that are images here; None is all.
    """

    root: str
    tables: tuple[str, ...]
    stamps: tuple[str, ...]
    borders: NDArray[np.int64]
    image: str
    is_struct: bool
    chosen: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.borders[-1]) if self.chosen is None else len(self.chosen)

    def describe(self, i: int) -> str:
        table, row = self._place(i)
        return f"{self.tables[table]}, row {row}"

    def row(self, i: int) -> str:
        """Return the table and row number of an image, for errors."""
        table, row = self._place(i)
        return f"{self.tables[table]!r}, row {row}"

    def values(self, column: str) -> list[Any]:
        """Return what a column holds for each image; a table without it is a ValueError."""
        values: list[Any] = []
        for table in map(self._table, range(len(self.tables))):
            if column not in table.schema.names:
                raise ValueError(f"{table.path!r} lacks the column {column!r} of other tables; write all alike")
            values += table.values(column)
        return values if self.chosen is None else [values[row] for row in self.chosen.tolist()]

    def check_classes(self, column: str, classes: tuple[str, ...]) -> None:
        """Raise a ValueError if a table names other classes, or in another order."""
        for table in map(self._table, range(len(self.tables))):
            if _classes_of(table.schema, column, table.path) != classes:
                first = self.tables[0]
                raise ValueError(f"{table.path!r} has other classes than {first!r}, or another order; write all alike")

    def _table(self, number: int) -> ArrowTable | ParquetTable:
        return open_table(self.tables[number], self.stamps[number], self.image, self.is_struct)

    def stored_bytes(self, i: int) -> int:
        table, row = self._place(i)
        return self._table(table).stored_bytes(row)

    def content(self, i: int, max_image_bytes: int) -> bytes:
        table, row = self._place(i)
        content = self._table(table).content(row, max_image_bytes)
        if content is None:
            raise ValueError("the table holds no bytes of this image")
        return content

    def stamp(self, i: int) -> str:
        table, row = self._place(i)
        return f"{os.path.relpath(self.tables[table], self.root)}\0{row}\0{file_stamp(self.tables[table])}"

    def _place(self, i: int) -> tuple[int, int]:
        """Return (which table, which row)."""
        i = i if self.chosen is None else int(self.chosen[i])
        table = int(np.searchsorted(self.borders, i, "right")) - 1
        return table, int(i - self.borders[table])


def list_tables(folder: str) -> list[str]:
    """List the tables of a folder or, where it has none, of its subfolders; relative paths, sorted.

    A folder that `save_to_disk` made has subfolders for its splits.
    """
    tables = [name for name in sorted(os.listdir(folder)) if _is_table(name)]
    return tables or sorted(_tables_below(folder))


def _tables_below(folder: str) -> list[str]:
    tables = []
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if not os.path.isdir(path):
            continue
        for inner in os.listdir(path):
            if has_ending(inner, (*EXTENSIONS, ARRAY_EXTENSION)):  # a folder of images, and perhaps a million
                return []
            if _is_table(inner):
                tables.append(f"{name}/{inner}")
    return tables


def _is_table(name: str) -> bool:
    """Return whether a file name is a table's, not hidden and not a cache of `datasets`."""
    return has_ending(name, (PARQUET, ARROW)) and not name.startswith((".", "cache-"))


def open_tables(
    root: str, files: Sequence[str], spec: str, split: str | None, labelled: bool, options: dict[str, str]
) -> Source:
    """Open the images in tables.

    Args:
        files: paths below `root`, of all splits.
        split: tables of it have the word in their paths.
        options: `image`, `label`, `group`: columns, where their names and types don't tell; `labels`: the column of
            several classes, or columns of 0 and 1.
    Raises:
        ValueError: pyarrow is missing; no column of images or labels; damaged files.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{spec!r} holds tables, which pyarrow reads; pip install 'paddlemae[tables]'")
    check_options(spec, options, ("image", "label", SETS_OPTION, "split", "group"))
    split_files = files_of_split(files, split, repr(spec)) if any(words_of_files(files)) else files
    columns = _columns(os.path.join(root, split_files[0]), options, labelled)
    contents = _of_split(root, files, columns, split, spec)
    groups = number_groups(contents.values(columns.group)) if columns.group else (None, None)
    needs_labels = columns.label or columns.flags
    targets = _targets(root, files, columns, split, spec, contents) if needs_labels else None
    return Source(spec, ContentReader(contents), targets, *groups)


def _targets(
    root: str, files: Sequence[str], columns: _Columns, split: str | None, spec: str, contents: TableContents
) -> Targets:
    if columns.classes:
        return _of_classes(contents, columns)
    if columns.flags:
        flags = {name: contents.values(name) for name in columns.flags}
        return targets_of_flags(flags, contents.row, repr(spec))
    train = None
    if is_held_out(split):
        with contextlib.suppress(MissingSplit):
            train = _of_split(root, files, columns, "train", spec)
    if columns.are_sets is None:
        assert columns.label
        columns = replace(columns, are_sets=holds_sets(columns.label, (train or contents).values(columns.label)))
    train_classes = _number_labels(train, columns, spec, ()).classes if train else ()
    return _number_labels(contents, columns, spec, train_classes)


def _of_split(root: str, files: Sequence[str], columns: _Columns, split: str | None, spec: str) -> TableContents:
    """Return the rows of a split: of the tables with its word in their paths or, where none has one, of a column."""
    if split is None or columns.split is None or any(words_of_files(files)):
        return _rows_of(root, files_of_split(files, split, repr(spec)), columns, spec)
    contents = _rows_of(root, files, columns, spec)
    words = [str(value).lower() for value in contents.values(columns.split)]
    if not any(split_of(word) for word in set(words)):  # a column that is only called so
        return _rows_of(root, files_of_split(files, split, repr(spec)), columns, spec)
    chosen = choose_split(Counter(words), split, repr(spec), "rows whose split is")
    return replace(contents, chosen=np.array([row for row, word in enumerate(words) if word == chosen], np.int64))


def _rows_of(root: str, files: Sequence[str], columns: _Columns, spec: str) -> TableContents:
    tables = tuple(os.path.join(root, file) for file in files)
    stamps = tuple(file_stamp(path) for path in tables)
    counts = [open_table(path, stamp, columns.image, columns.is_struct).rows for path, stamp in zip(tables, stamps)]
    borders = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if not borders[-1]:
        raise ValueError(f"{spec!r} has no rows; expected one row per image")
    return TableContents(root, tables, stamps, borders, columns.image, columns.is_struct)


def _number_labels(contents: TableContents, columns: _Columns, spec: str, train_classes: tuple[str, ...]) -> Targets:
    assert columns.label
    values = contents.values(columns.label)
    if columns.are_sets:
        return targets_of_sets(values, contents.row, repr(spec), train_classes)
    return number_labels(as_some_labels(values, contents.row), repr(spec), train_classes)


def _of_classes(contents: TableContents, columns: _Columns) -> ClassTargets:
    """Return the labels of numbers that the tables name."""
    assert columns.label
    contents.check_classes(columns.label, columns.classes)
    values, classes = contents.values(columns.label), columns.classes
    are_some = any(value is not None for value in values)
    for i, value in enumerate(values):
        if value is None and are_some:
            values[i] = -1
        elif type(value) is not int or not 0 <= value < len(classes):
            problem = f"label {value!r} is none of the table's {len(classes)} classes"
            raise unusable_label(values, contents.row(i), problem)
    return sort_classes(ClassTargets(np.array(values, np.int64), classes))


def _columns(path: str, options: dict[str, str], labelled: bool) -> _Columns:
    import pyarrow as pa

    schema = read_schema(path)
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise ValueError(f"{path!r} has several columns called {list_names(twice)}; rename all but one of each")
    names = [f"{field.name} ({field.type})" for field in schema]
    features = _features(schema)

    def is_image(name: str) -> bool:
        kind = schema.field(name).type
        is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        return is_bytes or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)

    def first(candidates: Sequence[str]) -> str | None:
        return next((name for name in candidates if name in schema.names), None)

    image = options.get("image") or next((n for n, f in features.items() if f.get("_type") == "Image"), None)
    image = image or first([n for n in (*IMAGE_COLUMNS, *schema.names) if n in schema.names and is_image(n)])
    if image is None or image not in schema.names or not is_image(image):
        raise ValueError(f"{path!r} has no column of images (bytes of files); its columns: {', '.join(names)}")
    several = option_columns(options)
    given = several[0] if len(several) == 1 else options.get("label")
    label = given or first(LABEL_COLUMNS)
    label = label or next((n for n, f in features.items() if f.get("_type") == "ClassLabel"), None)
    group, split = options.get("group") or first(GROUP_COLUMNS), options.get("split") or first(SPLIT_COLUMNS)
    for name in (given, group, split, *several):
        if name and name not in schema.names:
            raise ValueError(f"{path!r} has no column {name!r}; its columns: {', '.join(names)}")
    if len(several) > 1:
        label = None
    elif labelled and label is None:
        raise ValueError(
            f"{path!r} has no column of labels (called {', '.join(LABEL_COLUMNS)}); its columns: {', '.join(names)}; "
            "name it with PATH::label=COLUMN"
        )
    if labelled and not given and not several:
        note_unused(repr(path), [name for name in schema.names if name in LABEL_COLUMNS])
    classes = _classes_of(schema, label, path) if labelled else ()
    is_struct = pa.types.is_struct(schema.field(image).type)
    flags = tuple(several) if labelled and len(several) > 1 else ()
    are_sets = True if len(several) == 1 else (None if label and label.lower() == SETS_COLUMN else False)
    return _Columns(image, is_struct, label if labelled else None, group, split, classes, flags, are_sets)


def _classes_of(schema: Any, label: str | None, path: str) -> tuple[str, ...]:
    """Return the class names that a table itself has for its labels, or raise a ValueError if they are no names."""
    names = _features(schema).get(label or "", {}).get("names") or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path!r}: the classes of column {label!r} are not a list of names; write the table again")
    if len(set(names)) < len(names):
        raise ValueError(f"{path!r}: two classes of column {label!r} have the same name; rename one")
    return tuple(names)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return what `datasets` says of the columns: name -> feature."""
    try:
        features = json.loads(schema.metadata[_METADATA])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError):
        return {}
