"""Write and read files of features, Parquet or NumPy, part by part, so that they may exceed the memory.

A Parquet file has the columns id, path, label and vector; a NumPy file the arrays ids, paths, labels (where there are
any) and vectors. Both say in JSON how they were made.

Shapes: n rows of a part, N of the file, D width of a feature.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.lib import format as npy
from pydantic import BaseModel, ConfigDict, Field

from paddlemae.data.sources import Source
from paddlemae.data.sources.arrays import map_npz
from paddlemae.system.atomic import replace_file
from paddlemae.system.display_names import escape_surrogates
from paddlemae.system.documents import parse_object, validate_content
from paddlemae.tasks.models.array_file import check_entry, damage_in, read_arrays
from paddlemae.tasks.models.read_model import Checkpoint, tensors_digest

PARQUET, NUMPY = ".parquet", ".npz"
ABOUT = "paddlemae"  # the metadata's key, or the array's name
FORMAT = 1
MAX_ABOUT_BYTES = 2**24  # with a mean and a deviation of each feature, and the names of the classes
MOST_PACKED = 32  # numbers of a Parquet file take at most that many times the bytes of the file


class AboutType(BaseModel):
    """How features were made, as far as whoever reads a file needs it."""

    model_config = ConfigDict(strict=True, extra="allow")
    model: str
    weights: str
    data: str
    split: str | None
    images: Annotated[int, Field(ge=0)]
    token: Literal["cls", "mean", "mean+std"]
    layer: Annotated[int, Field(ge=1)] | None
    norm: Literal["layer", "batch", "none"]


@dataclass(frozen=True)
class Rows:
    """Images: their numbers in the source int64 [n], names, classes (None: unlabelled), features float32 [n, D]."""

    ids: np.ndarray
    paths: Sequence[str]
    labels: Sequence[str] | None
    vectors: np.ndarray


@dataclass(frozen=True)
class Features(Rows):
    """A whole file, and how it was made; `vectors` may be mapped from the disk."""

    about: dict[str, Any]


def check_format(path: Path) -> None:
    """Raise a ValueError if features can't be written to or read from a file that is called so."""
    if path.suffix not in (PARQUET, NUMPY):
        raise ValueError(f"features need a file that ends in {PARQUET} or {NUMPY}; got {path}")
    if path.suffix == PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{path} needs pyarrow; pip install 'paddlemae[tables]', or use a file that ends in {NUMPY}")


def write_file(path: Path, parts: Callable[[], Iterator[Rows]], about: dict[str, Any]) -> None:
    """Write features, in as many passes over their parts as the format takes.

    Args:
        parts: iterates over them from the start at each call; one at least has rows, and all or none have labels.
    """
    content = json.dumps({"format": FORMAT, **about})
    write = _write_parquet if path.suffix == PARQUET else _write_numpy
    with replace_file(path) as temporary:
        write(temporary, parts, content)


def _write_parquet(path: Path, parts: Callable[[], Iterator[Rows]], about: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    try:
        for rows in parts():
            width = rows.vectors.shape[1]
            if writer is None:
                kinds = {"id": pa.int64(), "path": pa.string(), "label": pa.string()}
                schema = pa.schema({**kinds, "vector": pa.list_(pa.float32(), width)}, metadata={ABOUT: about})
                writer = pq.ParquetWriter(path, schema, use_dictionary=["label"], write_page_checksum=True)
            flat = pa.array(np.ascontiguousarray(rows.vectors).ravel(), pa.float32())
            labels = pa.nulls(len(rows.ids), pa.string()) if rows.labels is None else pa.array(rows.labels, pa.string())
            columns = [pa.array(rows.ids), pa.array(rows.paths, pa.string()), labels]
            columns.append(pa.FixedSizeListArray.from_arrays(flat, width))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    finally:
        if writer is not None:
            writer.close()


def _write_numpy(path: Path, parts: Callable[[], Iterator[Rows]], about: str) -> None:
    count, width, longest, longest_label = 0, 0, 1, 0
    for rows in parts():
        count, width = count + len(rows.ids), rows.vectors.shape[1]
        longest = max([longest, *map(len, rows.paths)])
        longest_label = max([longest_label, *map(len, rows.labels or ())])
    arrays: dict[str, tuple[Any, tuple[int, ...], Callable[[Rows], Any]]] = {
        "ids": ("<i8", (count,), lambda rows: rows.ids),
        "paths": (f"<U{longest}", (count,), lambda rows: rows.paths),
        "labels": (f"<U{longest_label}", (count,), lambda rows: rows.labels),
        "vectors": ("<f4", (count, width), lambda rows: rows.vectors),
    }
    if not longest_label:
        del arrays["labels"]
    with zipfile.ZipFile(path, "w") as archive:
        _write_array(archive, ABOUT, f"<U{len(about)}", (), [about])
        for name, (dtype, shape, values) in arrays.items():
            _write_array(archive, name, dtype, shape, (values(rows) for rows in parts()))


def _write_array(archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...], blocks: Any) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy")  # without a time, so that the same features are the same file
    if "U" in dtype:  # four bytes a character, most of them zero; numbers stay as they are, to be mapped
        entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as file:
        npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype).tobytes())


