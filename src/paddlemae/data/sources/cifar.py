"""CIFAR-10 and CIFAR-100 as published: the python and the binary version, as `.tar.gz` or unpacked.

Images are in the order of the files; labels, always known, are named as the set names them, CIFAR-100's by its fine or
coarse classes. The python version's pickles are read, not run.
"""

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.limits import LimitedReader, room_for
from paddlemae.data.sources.cifar_pickle import read_pickle
from paddlemae.data.sources.labels import as_labels
from paddlemae.data.sources.readers import ArrayReader, file_stamp, load_once, unreadable_file
from paddlemae.data.sources.source import ClassTargets, Source
from paddlemae.data.sources.splits import choose_split

_SIDE, _CHANNELS = 32, 3
_PIXELS = _CHANNELS * _SIDE * _SIDE
_UNPACK: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_FIRST_BYTES = 1 << 20  # of an archive, in which its first entry is named


@dataclass(frozen=True)
class _Version:
    """Layout of one published version.

    Args:
        splits: files of each split, in their order.
        names: of class names; for each kind of label the file that has them, and the key in it.
        labels: for each kind of label its key in a pickled batch, or its place in a binary record.
    """

    splits: dict[str, tuple[str, ...]]
    names: dict[str, tuple[str, str]]
    labels: dict[str, Any]
    is_binary: bool

    @property
    def files(self) -> set[str]:
        return {file for files in self.splits.values() for file in files} | {file for file, _ in self.names.values()}


def _batches(ending: str) -> dict[str, tuple[str, ...]]:
    train = tuple(f"data_batch_{number}{ending}" for number in range(1, 6))
    return {"train": train, "test": (f"test_batch{ending}",)}


_VERSIONS = {
    "cifar-10-batches-py": _Version(
        _batches(""), {"label": ("batches.meta", "label_names")}, {"label": "labels"}, False
    ),
    "cifar-10-batches-bin": _Version(_batches(".bin"), {"label": ("batches.meta.txt", "")}, {"label": 0}, True),
    "cifar-100-python": _Version(
        {"train": ("train",), "test": ("test",)},
        {"fine": ("meta", "fine_label_names"), "coarse": ("meta", "coarse_label_names")},
        {"fine": "fine_labels", "coarse": "coarse_labels"},
        False,
    ),
    "cifar-100-binary": _Version(
        {"train": ("train.bin",), "test": ("test.bin",)},
        {"fine": ("fine_label_names.txt", ""), "coarse": ("coarse_label_names.txt", "")},
        {"coarse": 0, "fine": 1},
        True,
    ),
}


def version_of_folder(files: Collection[str]) -> str | None:
    """Return the version that a folder with these files holds."""
    return next((name for name, version in _VERSIONS.items() if version.files <= set(files)), None)


def version_of_archive(path: str) -> str | None:
    """Return the version in a compressed tar, by the folder that its first entry is in."""
    try:
        with _open_unpacked(path) as file:
            head = cast(Any, LimitedReader(file, _FIRST_BYTES))
            with tarfile.open(fileobj=head, mode="r|", bufsize=512) as archive:
                first = archive.next()
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        return None
    folder = first.name.removeprefix("./").partition("/")[0] if first else ""
    return folder if folder in _VERSIONS else None


def _open_unpacked(path: str) -> IO[bytes]:
    """Open a compressed file for reading what was compressed."""
    with open(path, "rb") as file:
        start = file.read(6)
    unpack = next((unpack for magic, unpack in _UNPACK.items() if start.startswith(magic)), open)
    return cast(IO[bytes], unpack(path, "rb"))


def open_cifar(path: str, name: str, split: str | None, options: dict[str, str], max_image_bytes: int) -> Source:
    """Open a split of a published set.

    Args:
        path: its folder or archive.
        name: its version's, as `version_of_folder` and `version_of_archive` say.
        split: "train" (also None) or "test".
        options: `label`, "fine" (the default) or "coarse", for CIFAR-100.
    Raises:
        ValueError: damaged or incomplete files.
    """
    version = _VERSIONS[name]
    kind = options.get("label", next(iter(version.names)))
    if set(options) - {"label"} or kind not in version.labels:
        raise ValueError(f"{path!r} takes label={' or label='.join(version.names)} only, got {options}")
    chosen = choose_split(version.splits, split or "train", repr(path), "files to")
    assert chosen is not None
    files = [os.path.join(path, file) for file in version.splits[chosen]] if os.path.isdir(path) else [path]
    stamped = "\0".join(map(file_stamp, files))
    arguments = (path, name, chosen, max_image_bytes, stamped)
    content = load_once(_read, arguments)
    labels, classes = content.labels[kind], content.classes[kind]
    if labels.size and not 0 <= labels.min() <= labels.max() < len(classes):
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"{path!r} is damaged: label {wrong}, but {len(classes)} classes; download it again")
    shown = f"{path} ({chosen})"
    return Source(
        shown, ArrayReader(shown, len(labels), _load_pixels, arguments, stamped), ClassTargets(labels, classes)
    )


