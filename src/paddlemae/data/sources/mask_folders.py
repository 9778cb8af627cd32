"""Names of the folders in which images and their masks stand next to each other."""

import os
from collections.abc import Iterable, Sequence

from paddlemae.data.sources.splits import note
from paddlemae.data.sources.subfolders import holds_images, subfolders

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "photos", "leftimg8bit")
MASKS_LEFT_OUT = "the masks in"
SAMPLE_SUFFIX = ".mask"  # of the mask that stands next to its image, as in shards of a WebDataset
MASK_FOLDERS = (
    *("masks", "mask", "annotations", "annotation", "labels", "label", "gt"),
    *("segmentationclass", "gtfine", "gtcoarse"),
)


def folder_of_images(root: str) -> str:
    """Return the folder of images in a folder that has one of their masks too, which a note says; else `root`."""
    names = [name for name in subfolders(root) if name.lower() in (*IMAGE_FOLDERS, *MASK_FOLDERS)]
    folder = choose_images([name for name in names if holds_images(os.path.join(root, name))], repr(root))
    return os.path.join(root, folder) if folder else root


def choose_images(names: Iterable[str], where: str) -> str | None:
    """Return which of the folders with images next to each other has those of masks, which a note says; else None."""
    names = sorted(names)
    images = [name for name in names if name.lower() in IMAGE_FOLDERS]
    masks = [name for name in names if name.lower() in MASK_FOLDERS]
    if len(images) != 1 or not masks:
        return None
    note(f"{where}: the images are those in {images[0]!r}; {MASKS_LEFT_OUT} {masks[0]!r} are left out")
    return images[0]


def without_sample_masks(names: Sequence[str]) -> Sequence[str]:
    """Return image files without those that are the mask of another, `0001.mask.png` next to `0001.jpg`."""
    masks = [name for name in names if os.path.splitext(name)[0].endswith(SAMPLE_SUFFIX)]
    if not masks:
        return names
    chosen = set(masks)
    stems = {os.path.splitext(name)[0] for name in names if name not in chosen}
    chosen = {name for name in masks if os.path.splitext(name)[0].removesuffix(SAMPLE_SUFFIX) in stems}
    return [name for name in names if name not in chosen]
