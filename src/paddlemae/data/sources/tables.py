"""Tables with the bytes of image files in a column: Parquet and Arrow, as Hugging Face's `datasets` stores them.

An Arrow file is mapped into memory, and any row of it is at hand. Parquet packs rows in groups, so that one row takes
reading its whole group: those read last are kept, up to a limit a process. A table that is larger is better read as
Arrow (`load_dataset(...).save_to_disk(FOLDER)`) or as shards.

Needs pyarrow, an extra: a third of Paddle's size, for one kind of source.
"""

import functools
import importlib.util
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.images import ARRAY_EXTENSION, EXTENSIONS, has_ending
from paddlemae.data.limits import check_room, room_for
from paddlemae.data.sources.groups import grouped
from paddlemae.data.sources.labels import files_of_part, listed, numbered
from paddlemae.data.sources.lists import GROUP_COLUMNS, IMAGE_COLUMNS, LABEL_COLUMNS
from paddlemae.data.sources.source import EncodedSource, file_stamp

KEPT_BYTES = 256 * 2**20  # of row groups, in each process
_SHARE = 16  # a part of the memory that is allowed, for rows that are read at a time
PARQUET, ARROW = ".parquet", ".arrow"
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

    def stored_bytes(self, i: int) -> int:
        table, row = self._place(i)
        return _opened(self.tables[table], self.stamps[table], self.image, self.is_struct).stored_bytes(row)

    def content(self, i: int, max_image_bytes: int) -> bytes:
        table, row = self._place(i)
        opened = _opened(self.tables[table], self.stamps[table], self.image, self.is_struct)
        content = opened.content(row, max_image_bytes)
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
    values = _values(chosen, columns.label)
    if columns.classes:
        return EncodedSource(spec, contents, _checked(values, columns.classes, spec), columns.classes, *groups)
    known: tuple[str, ...] = ()
    if split == "test":
        trained_on = [os.path.join(root, file) for file in files_of_part(files, "train", repr(spec))]
        known = numbered([str(value) for value in _values(trained_on, columns.label)], repr(spec))[1]
    return EncodedSource(spec, contents, *numbered([str(value) for value in values], repr(spec), known), *groups)


def _checked(values: list, classes: tuple[str, ...], spec: str) -> NDArray[np.int64]:
    labels = np.array([-1 if value is None else value for value in values], np.int64)
    if labels.min() < 0 or labels.max() >= len(classes):
        row = int(np.argmax((labels < 0) | (labels >= len(classes))))
        raise ValueError(f"{spec!r}, row {row}: label {values[row]} is none of the table's {len(classes)} classes")
    return labels


def _columns(path: str, options: dict[str, str], labelled: bool) -> _Columns:
    import pyarrow as pa

    schema = _schema(path)
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
    classes = tuple(features.get(label, {}).get("names") or ()) if label else ()
    return _Columns(image, pa.types.is_struct(schema.field(image).type), label if labelled else None, group, classes)


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
    return _open_parquet(path).schema_arrow if path.endswith(PARQUET) else _open_arrow(path).schema


def _values(paths: Sequence[str], column: str) -> list:
    values: list = []
    for path in paths:
        if path.endswith(PARQUET):
            values += _open_parquet(path).read(columns=[column], use_threads=False).column(0).to_pylist()
        else:
            values += _open_arrow(path).column(column).to_pylist()
    return values


