"""Lists of images with masks: CSV files with a column `mask`, and text files with two paths a line."""

import os

from paddlemae.data.masks.folders import listed_classes
from paddlemae.data.masks.layout import MaskLayout, layout_of_files
from paddlemae.data.masks.options import MaskOptions
from paddlemae.data.sources.lists import read_pairs
from paddlemae.data.sources.splits import list_names


def open_mask_list(path: str, columns: dict[str, str], options: MaskOptions, split: str | None) -> MaskLayout:
    """Open the images that a list names with their masks.

    Args:
        columns: `root`, the folder that paths are relative to, by default the list's; of a CSV `image`, `mask` and
            `split`, its columns, where their names are others.
    Raises:
        MissingSplit, ValueError: no such split or column, rows without a mask, or files that are not there.
    """
    images, masks, every = read_pairs(path, split, columns)
    root = os.path.expanduser(columns.get("root") or os.path.dirname(path) or ".")
    present = [bool(mask) for mask in masks]
    if not all(present) and not options.skip_unpaired:
        lonely = [image for image, mask in zip(images, masks) if not mask]
        raise ValueError(
            f"{path!r}: {len(lonely):,} images have no mask ({list_names(lonely[:3])}); fill it in, or leave them out "
            "with ::unpaired=skip"
        )
    images = [image for image, is_there in zip(images, present) if is_there]
    masks = [mask for mask in masks if mask]
    if missing := [name for name in (*images, *masks) if not os.path.lexists(os.path.join(root, name))]:
        raise ValueError(
            f"{path!r}: {len(missing):,} listed files do not exist below {root!r} ({list_names(missing[:3])}); name "
            "their folder with ::root=FOLDER"
        )
    listed = listed_classes(root) if os.path.isdir(root) else None
    return layout_of_files(path, root, images, masks, [mask for mask in every if mask], listed, options)
