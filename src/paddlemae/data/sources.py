"""Where images come from: the embedded digits or a folder, listed once and read by index.

A source is any object with the attributes of `Source`. It reaches worker processes by pickling.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.images import EXTENSIONS, NeedOf, Picture, check_channels, read_image, read_picture
from paddlemae.data.patience import patiently
from paddlemae.data.slowness import noticed

_DIGITS_FILE = Path(__file__).with_name("digits.npz")
# First and last of each class's 500 images, in the file's order.
_DIGITS_SPLITS = {"train": (0, 400), "test": (400, 500), "fit": (0, 350), "val": (350, 400)}
_TEST_FOLDERS = ("val", "valid", "validation", "test")

_Indices = NDArray[np.int64]


class Source(Protocol):
    """Images by index, with labels where they are known."""

    @property
    def name(self) -> str:
        """For messages and logs."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """int64 [len], indices into `classes`; None when unlabelled."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; empty when unlabelled."""

    def __len__(self) -> int: ...

    def describe(self, i: int) -> str:
        """Which image this is, to a person: a path, or "digits image 17"."""

    def read(self, i: int, channels: int) -> NDArray[np.uint8]:
        """Return uint8 [H, W, channels], or raise `images.UnreadableImage`."""

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        """The same, or as much of it as is needed; `need_of` is asked once, with the whole image's size."""

    def stamp(self, i: int) -> str:
        """What changes when image i does: for a file its path, size and time of change."""


