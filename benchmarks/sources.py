"""Measure how fast each kind of source gives training batches, and check that all give the same.

python -m benchmarks.sources --data FOLDER --images 4000       a folder with a folder a class
python -m benchmarks.sources --data FOLDER --images 1000 --size 224 --kinds folder tar pack    photos of any sizes

The same files, byte for byte, are packed as every kind; those that hold pixels get them decoded, and a pack of
`paddlemae data pack` has smaller copies of large ones. The kinds take turns,
one stretch of batches each, many times over, on one core with warm files; a rate is the median over the turns, a ratio
the median of each turn's ratio to the folder's next to it. Before that, every image of every kind is compared with the
folder's, in order, with its label; those that a pack made smaller by their label alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import statistics
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from paddlemae.data.batches import train_batches
from paddlemae.data.sources import Source, open_source, subset, table_files
from paddlemae.data.views.augment import View
from paddlemae.engine.memory import keep_freed_memory
from paddlemae.tasks.data.pack import pack

BATCH = 64
SHARD_IMAGES = 1000
ROW_GROUP_IMAGES = 100
PACK_SIZE = 256  # what `paddlemae data pack` makes of larger ones by default


class Files:
    """The chosen files of a folder: paths below it, labels, contents and, when asked for, pixels."""

    def __init__(self, folder: str, count: int) -> None:
        whole = open_source(folder, labelled=any(entry.is_dir() for entry in os.scandir(folder)))
        self.source = subset(whole, np.linspace(0, len(whole) - 1, min(count, len(whole))).astype(int))
        self.paths = [self.source.describe(i) for i in range(len(self.source))]
        self.names = [os.path.relpath(path, folder) for path in self.paths]
        if self.source.labels is None:  # two classes are made up, since every kind must keep labels
            half = len(self.names) // 2
            self.names = [f"{'a' if i < half else 'b'}/{name}" for i, name in enumerate(self.names)]
        self.classes = sorted({name.partition("/")[0] for name in self.names})
        self.labels = [self.classes.index(name.partition("/")[0]) for name in self.names]

    def contents(self) -> list[bytes]:
        return [Path(path).read_bytes() for path in self.paths]

    def pixels(self) -> np.ndarray:
        return np.stack([self.source.read(i, 3) for i in range(len(self.source))])


def write_folder(files: Files, root: Path) -> Path:
    for name, content in zip(files.names, files.contents()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_list(files: Files, root: Path) -> Path:
    root.mkdir()
    path = root / "train_list.txt"
    path.write_text("".join(f"{os.path.abspath(path)} {label}\n" for path, label in zip(files.paths, files.labels)))
    return path


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def write_tar(files: Files, root: Path) -> Path:
    root.mkdir()
    with tarfile.open(root / "images.tar", "w") as archive:
        for name, content in zip(files.names, files.contents()):
            _add(archive, name, content)
    return root / "images.tar"


def write_zip(files: Files, root: Path) -> Path:
    root.mkdir()
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        for name, content in zip(files.names, files.contents()):
            archive.writestr(name, content)
    return root / "images.zip"


def write_shards(files: Files, root: Path) -> Path:
    root.mkdir()
    contents = files.contents()
    for number, start in enumerate(range(0, len(contents), SHARD_IMAGES)):
        with tarfile.open(root / f"data-{number:03}.tar", "w") as archive:
            for i in range(start, min(start + SHARD_IMAGES, len(contents))):
                _add(archive, f"{i:08}{Path(files.names[i]).suffix}", contents[i])
                _add(archive, f"{i:08}.cls", str(files.labels[i]).encode())
    return root


def _table(files: Files):
    import pyarrow as pa

    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": content, "path": None} for content in files.contents()], struct)
    features = {"image": {"_type": "Image"}, "label": {"names": files.classes, "_type": "ClassLabel"}}
    described = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.table({"image": images, "label": files.labels}).replace_schema_metadata(described)


def write_parquet(files: Files, root: Path) -> Path:
    import pyarrow.parquet as pq

    root.mkdir()
    pq.write_table(_table(files), root / "train-00000-of-00001.parquet", row_group_size=ROW_GROUP_IMAGES)
    return root


def write_arrow(files: Files, root: Path) -> Path:
    import pyarrow as pa

    root.mkdir()
    table = _table(files)
    path = str(root / "data-00000-of-00001.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    return root


def write_npz(files: Files, root: Path) -> Path:
    root.mkdir()
    np.savez(root / "images.npz", images=files.pixels(), labels=np.array(files.labels))
    return root / "images.npz"


def write_cifar(files: Files, root: Path) -> Path:
    """Write CIFAR's published binary version."""
    root.mkdir()
    rows = files.pixels().transpose(0, 3, 1, 2).reshape(len(files.labels), -1)
    records = np.concatenate([np.array(files.labels, np.uint8)[:, None], rows], axis=1)
    for number, part in enumerate(np.array_split(records, 5), start=1):
        (root / f"data_batch_{number}.bin").write_bytes(part.tobytes())
    (root / "test_batch.bin").write_bytes(records[:1].tobytes())
    (root / "batches.meta.txt").write_text("\n".join(files.classes))
    return root


