"""Write the same images as every kind of source, by the rules of other programs' formats."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = ("bird", "cat", "dog")
SIDE = 32


@dataclass(frozen=True)
class Picture:
    """One image: where a folder has it, its label and pixels [32, 32, 3]."""

    name: str
    label: int
    pixels_HW3: np.ndarray

    @property
    def png(self) -> bytes:
        return png(self.pixels_HW3)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def pictures(count: int, seed: int) -> list[Picture]:
    """Draw `count` random images of each class, in a folder's order."""
    rng = np.random.default_rng(seed)
    return [
        Picture(f"{name}/{number:03}.png", label, rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
        for label, name in enumerate(CLASSES)
        for number in range(count)
    ]


PARTS = {"train": pictures(10, 0), "test": pictures(2, 1)}


def write_folder(root: Path) -> Path:
    for part, images in PARTS.items():
        for image in images:
            path = root / part / image.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image.png)
    return root


def write_list(root: Path, separator: str = " ") -> Path:
    """Write `train_list.txt` and `val_list.txt` next to the folders; a path has spaces in it."""
    write_folder(root / "all my images")
    for part, name in (("train", "train"), ("test", "val")):
        lines = [f"all my images/{part}/{image.name}{separator}{image.label}\n" for image in PARTS[part]]
        (root / f"{name}_list.txt").write_text("".join(lines))
    return root / "train_list.txt"


def write_csv(root: Path) -> Path:
    write_folder(root / "images")
    with open(root / "all.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Number", "File", "Class", "Split"])
        number = 0
        for part, images in PARTS.items():
            for image in images:
                number += 1
                rows.writerow([number, f"images/{part}/{image.name}", CLASSES[image.label], part])
    return root / "all.csv"


def write_tar(path: Path, around: str = "", style: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar as `tar cf` packs the folder, not in the order of names."""
    with tarfile.open(path, "w", format=style) as archive:
        for part, images in PARTS.items():
            for image in images[::-1]:
                add(archive, f"{around}{part}/{image.name}", image.png)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes, **settings) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for key, value in settings.items():
        setattr(entry, key, value)
    archive.addfile(entry, io.BytesIO(content))


def write_zip(path: Path, method: int) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("train/", b"")
        for part, images in PARTS.items():
            for image in images[::-1]:
                archive.writestr(f"{part}/{image.name}", image.png)
    return path


def write_shards(root: Path, label: str = "cls") -> Path:
    """Write three shards of training images and one of test images."""
    root.mkdir()
    cut = [("train-000", PARTS["train"][:11]), ("train-001", PARTS["train"][11:12]), ("train-002", PARTS["train"][12:])]
    number = 0
    for name, images in [*cut, ("test-000", PARTS["test"])]:
        with tarfile.open(root / f"{name}.tar", "w") as archive:
            for image in images:
                number += 1
                text = json.dumps({"caption": "a", "label": image.label}) if label == "json" else f"{image.label}\n"
                add(archive, f"{number:06}.png", image.png)
                add(archive, f"{number:06}.{label}", text.encode())
    return root


def features() -> bytes:
    """Return what `datasets` writes into a table's metadata."""
    described = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    return json.dumps({"info": {"features": described}}).encode()


def table(images: Sequence[Picture]):
    import pyarrow as pa

    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": image.png, "path": image.name} for image in images], struct)
    labels = pa.array([image.label for image in images], pa.int64())
    return pa.table({"image": rows, "label": labels}).replace_schema_metadata({b"huggingface": features()})


def write_parquet(root: Path) -> Path:
    """Write a repository of `datasets`: two files of training images in small row groups, one of test images."""
    import pyarrow.parquet as pq

    (root / "data").mkdir(parents=True)
    (root / "README.md").write_text("a card")
    for number, images in enumerate((PARTS["train"][:20], PARTS["train"][20:])):
        pq.write_table(table(images), root / "data" / f"train-0000{number}-of-00002.parquet", row_group_size=7)
    pq.write_table(table(PARTS["test"]), root / "data" / "test-00000-of-00001.parquet")
    return root


def write_arrow(root: Path) -> Path:
    """Write a `DatasetDict` as `save_to_disk` does."""
    import pyarrow as pa

    for part, images in PARTS.items():
        (root / part).mkdir(parents=True)
        for name in ("state.json", "dataset_info.json"):
            (root / part / name).write_text("{}")
        rows = table(images)
        path = str(root / part / "data-00000-of-00001.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
            writer.write_table(rows, max_chunksize=8)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(PARTS)}))
    return root


def write_npz(path: Path, *, compressed: bool, first: bool = False, names: str = "{part}_images {part}_labels") -> Path:
    arrays = {}
    for part, images in PARTS.items():
        pixels = np.stack([image.pixels_HW3 for image in images])
        image_name, label_name = names.format(part=part).split()
        arrays[image_name] = pixels.transpose(0, 3, 1, 2) if first else pixels
        arrays[label_name] = np.array([[image.label] for image in images], np.uint8)
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def rows_of(images: Sequence[Picture]) -> np.ndarray:
    """Return rows as CIFAR stores them: [N, 3072], red, green, blue."""
    return np.stack([image.pixels_HW3.transpose(2, 0, 1).ravel() for image in images])


