"""Lists of images with masks: CSV files with a column `mask`, and text files with two paths a line."""

import os
from dataclasses import replace

from paddlemae.data.masks.folders import listed_classes
from paddlemae.data.masks.layout import MaskLayout, layout_of_files
from paddlemae.data.masks.options import MaskOptions
from paddlemae.data.masks.pairs import Pairs, UnpairedFiles
from paddlemae.data.sources.image_groups import number_groups
from paddlemae.data.sources.lists import read_pairs
from paddlemae.data.sources.splits import list_names


def open_mask_list(path: str, columns: dict[str, str], options: MaskOptions, split: str | None) -> MaskLayout:
    """Open the images that a list names with their masks.

    Args:
        columns: `root`, the folder that paths are relative to, by default the list's; of a CSV `image`, `mask`, `split`
            and `group`, its columns, where their names are others.
    Raises:
        MissingSplit, ValueError: no such split or column, rows without a mask, or files that are not there.
    """
    pairs = read_pairs(path, split, columns)
    root = os.path.expanduser(columns.get("root") or os.path.dirname(path) or ".")
    kept = [number for number, mask in enumerate(pairs.masks) if mask]
    if len(kept) < len(pairs.masks) and not options.skip_unpaired:
        lonely = [image for image, mask in zip(pairs.images, pairs.masks) if not mask]
        raise UnpairedFiles(
            f"{path!r}: {len(lonely):,} images have no mask ({list_names(lonely[:3])}); fill it in, or leave them out "
            "with ::unpaired=skip",
            Pairs((), (), tuple(lonely)),
        )
    images, masks = [pairs.images[number] for number in kept], [pairs.masks[number] for number in kept]
    groups = None if pairs.groups is None else number_groups([pairs.groups[number] for number in kept])
    if missing := [name for name in (*images, *masks) if not os.path.lexists(os.path.join(root, name))]:
        raise ValueError(
            f"{path!r}: {len(missing):,} listed files do not exist below {root!r} ({list_names(missing[:3])}); name "
            "their folder with ::root=FOLDER"
        )
    listed = listed_classes(root) if os.path.isdir(root) else None
    every = [mask for mask in pairs.every if mask]
    layout = layout_of_files(path, root, images, masks, every, listed, options)
    return replace(layout, groups=groups)
