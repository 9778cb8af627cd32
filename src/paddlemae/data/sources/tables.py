"""Tables with the bytes of image files in a column: Parquet and Arrow, as Hugging Face's `datasets` stores them.

An Arrow file is mapped into memory, and any row of it is at hand. Parquet packs rows in groups, so that one row takes
reading its whole group: those read last are kept, up to a limit a process. A table that is larger is better read as
Arrow (`load_dataset(...).save_to_disk(FOLDER)`) or as shards. A process keeps a quarter of the files open that it may,
those that were read last, and which of the two kinds a file is of is told by its first bytes.

Needs pyarrow, an extra: a third of Paddle's size, for one kind of source.
"""

import importlib.util
import json
import os
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.images import ARRAY_EXTENSION, EXTENSIONS, has_ending
from paddlemae.data.sources.groups import grouped
from paddlemae.data.sources.labels import MissingPart, as_labels, by_value, files_of_part, listed, numbered, unusable
from paddlemae.data.sources.lists import GROUP_COLUMNS, IMAGE_COLUMNS, LABEL_COLUMNS
from paddlemae.data.sources.source import EncodedSource, file_stamp, not_read

KEPT_BYTES = 256 * 2**20  # of row groups, in each process
PARQUET, ARROW = ".parquet", ".arrow"
PARQUET_START, ARROW_START = b"PAR1", b"ARROW1"
_FEWEST_OPEN, _MOST_OPEN = 4, 1024  # files; one that is open takes little but its address space
_METADATA = b"huggingface"


@dataclass(frozen=True)
class _Columns:
    """Where a table's images and labels are; `classes` if it names them itself."""

    image: str
    is_struct: bool
    label: str | None = None
    group: str | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class TableContents:
    """Rows of tables.

    Args:
        tables: their files; `stamps`: of each what changes when it does.
        borders: [tables + 1]: the number of each one's first row, and of all.
    """

    root: str
    tables: tuple[str, ...]
    stamps: tuple[str, ...]
    borders: NDArray[np.int64]
    image: str
    is_struct: bool

    def __len__(self) -> int:
        return int(self.borders[-1])

    def describe(self, i: int) -> str:
        table, row = self._place(i)
        return f"{self.tables[table]}, row {row}"

    def row(self, i: int) -> str:
        """Where a row is, for errors."""
        table, row = self._place(i)
        return f"{self.tables[table]!r}, row {row}"

    def content(self, i: int) -> bytes:
        table, row = self._place(i)
        content = _opened(self.tables[table], self.stamps[table], self.image, self.is_struct).content(row)
        if content is None:
            raise ValueError("the table holds no bytes of this image")
        return content

    def stamp(self, i: int) -> str:
        table, row = self._place(i)
        return f"{os.path.relpath(self.tables[table], self.root)}\0{row}\0{file_stamp(self.tables[table])}"

    def _place(self, i: int) -> tuple[int, int]:
        """(which table, which row)."""
        table = int(np.searchsorted(self.borders, i, "right")) - 1
        return table, int(i - self.borders[table])


def tables_in(folder: str) -> list[str]:
    """The tables of a folder or, where it has none, of a folder in it; paths relative to it, sorted.

    A folder that `save_to_disk` made has others for its parts.
    """
    found = [name for name in sorted(os.listdir(folder)) if _is_table(name)]
    return found or sorted(_tables_below(folder))


def _tables_below(folder: str) -> list[str]:
    found = []
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if not os.path.isdir(path):
            continue
        for inner in os.listdir(path):
            if has_ending(inner, (*EXTENSIONS, ARRAY_EXTENSION)):  # a folder of images, and perhaps a million
                return []
            if _is_table(inner):
                found.append(f"{name}/{inner}")
    return found


def _is_table(name: str) -> bool:
    """By name, but not what `datasets` computed, nor what is hidden."""
    return has_ending(name, (PARQUET, ARROW)) and not name.startswith((".", "cache-"))


