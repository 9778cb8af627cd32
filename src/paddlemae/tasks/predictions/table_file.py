"""Write a table to a CSV, JSON or Parquet file, row by row, so that it may be larger than the memory.

A missing value is an empty cell of a CSV, and null elsewhere. Text must be Unicode, see `escape_surrogates`.
"""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from paddlemae.system.atomic import replace_file

CSV, JSON, PARQUET = ".csv", ".json", ".parquet"
FORMATS = (CSV, JSON, PARQUET)
ROWS_AT_ONCE = 8192  # of a Parquet file
Value = str | float | bool | None
Columns = Mapping[str, type]  # name -> str, float or bool


def check_table_format(path: Path) -> None:
    """Raise a ValueError if no table can be written to a file that is called so."""
    if path.suffix not in FORMATS:
        raise ValueError(f"expected a file that ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}; got {path}")
    if path.suffix == PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{path} needs pyarrow; pip install 'paddlemae[tables]', or use a file that ends in {CSV}")


def write_table(path: Path, columns: Columns, rows: Iterable[Sequence[Value]], about: Mapping[str, Any]) -> None:
    """Write a table whole or not at all.

    Numbers of a CSV or JSON file have six significant digits, those of a Parquet file are float32.

    Args:
        rows: values in the order of the columns.
        about: how the table was made, which a Parquet file keeps in its metadata under `paddlemae`.
    """
    with replace_file(path) as temporary:
        if path.suffix == PARQUET:
            _write_parquet(temporary, columns, rows, json.dumps(about))
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            (_write_csv if path.suffix == CSV else _write_json)(file, columns, rows)


class _LineFeeds:
    """A file whose lines, written with CR LF, end with LF: the csv module quotes a name with a CR only if lines do."""

    def __init__(self, file: TextIO):
        self.file = file

    def write(self, line: str) -> int:
        return self.file.write(line.removesuffix("\r\n") + "\n")


def _write_csv(file: TextIO, columns: Columns, rows: Iterable[Sequence[Value]]) -> None:
    writer = csv.writer(_LineFeeds(file), lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows(map(_cell, row) for row in rows)


def _cell(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else f"{value:.6g}"


def _write_json(file: TextIO, columns: Columns, rows: Iterable[Sequence[Value]]) -> None:
    before = "[\n"
    for row in rows:
        values = (float(f"{value:.6g}") if isinstance(value, float) else value for value in row)
        file.write(before + json.dumps(dict(zip(columns, values, strict=True)), ensure_ascii=False))
        before = ",\n"
    file.write("\n]\n")


def _write_parquet(path: Path, columns: Columns, rows: Iterable[Sequence[Value]], about: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), float: pa.float32(), bool: pa.bool_()}
    schema = pa.schema({name: kinds[kind] for name, kind in columns.items()}, metadata={"paddlemae": about})
    with pq.ParquetWriter(path, schema) as writer:
        for block in _blocks(rows):
            arrays = [pa.array(values, field.type) for values, field in zip(zip(*block), schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _blocks(rows: Iterable[Sequence[Value]]) -> Iterator[list[Sequence[Value]]]:
    rows = iter(rows)
    while block := list(islice(rows, ROWS_AT_ONCE)):
        yield block
