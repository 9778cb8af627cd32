"""NumPy arrays of images: `.npy`, and `.npz` with labels, as MedMNIST and Keras store them. No pickle is loaded.

Arrays that are not compressed are mapped into memory: all processes share them, and only what is read is loaded.
"""

import math
import os
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.limits import MAX_IMAGE_BYTES, check_room, room_for
from paddlemae.data.decode.multichannel import read_array_header
from paddlemae.data.sources.labels import as_labels, number_labels
from paddlemae.data.sources.readers import ArrayReader, file_stamp, load_once
from paddlemae.data.sources.source import Source
from paddlemae.data.sources.splits import choose_split, files_of_split, list_names, split_of, words_of
from paddlemae.data.sources.zip import data_offset, read_directory

IMAGE_ARRAYS, LABEL_ARRAYS = ("images", "image", "x", "data", "arr"), ("labels", "label", "y", "targets")


def open_npy(path: str, split: str | None, labelled: bool) -> Source:
    """Open the images in a `.npy` file."""
    if labelled:
        raise ValueError(f"{path!r} has no labels; save images and labels in one file: np.savez(..., images=, labels=)")
    choose_split((), split, repr(path), "array")
    stamped = file_stamp(path)
    images = load_once(map_npy, (path,), stamped)
    _check_images(images, path)
    return Source(path, ArrayReader(path, len(images), map_npy, (path,), stamped))


def open_npz(path: str, split: str | None, labelled: bool, max_image_bytes: int) -> Source:
    """Return the images in a `.npz` file: arrays `images` and `labels`, or `x_train`, `test_images` and so on."""
    names = [info.filename.removesuffix(".npy") for info in read_directory(path)]
    roles = {name: words_of(name) for name in names}
    images = [name for name in names if roles[name] & set(IMAGE_ARRAYS)]
    every, images = images, files_of_split(images, split, repr(path), "array")
    if len(images) != 1:
        problem = f"several arrays of images ({list_names(images)})" if images else "no array of images"
        raise ValueError(
            f"{path!r} has {problem}; its arrays: {list_names(names)}; expected one called images or x, or one for "
            "each of train and test"
        )
    stamped = file_stamp(path)
    arguments = (path, images[0], max_image_bytes)
    array = load_once(map_npz, arguments, stamped)
    _check_images(array, f"{path}, array {images[0]}")
    reader = ArrayReader(path, len(array), map_npz, arguments, stamped)
    if not labelled:
        return Source(path, reader)

    def labels_of(images: str) -> list[str]:
        arrays = [name for name in names if roles[name] & set(LABEL_ARRAYS) and splits[name] == splits[images]]
        if len(arrays) != 1:
            problem = f"several arrays of labels ({list_names(arrays)})" if arrays else "no array of labels"
            raise ValueError(f"{path!r} has {problem} for {images!r}; its arrays: {list_names(names)}")
        return _as_labels(map_npz(path, arrays[0], max_image_bytes), path, arrays[0])

    splits = {name: {split_of(word) for word in roles[name]} - {None} for name in names}
    labels = labels_of(images[0])
    if len(labels) != len(array):
        raise ValueError(f"{path!r} has {len(array)} images and {len(labels)} labels; expected one per image")
    trained_on = next((name for name in every if "train" in splits[name]), images[0])
    train_classes = number_labels(labels_of(trained_on), repr(path)).classes if trained_on != images[0] else ()
    return Source(path, reader, number_labels(labels, repr(path), train_classes))


def _as_labels(labels: NDArray[Any], path: str, name: str) -> list[str]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuUS":
        raise ValueError(
            f"{path!r}: expected one label per image, a number or a name, got an array {name!r} of shape "
            f"{labels.shape} and type {labels.dtype}"
        )
    return as_labels(labels.tolist(), lambda row: f"{path!r}, array {name!r}, row {row}")


def _check_images(images: NDArray[Any], where: str) -> None:
    if images.ndim not in (3, 4) or images.dtype.kind not in "iub" or not images.size:
        raise ValueError(
            f"{where!r} holds an array of shape {images.shape} and type {images.dtype}; expected [N, H, W], "
            "[N, H, W, C] or [N, C, H, W] of 8- or 16-bit integers"
        )


def map_npy(path: str) -> NDArray[Any]:
    """Return the array in a `.npy` file, mapped; damaged files and objects are a ValueError."""
    return _map_array(path, 0, path)


def map_npz(path: str, name: str, max_image_bytes: int = MAX_IMAGE_BYTES) -> NDArray[Any]:
    """Return one array of a `.npz` file: mapped, or loaded if it is compressed. Errors as `map_npy`."""
    info = next(info for info in read_directory(path) if info.filename.removesuffix(".npy") == name)
    if info.compress_type == zipfile.ZIP_STORED:
        with open(path, "rb", buffering=0) as file:
            offset = data_offset(file, info.header_offset)
        return _map_array(path, offset, f"{path}, array {name}")
    try:
        check_room(info.file_size, room_for(info.compress_size, max_image_bytes))
        with zipfile.ZipFile(path) as archive, archive.open(info) as entry:
            shape, _, dtype = read_array_header(entry)
            if dtype.itemsize * math.prod(shape) > info.file_size:
                raise ValueError("it is cut short; copy it again")
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as fault:
        raise ValueError(f"{path!r}, array {name!r}: {fault}") from fault


def _map_array(path: str, offset: int, where: str) -> NDArray[Any]:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            shape, fortran, dtype = read_array_header(file)
            start = file.tell()
        if os.path.getsize(path) < start + dtype.itemsize * math.prod(shape):
            raise ValueError("it is cut short; copy it again")
        mapped = np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
        return mapped.view(np.ndarray)
    except (ValueError, OSError) as fault:
        raise ValueError(f"{where!r}: {fault}") from fault