def _open_parquet(path: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as fault:
        raise ValueError(f"{path!r} is cut short, damaged or no table ({_short(fault)}); download it again") from fault


def _open_arrow(path: str) -> Any:
    import pyarrow as pa

    try:
        source = pa.memory_map(path)
        try:
            return pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(source).read_all()
    except (pa.ArrowException, OSError) as fault:
        raise ValueError(f"{path!r} is cut short, damaged or no table ({_short(fault)}); download it again") from fault


def _short(fault: Exception) -> str:
    return " ".join(str(fault).split())[:100]


@functools.lru_cache(maxsize=1024)  # files of a large set; a table that is open takes little but its address space
def _opened(path: str, stamp: str, image: str, is_struct: bool) -> "_Arrow | _Parquet":
    """The images of a table, kept open by this process until it changes."""
    return _Parquet(path, stamp, image, is_struct) if path.endswith(PARQUET) else _Arrow(path, image, is_struct)


class _Arrow:
    """The images of a mapped Arrow file."""

    def __init__(self, path: str, image: str, is_struct: bool) -> None:
        column = _open_arrow(path).column(image)
        self.chunks = [_bytes_of(chunk, is_struct) for chunk in column.chunks]
        self.borders = np.concatenate([[0], np.cumsum([len(chunk) for chunk in self.chunks])]).astype(np.int64)
        self.rows = int(self.borders[-1])

    def stored_bytes(self, row: int) -> int:
        value = self._value(row)
        return value.as_buffer().size if value.is_valid else 0

    def content(self, row: int, max_image_bytes: int) -> bytes | None:
        return self._value(row).as_py()

    def _value(self, row: int) -> Any:
        chunk = int(np.searchsorted(self.borders, row, "right")) - 1
        return self.chunks[chunk][int(row - self.borders[chunk])]


_kept: OrderedDict[tuple[str, str, int], Any] = OrderedDict()  # row groups of this process, those read last at the end


class _Parquet:
    """The images of a Parquet file, read by row groups."""

    def __init__(self, path: str, stamp: str, image: str, is_struct: bool) -> None:
        self.path, self.stamp, self.image, self.is_struct = path, stamp, image, is_struct
        self.file = _open_parquet(path)
        self.sizes: dict[int, tuple[int, int]] = {}  # of row groups
        self.refused: dict[tuple[int, int], str] = {}  # row groups that take more memory than allowed
        metadata = self.file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.borders = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.rows = int(self.borders[-1])

    def stored_bytes(self, row: int) -> int:
        """Return the row's share of its row group's compressed bytes."""
        group = int(np.searchsorted(self.borders, row, "right")) - 1
        return self._sizes(group)[0] // max(1, int(self.borders[group + 1] - self.borders[group]))

    def content(self, row: int, max_image_bytes: int) -> bytes | None:
        group = int(np.searchsorted(self.borders, row, "right")) - 1
        return self._group(group, max_image_bytes)[int(row - self.borders[group])].as_py()

    def _sizes(self, group: int) -> tuple[int, int]:
        """Return (compressed, unpacked) bytes of a row group's images, as the file states them."""
        if group in self.sizes:
            return self.sizes[group]
        metadata, path = self.file.metadata.row_group(group), f"{self.image}.bytes" if self.is_struct else self.image
        chunks = [metadata.column(number) for number in range(metadata.num_columns)]
        chunk = next(each for each in chunks if each.path_in_schema == path)
        self.sizes[group] = chunk.total_compressed_size, chunk.total_uncompressed_size
        return self.sizes[group]

    def _group(self, group: int, max_image_bytes: int) -> Any:
        key = (self.path, self.stamp, group)
        if key not in _kept:
            import pyarrow as pa

            column = f"{self.image}.bytes" if self.is_struct else self.image
            if (refusal := self.refused.get((group, max_image_bytes))) is not None:
                raise ValueError(refusal)
            compressed, unpacked = self._sizes(group)
            room = room_for(compressed, max_image_bytes)
            check_room(unpacked, room)
            # A value that the file has once may be that of every row: no more rows are read at a time than fit.
            rows = max(1, room // max(1, _SHARE * unpacked))
            batches, size = [], 0
            try:
                for batch in self.file.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False):
                    batches.append(_bytes_of(batch.column(0), self.is_struct))
                    size += batches[-1].nbytes
                    check_room(size + size // 2, room)  # with what the next ones take on their way
            except ValueError as fault:  # not tried again for each of its rows
                batches.clear()
                refusal = self.refused[group, max_image_bytes] = f"its row group is damaged or too large: {fault}"
                raise ValueError(refusal) from fault
            except (pa.ArrowException, OSError) as fault:
                raise ValueError(f"its row group is damaged ({_short(fault)})") from fault
            _kept[key] = batches[0] if len(batches) == 1 else pa.chunked_array(batches)
            while len(_kept) > 1 and sum(values.nbytes for values in _kept.values()) > KEPT_BYTES:
                _kept.popitem(last=False)
        _kept.move_to_end(key)
        return _kept[key]


def _bytes_of(column: Any, is_struct: bool) -> Any:
    return column.field("bytes") if is_struct else column
