"""Images that a program hands over: pictures of Pillow, arrays, paths, or anything that `open_source` takes.

They are read by the rules of `data.decode.images`, so that an image gives the same pixels as its file.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paddlemae.data.decode.images import (
    ARRAY_EXTENSION,
    EXTENSIONS,
    NeedOf,
    Picture,
    UnreadableImage,
    has_ending,
    read_content,
    read_picture,
)
from paddlemae.data.decode.limits import MAX_IMAGE_BYTES, room_for
from paddlemae.data.decode.pillow import read_pixels
from paddlemae.data.decode.pixel_format import as_channels, as_HWC, check_channels
from paddlemae.data.sources.open import open_source
from paddlemae.data.sources.readers import file_stamp
from paddlemae.data.sources.source import Source

OneImage = str | os.PathLike[str] | Image.Image | NDArray[Any]
Images = OneImage | Sequence[OneImage] | Source
_EXPECTED = "a path, a picture of Pillow, a uint8 or uint16 array, a list of these, or a source of images"


@dataclass(frozen=True, eq=False)
class InMemoryReader:
    """Images of a program: paths, Pillow's pictures, arrays [H, W], [H, W, C] or [C, H, W]."""

    images: tuple[OneImage, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def all_files(self) -> bool:
        """Return whether no image has to be sent to the process that reads it."""
        return all(isinstance(image, str | os.PathLike) for image in self.images)

    def describe(self, i: int) -> str:
        image = self.images[i]
        return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {i}"

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        image = self.images[i]
        if isinstance(image, str | os.PathLike):
            return read_picture(image, channels, need_of)
        check_channels(channels)
        try:
            if isinstance(image, Image.Image):
                pixels = read_pixels(image, channels)
            else:
                pixels = as_channels(as_HWC(image, channels), channels)
        except (ValueError, OSError, SyntaxError) as fault:  # a picture of Pillow reads its file only now
            raise UnreadableImage(self.describe(i), " ".join(str(fault).split())) from fault
        need_of(*pixels.shape[:2])
        return Picture(pixels, pixels.shape[:2])

    def stored(self, i: int) -> bytes | NDArray[Any]:
        image = self.images[i]
        return read_content(image) if isinstance(image, str | os.PathLike) else np.asarray(image)

    def room(self, i: int) -> int:
        image = self.images[i]
        return room_for(os.path.getsize(image) if isinstance(image, str | os.PathLike) else 0, MAX_IMAGE_BYTES)

    def stamp(self, i: int) -> str:
        image = self.images[i]
        return f"{image}\0{file_stamp(os.fspath(image))}" if isinstance(image, str | os.PathLike) else f"{i}"


def as_source(images: Images) -> Source:
    """Return a source of the images that a program passes in any accepted form.

    Args:
        images: a file; a source, or its name as in `open_source`; a picture of Pillow; an array of one image ([H, W],
            [H, W, C] or [C, H, W]) or of several ([N, H, W, C] or [N, C, H, W]); a list of files, pictures and arrays
            of one image.
    Raises:
        FileNotFoundError, ValueError: no such source, or something else.
    """
    if isinstance(images, str | os.PathLike):
        path = os.path.expanduser(os.fspath(images))
        if has_ending(path, (*EXTENSIONS, ARRAY_EXTENSION)) and os.path.isfile(path) and not _holds_many(path):
            return _given((path,))
        return open_source(os.fspath(images))
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    elif isinstance(images, Image.Image | np.ndarray):
        images = [images]
    elif isinstance(images, Source):
        return images
    if not isinstance(images, list | tuple):
        raise ValueError(f"expected {_EXPECTED}; got {type(images).__name__}")
    strangers = [each for each in images if not isinstance(each, str | os.PathLike | Image.Image | np.ndarray)]
    if strangers or not images:
        raise ValueError(f"expected {_EXPECTED}; got {type(strangers[0]).__name__ if strangers else 'none'} in a list")
    return _given(tuple(os.path.expanduser(each) if isinstance(each, str) else each for each in images))


def _given(images: tuple[OneImage, ...]) -> Source:
    return Source("the given images", InMemoryReader(images))


def _holds_many(path: str) -> bool:
    """Return whether a `.npy` file is an array of several images."""
    if not has_ending(path, (ARRAY_EXTENSION,)):
        return False
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).ndim == 4
    except (ValueError, OSError, EOFError):
        return False  # reading it will say what is wrong