def open_tables(
    root: str, files: Sequence[str], spec: str, split: str | None, labelled: bool, options: dict[str, str]
) -> EncodedSource:
    """The images in tables.

    Args:
        files: paths below `root`, of all parts.
        split: tables of it have the word in their paths.
        options: `image`, `label`, `group`: columns, where their names and types don't tell.
    Raises:
        ValueError: pyarrow is missing; no column of images or labels; damaged files.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{spec!r} holds tables, which pyarrow reads; pip install 'paddlemae[tables]'")
    if strangers := sorted(set(options) - {"image", "label", "group"}):
        raise ValueError(f"{spec!r} takes no {listed(strangers)}; only image, label, group")
    chosen = tuple(os.path.join(root, file) for file in files_of_part(files, split, repr(spec)))
    columns = _columns(chosen[0], options, labelled)
    stamps = tuple(file_stamp(path) for path in chosen)
    rows = [_opened(path, stamp, columns.image, columns.is_struct).rows for path, stamp in zip(chosen, stamps)]
    borders = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    contents = TableContents(root, chosen, stamps, borders, columns.image, columns.is_struct)
    if not len(contents):
        raise ValueError(f"{spec!r} has no rows; expected one an image")
    groups = grouped(_values(chosen, columns.group)) if columns.group else (None, None)
    if columns.label is None:
        return EncodedSource(spec, contents, None, (), *groups)
    values = _values(chosen, columns.label, columns.classes)
    if columns.classes:
        return EncodedSource(spec, contents, *_of_classes(values, columns.classes, contents), *groups)
    labels = as_labels(values, contents.row)
    known = _classes_to_train_on(root, files, spec, columns.label) if split == "test" else ()
    return EncodedSource(spec, contents, *numbered(labels, repr(spec), known), *groups)


def _classes_to_train_on(root: str, files: Sequence[str], spec: str, label: str) -> tuple[str, ...]:
    """The classes of the training split; none where there is no such split."""
    try:
        tables = [os.path.join(root, file) for file in files_of_part(files, "train", repr(spec))]
    except MissingPart:
        return ()
    return numbered(as_labels(_values(tables, label), lambda row: f"{spec!r}, training row {row}"), repr(spec))[1]


def _of_classes(
    values: list, classes: tuple[str, ...], contents: TableContents
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(labels, classes) of numbers that the tables name."""
    for i, value in enumerate(values):
        if type(value) is not int or not 0 <= value < len(classes):
            problem = f"label {value!r} is none of the table's {len(classes)} classes"
            raise unusable(values, contents.row(i), problem)
    return by_value(np.array(values, np.int64), classes)


def _columns(path: str, options: dict[str, str], labelled: bool) -> _Columns:
    import pyarrow as pa

    schema = _schema(path)
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise ValueError(f"{path!r} has several columns called {listed(twice)}; rename all but one of each")
    names = [f"{field.name} ({field.type})" for field in schema]
    features = _features(schema)

    def is_image(name: str) -> bool:
        kind = schema.field(name).type
        return _is_bytes(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)

    def first(candidates: Sequence[str]) -> str | None:
        return next((name for name in candidates if name in schema.names), None)

    image = options.get("image") or next((n for n, f in features.items() if f.get("_type") == "Image"), None)
    image = image or first([n for n in (*IMAGE_COLUMNS, *schema.names) if n in schema.names and is_image(n)])
    if image is None or image not in schema.names or not is_image(image):
        raise ValueError(f"{path!r} has no column of images (bytes of files); its columns: {', '.join(names)}")
    label = options.get("label") or first(LABEL_COLUMNS)
    label = label or next((n for n, f in features.items() if f.get("_type") == "ClassLabel"), None)
    group = options.get("group") or first(GROUP_COLUMNS)
    for wanted in (options.get("label"), group):
        if wanted and wanted not in schema.names:
            raise ValueError(f"{path!r} has no column {wanted!r}; its columns: {', '.join(names)}")
    if labelled and label is None:
        raise ValueError(
            f"{path!r} has no column of labels (called {', '.join(LABEL_COLUMNS)}); its columns: {', '.join(names)}; "
            "name it with PATH::label=COLUMN"
        )
    classes = _classes_of(schema, label, path) if labelled else ()
    return _Columns(image, pa.types.is_struct(schema.field(image).type), label if labelled else None, group, classes)


def _classes_of(schema: Any, label: str | None, path: str) -> tuple[str, ...]:
    """The class names that a table itself has for its labels.

    Raises:
        ValueError: they are no names.
    """
    names = _features(schema).get(label or "", {}).get("names") or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path!r}: the classes of column {label!r} are no list of names; write the table again")
    if len(set(names)) < len(names):
        raise ValueError(f"{path!r}: two classes of column {label!r} have the same name; rename one")
    return tuple(names)


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _features(schema: Any) -> dict[str, dict]:
    """What `datasets` says of the columns."""
    try:
        features = json.loads(schema.metadata[_METADATA])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError):
        return {}


def _schema(path: str) -> Any:
    return _open_parquet(path).schema_arrow if _is_parquet(path) else _open_arrow(path).schema


