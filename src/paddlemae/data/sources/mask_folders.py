"""Names of the folders in which images and their masks stand next to each other."""

import os

from paddlemae.data.sources.splits import note
from paddlemae.data.sources.subfolders import holds_images, subfolders

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "photos")
MASK_FOLDERS = ("masks", "mask", "annotations", "annotation", "labels", "label", "segmentationclass", "gt")


def folder_of_images(root: str) -> str:
    """Return the folder of images in a folder that has one of their masks too, which a note says; else `root`."""
    names = sorted(subfolders(root))
    images = [name for name in names if name.lower() in IMAGE_FOLDERS and holds_images(os.path.join(root, name))]
    masks = [name for name in names if name.lower() in MASK_FOLDERS and holds_images(os.path.join(root, name))]
    if len(images) != 1 or not masks:
        return root
    note(f"{root!r}: the images are those in {images[0]!r}; the masks in {masks[0]!r} are left out")
    return os.path.join(root, images[0])