@dataclass(frozen=True, eq=False)
class DigitsSource:
    """The embedded 28 x 28 digits, in memory."""

    name: str
    images_NHW: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images_NHW)

    def describe(self, i: int) -> str:
        return f"digits image {i}"

    def read(self, i: int, channels: int) -> NDArray[np.uint8]:
        check_channels(channels)
        image_HW1 = self.images_NHW[i][..., None]
        return image_HW1 if channels == 1 else np.repeat(image_HW1, 3, axis=2)

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        image_HWC = self.read(i, channels)
        size = image_HWC.shape[:2]
        need_of(*size)
        return Picture(image_HWC, size)

    def stamp(self, i: int) -> str:
        return self.describe(i)


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files below the folder `name`, read on demand."""

    name: str
    paths: tuple[str, ...]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self, i: int) -> str:
        return self.paths[i]

    def read(self, i: int, channels: int) -> NDArray[np.uint8]:
        with noticed(self.paths[i]):
            return patiently(lambda: read_image(self.paths[i], channels), self.name)

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        with noticed(self.paths[i]):
            # a disk's faults come before the size is known, so `need_of` is still asked once
            return patiently(lambda: read_picture(self.paths[i], channels, need_of), self.name)

    def stamp(self, i: int) -> str:
        path = os.path.relpath(self.paths[i], self.name)  # so that a folder may move
        try:
            info = os.stat(self.paths[i])
        except OSError as error:  # reading it will say so again
            return f"{path}\0{error.strerror}"
        return f"{path}\0{info.st_size}\0{info.st_mtime_ns}"


@dataclass(frozen=True, eq=False)
class SubsetSource:
    """Some images of another source, in the order of `indices`."""

    name: str
    whole: Source
    indices: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def describe(self, i: int) -> str:
        return self.whole.describe(int(self.indices[i]))

    def read(self, i: int, channels: int) -> NDArray[np.uint8]:
        return self.whole.read(int(self.indices[i]), channels)

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        return self.whole.read_picture(int(self.indices[i]), channels, need_of)

    def stamp(self, i: int) -> str:
        return self.whole.stamp(int(self.indices[i]))


def open_source(spec: str, split: str | None = None, labelled: bool = False) -> Source:
    """List the images that `spec` names.

    Args:
        spec: "digits" (embedded, always labelled), or the path of a folder. A folder is searched to
            any depth for files with one of `images.EXTENSIONS`; hidden files and folders are skipped,
            a folder linked to is followed once, and the order is that of the paths' characters.
        split: for digits "train" (4000 images, also None), "test" (1000), or "fit" (3500) and "val"
            (500), which together are "train". For a folder, "train" is its subfolder train, and
            "test" the first that exists of val, valid, validation, test; if it has none of these
            five, "train" is the folder itself and "test" an error. None: the folder itself.
        labelled: labels are needed. A folder's classes are then the sorted names of its (or of its
            split's) subfolders, each holding its class's images at any depth.
    Raises:
        FileNotFoundError: no such path.
        ValueError: not a folder, an unknown split, no images, or no folder a class.
    """
    if spec == "digits":
        return _open_digits("train" if split is None else split)
    root = os.path.expanduser(spec)
    expected = f"expected a folder of images or 'digits', got {spec!r}"
    if not os.path.exists(root):
        raise FileNotFoundError(f"{expected}, which does not exist")
    if not os.path.isdir(root):
        raise ValueError(f"{expected}, which is a file; give its folder")
    return _open_folder(_split_folder(root, split), labelled)


def subset(source: Source, indices: Sequence[int] | NDArray[np.int64]) -> Source:
    """A view of the images at `indices`, in that order; labels and classes are kept."""
    return _view(source, np.asarray(indices, dtype=np.int64), f"{len(indices)} of {source.name}")


def balanced_subset(source: Source, num_images: int, seed: int) -> Source:
    """Draw `num_images` with as many of each class as of any other, in the source's order.

    A remainder goes, one image each, to the first classes of an order drawn from `seed`. When
    `num_images` is a multiple of the classes, a smaller draw with the same seed is part of a larger.

    Raises:
        ValueError: an unlabelled source, or more images than it (or one of its classes) has.
    """
    if source.labels is None:
        raise ValueError(f"a balanced subset needs labels, and {source.name} has none")
    if not 1 <= num_images <= len(source):
        raise ValueError(f"expected 1 to {len(source)} images of {source.name}, got {num_images}")
    rng = np.random.default_rng(seed)
    each, remainder = divmod(num_images, len(source.classes))
    wanted = np.full(len(source.classes), each)
    wanted[rng.permutation(len(wanted))[:remainder]] += 1
    available = np.bincount(source.labels, minlength=len(wanted))
    if (wanted > available).any():
        label = int(np.argmax(wanted > available))
        raise ValueError(
            f"class {source.classes[label]!r} of {source.name} has {available[label]} images, "
            f"but {num_images} balanced ones need {wanted[label]}; ask for fewer"
        )
    return subset(source, _draw(source.labels, wanted, rng))


def labelled_count(labels: int | str, source: Source) -> int:
    """The images that `labels` means: a number in all, a share such as "10%", or a number a class such as "5/class"."""
    if isinstance(labels, int):
        return labels
    if labels.endswith("%"):
        return round(float(labels.removesuffix("%")) / 100 * len(source))
    return int(labels.removesuffix("/class")) * len(source.classes)


def check_same_classes(train: Source, held_out: Source) -> None:
    """Raise a ValueError that names the classes which only one of the two has."""
    if train.classes != held_out.classes:
        only = sorted(set(train.classes) ^ set(held_out.classes))
        raise ValueError(
            f"training and held-out images must have the same classes; these are in one only: {', '.join(only)}"
        )


def split_off(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Split into (rest, held_out), drawn from `seed`, both in the source's order.

    `held_out` gets the rounded `fraction` of each class when the source is labelled, of all images
    otherwise.

    Raises:
        ValueError: a fraction outside 0..1, or one that leaves either part without images.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"expected a fraction between 0 and 1 to hold out, got {fraction}")
    groups = np.zeros(len(source), np.int64) if source.labels is None else source.labels
    wanted = np.floor(fraction * np.bincount(groups) + 0.5).astype(np.int64)
    if not 0 < wanted.sum() < len(source):
        raise ValueError(
            f"holding out {fraction} of {source.name} takes {wanted.sum()} of its {len(source)} images; "
            "choose a fraction that leaves images in both parts"
        )
    held_out = _draw(groups, wanted, np.random.default_rng(seed))
    rest = np.setdiff1d(np.arange(len(source)), held_out)
    return subset(source, rest), subset(source, held_out)


def _draw(groups: _Indices, wanted: _Indices, rng: np.random.Generator) -> _Indices:
    """Indices, ascending, of `wanted[g]` random members of each group g."""
    draws = [rng.permutation(np.flatnonzero(groups == g))[:count] for g, count in enumerate(wanted)]
    return np.sort(np.concatenate(draws))


def _view(source: Source, indices: NDArray[np.int64], name: str) -> Source:
    if indices.size and not 0 <= indices.min() <= indices.max() < len(source):
        raise ValueError(f"expected indices in 0..{len(source) - 1} of {source.name}")
    labels = None if source.labels is None else source.labels[indices]
    return SubsetSource(name, source, indices, labels, source.classes)


def _open_digits(split: str) -> Source:
    if split not in _DIGITS_SPLITS:
        raise ValueError(f"expected one of digits' splits {', '.join(_DIGITS_SPLITS)}, got {split!r}")
    with np.load(_DIGITS_FILE) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    digits = DigitsSource("digits", images, labels, tuple("0123456789"))
    first, last = _DIGITS_SPLITS[split]
    indices = np.concatenate([np.flatnonzero(labels == digit)[first:last] for digit in range(10)])
    return _view(digits, indices, f"digits ({split})")


def _split_folder(root: str, split: str | None) -> str:
    if split is None:
        return root
    if split not in ("train", "test"):
        raise ValueError(f"expected split 'train' or 'test' of the folder {root!r}, got {split!r}")
    present = [name for name in ("train", *_TEST_FOLDERS) if os.path.isdir(os.path.join(root, name))]
    wanted = [name for name in present if (name == "train") == (split == "train")]
    if wanted:
        return os.path.join(root, wanted[0])
    if split == "train" and not present:
        return root
    missing = "train" if split == "train" else " or ".join(_TEST_FOLDERS)
    hint = "" if split == "train" else ", or hold part of the training images out with val_fraction"
    raise ValueError(f"{root!r} has no subfolder {missing}; put the {split} images there{hint}")


def _open_folder(root: str, labelled: bool) -> FolderSource:
    files, num_others = _list_images(root)
    if not files:
        raise ValueError(
            f"no images in {root!r}: {num_others} other files seen; expected names ending in {' '.join(EXTENSIONS)}"
        )
    classes = _class_folders(root, files) if labelled else ()
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.array([label_of[file.partition("/")[0]] for file in files], np.int64) if labelled else None
    return FolderSource(root, tuple(os.path.join(root, file) for file in files), labels, classes)


def _class_folders(root: str, files: list[str]) -> tuple[str, ...]:
    """The sorted names of `root`'s subfolders, once they are known to be one a class."""
    layout = f"labels need one folder a class, as in {os.path.join(root, 'cat', '1.jpg')!r}"
    loose = [file for file in files if "/" not in file]
    if loose:
        raise ValueError(f"{layout}, but {len(loose)} images are outside any; move {loose[0]!r} and the like")
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if os.path.isdir(entry.path)]
    classes = tuple(sorted(name for name in names if not name.startswith(".")))
    if set(classes) <= {"train", *_TEST_FOLDERS}:
        raise ValueError(f"{layout}, but {root!r} holds {', '.join(classes)}; ask for split 'train' or 'test'")
    filled = {file.partition("/")[0] for file in files}
    for name in classes:
        if name not in filled:
            raise ValueError(f"{layout}, but {os.path.join(root, name)!r} has no images; fill or remove it")
    if len(classes) < 2:
        raise ValueError(f"{layout}, and two classes or more, but {root!r} has only {classes[0]!r}")
    return classes


def _list_images(root: str) -> tuple[list[str], int]:
    """Paths of the images below `root`, relative, with "/" and sorted; and the number of other files.

    Real folders are walked before links to folders, so an image has its real path where it has one.
    """
    images: list[str] = []
    num_others = 0
    folders, links, seen = [""], list[str](), set[tuple[int, int]]()
    while folders or links:
        if not folders:
            links.sort(reverse=True)
            folders.append(links.pop())
        folder = folders.pop()
        info = os.stat(os.path.join(root, folder))
        if (info.st_dev, info.st_ino) in seen:
            continue
        seen.add((info.st_dev, info.st_ino))
        for entry in _entries(os.path.join(root, folder)):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                links.append(path)
            elif _is_image(entry):
                images.append(path)
            else:
                num_others += 1
    return sorted(images), num_others


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Everything in a folder that isn't hidden."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(f"cannot list the folder {folder!r}: {error.strerror}; mend or move it") from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    """By name. A dangling link counts, so that reading it reports it; a pipe, which would hang, doesn't."""
    if os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
        return False
    if not entry.is_symlink():
        return entry.is_file()
    return os.path.isfile(entry.path) or not os.path.exists(entry.path)