def _values(paths: Sequence[str], column: str, classes: tuple[str, ...] = ()) -> list:
    """What a column of tables holds.

    Raises:
        ValueError: one without it, or that names other classes than these.
    """
    values: list = []
    for path in paths:
        parquet = _open_parquet(path) if _is_parquet(path) else None
        table = parquet or _open_arrow(path)
        schema = parquet.schema_arrow if parquet else table.schema
        if column not in schema.names:
            raise ValueError(f"{path!r} has no column {column!r}, which {paths[0]!r} has; write both again")
        if classes and _classes_of(schema, column, path) != classes:
            raise ValueError(
                f"{path!r} has other classes than {paths[0]!r}, or another order of them; write both again"
            )
        read = parquet.read(columns=[column], use_threads=False) if parquet else table
        values += read.column(column).to_pylist()
    return values


def _is_parquet(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(PARQUET_START)) == PARQUET_START
    except OSError as fault:
        raise not_read(path, fault) from fault


def _open_parquet(path: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as fault:
        raise not_read(path, fault) from fault


def _open_arrow(path: str) -> Any:
    import pyarrow as pa

    try:
        source = pa.memory_map(path)
        try:
            return pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(source).read_all()
    except (pa.ArrowException, OSError) as fault:
        raise not_read(path, fault) from fault


_open: OrderedDict[tuple[str, str, str, bool], "_Arrow | _Parquet"] = OrderedDict()  # as `_kept`


def _opened(path: str, stamp: str, image: str, is_struct: bool) -> "_Arrow | _Parquet":
    """The images of a table, kept open by this process until it changes, or many others were read since."""
    key = (path, stamp, image, is_struct)
    if key not in _open:
        while len(_open) >= _most_open():
            _open.popitem(last=False)
        _open[key] = _Parquet(*key) if _is_parquet(path) else _Arrow(path, image, is_struct)
    _open.move_to_end(key)
    return _open[key]


def _most_open() -> int:
    """How many tables this process keeps open: a quarter of the files that it may have."""
    import resource

    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_OPEN if allowed < 0 else min(_MOST_OPEN, max(_FEWEST_OPEN, allowed // 4))


def _check_image(schema: Any, image: str, is_struct: bool, path: str) -> None:
    import pyarrow as pa

    if image not in schema.names or pa.types.is_struct(schema.field(image).type) != is_struct:
        raise ValueError(f"{path!r} has no column {image!r} like that of the tables before it; write all alike")


class _Arrow:
    """The images of a mapped Arrow file."""

    def __init__(self, path: str, image: str, is_struct: bool) -> None:
        table = _open_arrow(path)
        _check_image(table.schema, image, is_struct, path)
        column = table.column(image)
        self.chunks = [_bytes_of(chunk, is_struct) for chunk in column.chunks]
        self.borders = np.concatenate([[0], np.cumsum([len(chunk) for chunk in self.chunks])]).astype(np.int64)
        self.rows = int(self.borders[-1])

    def content(self, row: int) -> bytes | None:
        chunk = int(np.searchsorted(self.borders, row, "right")) - 1
        return self.chunks[chunk][int(row - self.borders[chunk])].as_py()


_kept: OrderedDict[tuple[str, str, int], Any] = OrderedDict()  # row groups of this process, those read last at the end


class _Parquet:
    """The images of a Parquet file, read by row groups."""

    def __init__(self, path: str, stamp: str, image: str, is_struct: bool) -> None:
        self.path, self.stamp, self.image, self.is_struct = path, stamp, image, is_struct
        self.file = _open_parquet(path)
        _check_image(self.file.schema_arrow, image, is_struct, path)
        metadata = self.file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.borders = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.rows = int(self.borders[-1])

    def content(self, row: int) -> bytes | None:
        group = int(np.searchsorted(self.borders, row, "right")) - 1
        return self._group(group)[int(row - self.borders[group])].as_py()

    def _group(self, group: int) -> Any:
        key = (self.path, self.stamp, group)
        if key not in _kept:
            import pyarrow as pa

            column = f"{self.image}.bytes" if self.is_struct else self.image
            try:
                table = self.file.read_row_group(group, columns=[column], use_threads=False)
            except (pa.ArrowException, OSError) as fault:
                raise ValueError(f"its row group is damaged ({' '.join(str(fault).split())[:100]})") from fault
            _kept[key] = _bytes_of(table.column(0).combine_chunks(), self.is_struct)
            while len(_kept) > 1 and sum(values.nbytes for values in _kept.values()) > KEPT_BYTES:
                _kept.popitem(last=False)
        _kept.move_to_end(key)
        return _kept[key]


def _bytes_of(column: Any, is_struct: bool) -> Any:
    return column.field("bytes") if is_struct else column