def python2_batch(images: Sequence[Picture]) -> bytes:
    """Return a batch as Python 2's cPickle wrote it (protocol 2): strings of bytes, NumPy of that time."""
    rows = rows_of(images)

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + len(text).to_bytes(4, "little") + text

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + value.to_bytes(2, "little")

    labels = b"]q\x07(" + b"".join(number(image.label) for image in images) + b"e"
    names = b"]q\x08(" + b"".join(string(image.name.encode()) for image in images) + b"e"
    dtype = b"cnumpy\ndtype\nq\x04U\x02u1K\0K\1\x87Rq\x05(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    shape = number(len(rows)) + number(rows.shape[1]) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\0\x85U\1b\x87R"
    array += b"(K\1" + shape + dtype + b"\x89" + string(rows.tobytes()) + b"tb"
    pairs = (
        (b"data", array),
        (b"labels", labels),
        (b"batch_label", string(b"training batch 1 of 5")),
        (b"filenames", names),
    )
    return b"\x80\x02}q\x01(" + b"".join(string(key) + b"q\x06" + value for key, value in pairs) + b"u."


def cifar10_files(binary: bool) -> dict[str, bytes]:
    """Return the published files' names and contents; training images are in five batches."""
    cut = [PARTS["train"][start : start + 6] for start in range(0, 30, 6)]
    batches = {f"data_batch_{number}": images for number, images in enumerate(cut, start=1)}
    files: dict[str, bytes] = {}
    for name, images in {**batches, "test_batch": PARTS["test"]}.items():
        if binary:
            labels = np.array([[image.label] for image in images], np.uint8)
            files[f"{name}.bin"] = np.concatenate([labels, rows_of(images)], axis=1).tobytes()
        else:
            files[name] = python2_batch(images)
    if binary:
        return {**files, "batches.meta.txt": "\n".join([*CLASSES, "", ""]).encode()}
    return {
        **files,
        "batches.meta": pickle.dumps({"label_names": list(CLASSES), "num_vis": 3072}, 2),
        "readme.html": b"",
    }


def cifar100_files() -> dict[str, bytes]:
    """Return files pickled by Python 3; a fine class belongs to the coarse class of its name's first letter."""
    files = {
        part: pickle.dumps(
            {
                b"data": rows_of(images),
                b"fine_labels": [image.label for image in images],
                b"coarse_labels": [image.label // 2 for image in images],
            },
            2,
        )
        for part, images in PARTS.items()
    }
    names = {"fine_label_names": list(CLASSES), "coarse_label_names": ["b or c", "d"]}
    return {**files, "meta": pickle.dumps(names, 2)}


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(parents=True)
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


def write_targz(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        add(archive, folder, b"", type=tarfile.DIRTYPE)
        for name, content in files.items():
            add(archive, f"{folder}/{name}", content)
    return path


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_mnist(root: Path, zipped: bool) -> Path:
    """Write the red channel as digits."""
    files = {}
    for part, name in (("train", "train"), ("test", "t10k")):
        images = np.stack([image.pixels_HW3[..., 0] for image in PARTS[part]])
        labels = np.array([image.label for image in PARTS[part]], np.uint8)
        for what, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx(array)
            files[f"{name}-{what}-ubyte{'.gz' * zipped}"] = gzip.compress(content) if zipped else content
    return write_files(root, files)


with_tables = pytest.mark.skipif(not find_spec("pyarrow"), reason="needs pyarrow, of the extra 'tables'")
MAKERS: dict[str, Callable[[Path], object]] = {
    "folder": write_folder,
    "list": write_list,
    "list with tabs": lambda root: write_list(root, "\t"),
    "csv": write_csv,
    "tar": lambda root: write_tar(root / "a.tar"),
    "tar with a folder around": lambda root: write_tar(root / "a.tar", "./my images/"),
    "tar of long names, pax": lambda root: write_tar(root / "a.tar", "ä" * 150 + "/" + "b" * 200 + "/"),
    "tar of long names, GNU": lambda root: write_tar(root / "a.tar", "a" * 150 + "/", tarfile.GNU_FORMAT),
    "tar of long names, ustar": lambda root: write_tar(root / "a.tar", "a" * 120 + "/", tarfile.USTAR_FORMAT),
    "zip, stored": lambda root: write_zip(root / "a.zip", zipfile.ZIP_STORED),
    "zip, deflated": lambda root: write_zip(root / "a.zip", zipfile.ZIP_DEFLATED),
    "shards": lambda root: write_shards(root / "shards"),
    "shards with json": lambda root: write_shards(root / "shards", "json"),
    "parquet": lambda root: write_parquet(root / "set"),
    "arrow": lambda root: write_arrow(root / "set"),
    "npz": lambda root: write_npz(root / "a.npz", compressed=False),
    "npz, channels first": lambda root: write_npz(root / "a.npz", compressed=False, first=True),
    "npz, compressed": lambda root: write_npz(root / "a.npz", compressed=True, names="x_{part} y_{part}"),
    "cifar-10": lambda root: write_files(root / "cifar-10-batches-py", cifar10_files(binary=False)),
    "cifar-10, packed": lambda root: write_targz(
        root / "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar10_files(binary=False)
    ),
    "cifar-10, binary": lambda root: write_files(root / "cifar-10-batches-bin", cifar10_files(binary=True)),
    "cifar-10, binary, packed": lambda root: write_targz(
        root / "c.tar.gz", "cifar-10-batches-bin", cifar10_files(binary=True)
    ),
    "cifar-100": lambda root: write_files(root / "cifar-100-python", cifar100_files()),
}


def params() -> list:
    return [pytest.param(n, marks=with_tables if n in ("parquet", "arrow") else ()) for n in MAKERS]
