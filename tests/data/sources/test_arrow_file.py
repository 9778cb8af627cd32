"""Arrow files and streams: read as pyarrow reads them, and never unpacked into more memory than is allowed."""

from pathlib import Path

import numpy as np
import pytest

from paddlemae.data.sources import arrow_file
from paddlemae.data.sources.arrow_file import read_arrow

pa = pytest.importorskip("pyarrow")
CONTENT = bytes(range(256)) * 4


def write(path: Path, table, compression: str | None, kind: str) -> str:
    new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=7)
    return str(path)


def images(rows: int):
    labels = pa.array(["cat", "dog", None][row % 3] for row in range(rows)).dictionary_encode()
    return pa.table({"image": [CONTENT] * rows, "label": labels})


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_a_table_is_what_was_written(tmp_path: Path, compression: str | None, kind: str) -> None:
    assert read_arrow(write(tmp_path / "a.arrow", images(20), compression, kind)).equals(images(20))


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_what_unpacks_to_too_much_is_refused_before_it_does(tmp_path: Path, monkeypatch, kind: str) -> None:
    path = write(tmp_path / "a.arrow", images(2000), "zstd", kind)
    monkeypatch.setattr(arrow_file, "MAX_IMAGE_BYTES", 1_000_000)
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="compressed, and unpacking it takes more than 1 MB"):
        read_arrow(path)
    assert pa.total_allocated_bytes() == before
    assert len(read_arrow(write(tmp_path / "b.arrow", images(2000), None, kind))) == 2000, "mapped, whatever its size"


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_damage_is_one_line(tmp_path: Path, compression: str | None) -> None:
    path = Path(write(tmp_path / "a.arrow", images(3), compression, "stream"))
    good, dice = path.read_bytes(), np.random.default_rng(0)
    for number in range(300):
        damaged = bytearray(good)
        damaged[int(dice.integers(len(good)))] ^= 1 << int(dice.integers(8))
        other = tmp_path / f"{number}.arrow"  # a new file: the last one may still be mapped
        other.write_bytes(damaged[: int(dice.integers(len(good)))] if number % 5 == 0 else damaged)
        try:
            read_arrow(str(other))
        except ValueError as fault:
            assert "\n" not in str(fault)
