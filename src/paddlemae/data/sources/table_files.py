"""Files of tables, Parquet and Arrow, recognised by their first bytes and kept open, a bounded number in each process.

Needs pyarrow.
"""

from collections import OrderedDict
from typing import Any

import numpy as np

from paddlemae.data.decode.limits import check_room, room_for
from paddlemae.data.sources.arrow_file import read_arrow
from paddlemae.data.sources.readers import unreadable_file

CACHED_BYTES = 256 * 2**20  # of row groups, in each process
_SHARE = 16  # a part of the memory that is allowed, for rows that are read at a time
PARQUET_START = b"PAR1"
_FEWEST_OPEN, _MOST_OPEN = 4, 1024  # files; one that is open takes little but its address space


def read_schema(path: str) -> Any:
    return _open_parquet(path).schema_arrow if _is_parquet(path) else read_arrow(path).schema


def _is_parquet(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(PARQUET_START)) == PARQUET_START
    except OSError as fault:
        raise unreadable_file(path, fault) from fault


def _open_parquet(path: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as fault:
        raise unreadable_file(path, fault) from fault


_open_tables: OrderedDict[tuple[str, str, str, bool], "ArrowTable | ParquetTable"] = OrderedDict()  # as `_row_groups`


def open_table(path: str, stamp: str, image: str, is_struct: bool) -> "ArrowTable | ParquetTable":
    """Open a table's images; this process keeps it open until it changes or many others were read since."""
    key = (path, stamp, image, is_struct)
    if key not in _open_tables:
        while len(_open_tables) >= _most_open():
            _open_tables.popitem(last=False)
        _open_tables[key] = ParquetTable(*key) if _is_parquet(path) else ArrowTable(path, image, is_struct)
    _open_tables.move_to_end(key)
    return _open_tables[key]


def _most_open() -> int:
    """Return how many tables this process keeps open: a quarter of the files that it may have."""
    try:
        import resource
    except ImportError:  # Windows
        return _MOST_OPEN
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_OPEN if allowed < 0 else min(_MOST_OPEN, max(_FEWEST_OPEN, allowed // 4))


def _check_image(schema: Any, image: str, is_struct: bool, path: str) -> None:
    import pyarrow as pa

    if image not in schema.names or pa.types.is_struct(schema.field(image).type) != is_struct:
        raise ValueError(f"{path!r} lacks the column {image!r} of the other tables; write all with the same columns")


class ArrowTable:
    """The images of a mapped Arrow file."""

    def __init__(self, path: str, image: str, is_struct: bool) -> None:
        self.path, self.table = path, read_arrow(path)
        self.schema = self.table.schema
        _check_image(self.schema, image, is_struct, path)
        column = self.table.column(image)
        self.chunks = [_bytes_of(chunk, is_struct) for chunk in column.chunks]
        self.borders = np.concatenate([[0], np.cumsum([len(chunk) for chunk in self.chunks])]).astype(np.int64)
        self.rows = int(self.borders[-1])

    def values(self, column: str) -> list[Any]:
        return self.table.column(column).to_pylist()

    def stored_bytes(self, row: int) -> int:
        value = self._value(row)
        return value.as_buffer().size if value.is_valid else 0

    def content(self, row: int, max_image_bytes: int) -> bytes | None:
        return self._value(row).as_py()

    def _value(self, row: int) -> Any:
        chunk = int(np.searchsorted(self.borders, row, "right")) - 1
        return self.chunks[chunk][int(row - self.borders[chunk])]


_row_groups: OrderedDict[tuple[str, str, int], Any] = OrderedDict()  # of this process, those read last at the end


class ParquetTable:
    """The images of a Parquet file, read by row groups."""

    def __init__(self, path: str, stamp: str, image: str, is_struct: bool) -> None:
        self.path, self.stamp, self.image, self.is_struct = path, stamp, image, is_struct
        self.file = _open_parquet(path)
        self.schema = self.file.schema_arrow
        _check_image(self.schema, image, is_struct, path)
        self.sizes: dict[int, tuple[int, int]] = {}  # of row groups
        self.refused: dict[tuple[int, int], str] = {}  # row groups that take more memory than allowed
        metadata = self.file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.borders = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.rows = int(self.borders[-1])

    def values(self, column: str) -> list[Any]:
        return self.file.read(columns=[column], use_threads=False).column(0).to_pylist()

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
        if key not in _row_groups:
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
                raise ValueError(f"its row group is damaged ({' '.join(str(fault).split())[:100]})") from fault
            _row_groups[key] = batches[0] if len(batches) == 1 else pa.chunked_array(batches)
            while len(_row_groups) > 1 and sum(values.nbytes for values in _row_groups.values()) > CACHED_BYTES:
                _row_groups.popitem(last=False)
        _row_groups.move_to_end(key)
        return _row_groups[key]


def _bytes_of(column: Any, is_struct: bool) -> Any:
    return column.field("bytes") if is_struct else column
