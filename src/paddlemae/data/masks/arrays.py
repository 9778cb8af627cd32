"""NumPy arrays of images and of masks in one `.npz`: `images` and `masks`, or `train_images`, `test_masks` ..."""

from dataclasses import dataclass

from paddlemae.data.decode.limits import MAX_IMAGE_BYTES
from paddlemae.data.masks.layout import MaskLayout
from paddlemae.data.masks.mask_file import StoredMask, as_stored
from paddlemae.data.sources.arrays import IMAGE_ARRAYS, map_npz
from paddlemae.data.sources.readers import ArrayReader, file_stamp, load_once
from paddlemae.data.sources.source import BadMask
from paddlemae.data.sources.splits import files_of_split, list_names, split_of, words_of
from paddlemae.data.sources.zip import read_directory

MASK_ARRAYS = ("masks", "mask", "labels", "label", "y", "annotations")


@dataclass(frozen=True)
class ArrayMasks:
    """Masks in arrays [N, H, W] of a `.npz`, one array after the other."""

    path: str
    arrays: tuple[tuple[str, int], ...]  # name and number of masks
    stamped: str

    def __len__(self) -> int:
        return sum(count for _, count in self.arrays)

    def describe(self, i: int) -> str:
        name, number = self._place(i)
        return f"{self.path}, array {name}, mask {number}"

    def read_stored(self, i: int) -> StoredMask:
        name, number = self._place(i)
        values = load_once(map_npz, (self.path, name, MAX_IMAGE_BYTES), self.stamped)[number]
        try:
            return as_stored(values)
        except ValueError as fault:
            raise BadMask(f"mask {self.describe(i)!r} is {fault}") from fault

    def stamp(self, i: int) -> str:
        return f"{i}\0{self.stamped}"

    def _place(self, i: int) -> tuple[str, int]:
        for name, count in self.arrays:
            if i < count:
                return name, i
            i -= count
        raise IndexError(i)


def open_mask_arrays(path: str, split: str | None) -> MaskLayout:
    """Open a split of a `.npz`.

    Raises:
        MissingSplit, ValueError: no such split, no arrays of images and masks, or other numbers of them.
    """
    names = [info.filename.removesuffix(".npy") for info in read_directory(path)]
    masks = [name for name in names if words_of(name) & set(MASK_ARRAYS)]
    images = [name for name in names if words_of(name) & set(IMAGE_ARRAYS) and name not in masks]
    chosen = files_of_split(images, split, repr(path), "array")
    if len(chosen) != 1 or not masks:
        raise ValueError(
            f"{path!r} has the arrays {list_names(names)}; expected 'images' and 'masks', or one of both for each of "
            "train and test"
        )
    word = {split_of(each) for each in words_of(chosen[0])} - {None}
    partners = [name for name in masks if {split_of(each) for each in words_of(name)} - {None} == word]
    if len(partners) != 1:
        raise ValueError(f"{path!r} has {len(partners)} arrays of masks for {chosen[0]!r}; expected one")
    stamped = file_stamp(path)
    arguments = (path, chosen[0], MAX_IMAGE_BYTES)
    count = len(load_once(map_npz, arguments, stamped))
    counts = {name: len(load_once(map_npz, (path, name, MAX_IMAGE_BYTES), stamped)) for name in masks}
    if counts[partners[0]] != count:
        raise ValueError(f"{path!r} has {count:,} images in {chosen[0]!r} and {counts[partners[0]]:,} masks")
    reader = ArrayReader(path, count, map_npz, arguments, stamped)
    own = ArrayMasks(path, ((partners[0], count),), stamped)
    return MaskLayout(path, reader, own, ArrayMasks(path, tuple(counts.items()), stamped))