def write_pack(files: Files, root: Path) -> Path:
    pack(str(write_folder(files, root.with_name("to-pack"))), root, size=PACK_SIZE, workers=0, quiet=True)
    return root


KINDS: dict[str, Callable[[Files, Path], Path]] = {
    "folder": write_folder,
    "list": write_list,
    "tar": write_tar,
    "zip": write_zip,
    "shards": write_shards,
    "parquet": write_parquet,
    "arrow": write_arrow,
    "npz": write_npz,
    "cifar": write_cifar,
    "pack": write_pack,
}


def made(files: Files, root: Path, names: Sequence[str]) -> dict[str, Source]:
    """Make a source of every kind and compare it with the original files; pixel formats only if all sizes are equal."""
    sources: dict[str, Source] = {}
    for name in names:
        if name in ("parquet", "arrow") and importlib.util.find_spec("pyarrow") is None:
            print(f"{name}: left out, pyarrow is missing")
            continue
        if name in ("npz", "cifar") and len({files.source.read(i, 3).shape for i in range(len(files.paths))}) > 1:
            print(f"{name}: left out, the images differ in size")
            continue
        if name == "cifar" and files.source.read(0, 3).shape != (32, 32, 3):
            continue
        started = time.process_time()
        spec = str(KINDS[name](files, root / name))
        written = time.process_time()
        sources[name] = source = open_source(spec, "train", labelled=True)
        opened = time.process_time()
        assert source.labels is not None and source.labels.tolist() == files.labels, name
        assert len(source) == len(files.paths)
        same = [np.array_equal(source.read(i, 3), files.source.read(i, 3)) for i in range(len(files.paths))]
        for i in np.flatnonzero(np.logical_not(same)).tolist():
            size = min(files.source.read(i, 3).shape[:2])
            assert name == "pack" and size > PACK_SIZE == min(source.read(i, 3).shape[:2]), (name, i)
        print(f"{name}: {sum(same)} of {len(source)} images are the same; written in {written - started:.1f} s of CPU "
              f"time, opened in {opened - written:.3f} s; {_megabytes(root / name):.1f} MB")  # fmt: skip
    return sources


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def rates(sources: dict[str, Source], view: View, turns: int, batches: int) -> dict[str, list[float]]:
    """Return the images per second of each kind in each turn."""
    streams = {
        name: train_batches(source, view, batch_size=BATCH, seed=0, num_steps=10**6) for name, source in sources.items()
    }
    found: dict[str, list[float]] = {name: [] for name in sources}
    for stream in streams.values():  # fills the caches
        for _ in range(batches):
            next(stream)
    for turn in range(turns):
        order = list(streams)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            started = time.process_time()  # others may share the core
            for _ in range(batches):
                next(streams[name])
            found[name].append(batches * BATCH / (time.process_time() - started))
    return found


def main() -> None:
    usage = argparse.ArgumentParser(prog="python -m benchmarks.sources", description=__doc__.partition("\n")[0])
    usage.add_argument("--data", required=True, help="folder of images with a folder a class")
    usage.add_argument("--images", type=int, default=4000)
    usage.add_argument("--size", type=int, default=32, help="side of the views, pixels")
    usage.add_argument("--turns", type=int, default=15)
    usage.add_argument("--batches", type=int, default=8, help=f"of {BATCH} images, in a turn")
    usage.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    usage.add_argument("--kept-bytes", type=int, help="of a Parquet table's row groups that stay in memory")
    options = usage.parse_args()
    if options.kept_bytes is not None:
        table_files.CACHED_BYTES = options.kept_bytes
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="paddlemae-sources-") as folder:
        files = Files(options.data, options.images)
        sources = made(files, Path(folder), options.kinds)
        found = rates(sources, View((options.size,) * 2, 3), options.turns, options.batches)
    for name, own in found.items():
        ratio = statistics.median(mine / folder for mine, folder in zip(own, found["folder"]))
        print(f"{name:8} {statistics.median(own):8.0f} images/s of CPU time, {ratio:.2f} x the folder's")


if __name__ == "__main__":
    main()
