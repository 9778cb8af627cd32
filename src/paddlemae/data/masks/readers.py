"""Read masks of files: their stored values, and through a class map the classes of their pixels."""

import os
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from paddlemae.data.decode.orientation import read_orientation, turn_upright
from paddlemae.data.decode.pillow import open_with_pillow
from paddlemae.data.masks.class_map import ClassMap
from paddlemae.data.masks.colours import rgb_to_ids
from paddlemae.data.masks.image_nodata import NodataMasks
from paddlemae.data.masks.mask_file import StoredMask, read_mask_file
from paddlemae.data.sources.readers import file_stamp
from paddlemae.data.sources.source import Mask, MaskReader, SubsetMasks
from paddlemae.data.sources.string_table import StringTable


class RawMasks(Protocol):
    """Masks by index, as they are stored."""

    def __len__(self) -> int: ...

    def describe(self, i: int) -> str: ...

    def read_stored(self, i: int) -> StoredMask: ...

    def stamp(self, i: int) -> str: ...


@dataclass(frozen=True, eq=False)
class MaskFiles:
    """Masks in files of their own.

    Args:
        root: the folder that is away when the masks are.
        files: paths, relative to `root` or absolute.
        rgb: what masks saved as RGB were, as of `MaskOptions`.
        photos: image files, one a mask, whose EXIF rotation masks still need; None if they are upright.
    """

    root: str
    files: StringTable
    rgb: Literal["gray", "voc"] | None = None
    photos: StringTable | None = None

    def __len__(self) -> int:
        return len(self.files)

    def describe(self, i: int) -> str:
        return os.path.join(self.root, self.files[i])

    def read_stored(self, i: int) -> StoredMask:
        stored = read_mask_file(self.describe(i), self.root)
        if stored.is_colour and self.rgb:
            stored = StoredMask(rgb_to_ids(stored.values, self.rgb, self.describe(i)))
        if self.photos is not None:
            turned = turn_upright(stored.values, _orientation(os.path.join(self.root, self.photos[i])))
            stored = StoredMask(np.ascontiguousarray(turned), stored.palette, stored.nodata)
        return stored

    def stamp(self, i: int) -> str:
        return f"{self.files[i]}\0{self.rgb}\0{file_stamp(self.describe(i))}"


def _orientation(photo: str) -> int:
    try:
        with open(photo, "rb") as file, open_with_pillow(file) as image:
            return read_orientation(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning):
        return 1  # reading the photo says what is wrong with it


def mask_file_of(reader: MaskReader, i: int) -> str | None:
    """Return the path of mask i's own file; None where it is part of another file, or drawn."""
    if isinstance(reader, SubsetMasks):
        return mask_file_of(reader.whole, int(reader.indices[i]))
    if isinstance(reader, NodataMasks):
        return mask_file_of(reader.whole, i)
    if isinstance(reader, ClassMasks) and isinstance(reader.stored, MaskFiles):
        return reader.describe(i)
    return None


@dataclass(frozen=True, eq=False)
class ClassMasks:
    """Masks whose values a class map turns to classes."""

    stored: RawMasks
    class_map: ClassMap

    def __len__(self) -> int:
        return len(self.stored)

    def describe(self, i: int) -> str:
        return self.stored.describe(i)

    def read(self, i: int) -> Mask:
        return self.class_map.apply(self.stored.read_stored(i), self.describe(i))

    def stamp(self, i: int) -> str:
        return self.stored.stamp(i)
