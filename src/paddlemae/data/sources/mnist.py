"""MNIST and the like, as published: IDX files of images and of labels, plain or gzipped."""

import gzip
import math
import os
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.limits import check_room, room_for
from paddlemae.data.sources.labels import number_labels
from paddlemae.data.sources.readers import ArrayReader, file_stamp, load_once, unreadable_file
from paddlemae.data.sources.source import Source
from paddlemae.data.sources.splits import TEST_WORDS, choose_split, list_names, words_of

_IMAGES = "-images-idx3-ubyte"
_BYTES = 8  # the code of unsigned bytes


def is_idx_images(name: str) -> bool:
    """Return whether a file is named as published image files are; some unpackers replace a dash by a dot."""
    return name.lower().removesuffix(".gz").replace(".idx3", "-idx3").endswith(_IMAGES)


def open_idx(folder: str, names: Sequence[str], spec: str, split: str | None, max_image_bytes: int) -> Source:
    """Open a published set; its labels are always known.

    Args:
        names: its files of images.
        split: "train" (also None) or "test".
        max_image_bytes: memory that unpacking may take in addition to twice the file's bytes.
    """
    is_test = {name: "t10k" in name.lower() or bool(words_of(name) & set(TEST_WORDS)) for name in names}
    splits = {"test" if is_test[name] else "train" for name in names}
    chosen = choose_split(splits, split, repr(spec), "file of images to") or max(splits)
    files = sorted(name for name in names if is_test[name] == (chosen == "test"))
    if len(files) > 1:
        raise ValueError(f"{spec!r} has several files of images to {chosen}: {list_names(files)}; name one of them")
    (name,) = files
    path = os.path.join(folder, name)
    labels_path = os.path.join(folder, name.replace("images", "labels").replace("idx3", "idx1"))
    if not os.path.exists(labels_path):
        raise FileNotFoundError(f"{path!r} has no labels; put {os.path.basename(labels_path)!r} in its folder")
    stamped, arguments = file_stamp(path), (path, 3, max_image_bytes)
    images, labels = load_once(read_idx, arguments, stamped), read_idx(labels_path, 1, max_image_bytes)
    if len(images) != len(labels):
        raise ValueError(f"{path!r} has {len(images)} images and {len(labels)} labels; download both again")
    targets = number_labels([str(label) for label in labels.tolist()], repr(spec))
    return Source(path, ArrayReader(path, len(images), read_idx, arguments, stamped), targets)


def read_idx(path: str, num_axes: int, max_image_bytes: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes with `num_axes` axes, mapped if it is not gzipped; else raise a ValueError."""
    start = 4 + 4 * num_axes
    with open(path, "rb") as file:
        is_gzipped = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if is_gzipped else open(path, "rb") as file:
            shape = _shape(file.read(start), path, num_axes)
            size = math.prod(shape)
            if is_gzipped:
                check_room(size, room_for(os.path.getsize(path), max_image_bytes))
                content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as fault:
        raise unreadable_file(path, fault) from fault
    length = len(content) if is_gzipped else os.path.getsize(path) - start
    if length != size:
        raise ValueError(f"{path!r} is cut short: {length} bytes of images of shape {shape}; download it again")
    if is_gzipped:
        return np.frombuffer(content, np.uint8).reshape(shape)
    return np.memmap(path, np.uint8, "r", start, shape).view(np.ndarray)


def _shape(header: bytes, path: str, num_axes: int) -> tuple[int, ...]:
    if header[:4] != bytes((0, 0, _BYTES, num_axes)):
        raise ValueError(f"{path!r} is no IDX file of bytes with {num_axes} axes; download it again")
    return tuple(int.from_bytes(header[place : place + 4], "big") for place in range(4, 4 + 4 * num_axes, 4))