@dataclass(frozen=True, eq=False)
class _Split:
    pixels_NCHW: NDArray[np.uint8]
    labels: dict[str, NDArray[np.int64]]
    classes: dict[str, tuple[str, ...]]


def _load_pixels(*arguments: Any) -> NDArray[np.uint8]:
    return load_once(_read, arguments).pixels_NCHW


def _read(path: str, name: str, split: str, max_image_bytes: int, stamped: str) -> _Split:
    version = _VERSIONS[name]
    files = {*version.splits[split], *(file for file, _ in version.names.values())}
    try:
        contents = dict(_contents(path, files, max_image_bytes))
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as fault:
        raise unreadable_file(path, fault) from fault
    if missing := sorted(files - set(contents)):
        raise ValueError(f"{path!r} lacks {', '.join(missing)}; download it again")
    read = _read_binary if version.is_binary else _read_pickled
    batches = [read(contents[file], version, f"{path}, {file}") for file in version.splits[split]]
    pixels = np.concatenate([batch[0] for batch in batches])
    labels = {kind: np.concatenate([batch[1][kind] for batch in batches]) for kind in version.labels}
    classes = {}
    for kind, (file, key) in version.names.items():
        text = contents[file]
        names = text.decode().split() if version.is_binary else read_pickle(text, f"{path}, {file}").get(key)
        if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
            raise ValueError(f"{path}, {file}: no list of class names; download it again")
        classes[kind] = tuple(names)
    return _Split(pixels.reshape(-1, _CHANNELS, _SIDE, _SIDE), labels, classes)


def _contents(path: str, names: Collection[str], max_image_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the named files of a folder or of a compressed tar."""
    if os.path.isdir(path):
        for name in names:
            if os.path.isfile(file_path := os.path.join(path, name)):
                with open(file_path, "rb") as file:
                    yield name, file.read()
        return
    room = room_for(os.path.getsize(path), max_image_bytes)
    with (
        _open_unpacked(path) as unpacked,
        tarfile.open(fileobj=cast(Any, LimitedReader(unpacked, room)), mode="r|") as archive,
    ):
        for entry in archive:
            if entry.isfile() and (name := os.path.basename(entry.name)) in names:
                content = archive.extractfile(entry)
                assert content is not None
                yield name, content.read()


_Batch = tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]


def _read_pickled(content: bytes, version: _Version, where: str) -> _Batch:
    batch = read_pickle(content, where)
    pixels = batch.get("data")
    labels = {kind: _whole_numbers(batch.get(key, ()), f"{where}, {key}") for kind, key in version.labels.items()}
    if not isinstance(pixels, np.ndarray) or pixels.shape[1:] != (_PIXELS,) or pixels.dtype != np.uint8:
        raise ValueError(f"{where}: no images of {_SIDE} x {_SIDE} pixels; download it again")
    if any(len(numbers) != len(pixels) for numbers in labels.values()):
        raise ValueError(f"{where}: not as many labels as images; download it again")
    return pixels, labels


def _whole_numbers(values: Any, where: str) -> NDArray[np.int64]:
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(values, list | tuple):
        raise ValueError(f"{where}: no list of labels; download it again")
    texts = as_labels(values, lambda row: f"{where}, row {row}")
    return np.array([int(text) if text.isdigit() and len(text) < 5 else -1 for text in texts], np.int64)


def _read_binary(content: bytes, version: _Version, where: str) -> _Batch:
    front = len(version.labels)
    if not content or len(content) % (front + _PIXELS):
        raise ValueError(f"{where} is cut short: {len(content)} bytes hold no whole images; download it again")
    records = np.frombuffer(content, np.uint8).reshape(-1, front + _PIXELS)
    labels = {kind: records[:, place].astype(np.int64) for kind, place in version.labels.items()}
    return records[:, front:], labels