def read_file(path: Path) -> Features:
    """Read what `write_file` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no features of ours, or is damaged.
    """
    check_format(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; 'paddlemae embed' writes such files")
    with damage_in(path, "not a feature file of 'paddlemae embed'"):
        return _read_parquet(path) if path.suffix == PARQUET else _read_numpy(path)


def _read_parquet(path: Path) -> Features:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return _read_rows(file, path.stat().st_size)
    except (pa.ArrowException, AttributeError) as fault:
        raise ValueError(str(fault)) from fault


def _read_rows(file: Any, size: int) -> Features:
    about = _about_of((file.schema_arrow.metadata or {})[ABOUT.encode()].decode())
    rows, width = file.metadata.num_rows, file.schema_arrow.field("vector").type.list_size
    if not 0 < rows * width * 4 <= MOST_PACKED * size:
        raise ValueError(f"it claims {rows:,} x {width:,} numbers and has {size:,} bytes")
    vectors = np.empty((rows, width), np.float32)
    done = 0
    for batch in file.iter_batches(columns=["vector"]):  # by and by: all at once would take the memory twice
        block = batch.column(0).flatten().to_numpy().reshape(-1, width)
        vectors[done : done + len(block)] = block
        done += len(block)
    others = file.read(columns=["id", "path", "label"])
    labels = None if others["label"].null_count else others["label"].to_pylist()
    if done != rows or others["path"].null_count or others["id"].null_count:
        raise ValueError("it lacks values")
    return Features(others["id"].to_numpy(), others["path"].to_pylist(), labels, vectors, about)


def _read_numpy(path: Path) -> Features:
    kinds = {ABOUT: "U", "labels": "U", "ids": "iu", "paths": "U"}
    arrays = read_arrays(path, kinds, optional=["labels"])
    about, ids, paths, labels = _about_of(arrays[ABOUT]), arrays["ids"], arrays["paths"], arrays.get("labels")
    check_entry(path, "vectors")  # they are mapped, which reads no checksum
    vectors = map_npz(str(path), "vectors")
    lengths = {len(each) for each in (ids, paths, labels) if each is not None}
    if vectors.ndim != 2 or lengths != {len(vectors)} or ids.ndim != 1 or vectors.dtype.kind != "f":
        raise ValueError("arrays of different lengths or of other types")
    return Features(ids, paths, labels, vectors, about)


def _about_of(text: str) -> dict[str, Any]:
    content = parse_object(text.encode(), MAX_ABOUT_BYTES)
    if content.get("format") != FORMAT:
        raise ValueError(f"of another format than {FORMAT}")
    return validate_content(AboutType, content).model_dump()


def weights_digest(checkpoint: Checkpoint) -> str:
    """Return a digest of a model's weights and preprocessing."""
    description = asdict(checkpoint.description)
    seen_as = {name: value for name, value in description.items() if name not in ("provenance", "thresholds")}
    return hashlib.sha256(json.dumps(seen_as, sort_keys=True).encode() + tensors_digest(checkpoint)).hexdigest()


def scaled(vectors: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return features at mean 0 and deviation 1, float32 [N, D]."""
    return ((vectors - mean) / deviation).astype(np.float32)


def path_of(source: Source, i: int) -> str:
    """Return an image's name as files of features have it."""
    return escape_surrogates(source.describe(i))
