"""The result of reading a layout of images with masks: readers of both, and facts about the classes."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.masks.class_file import ListedClass
from paddlemae.data.masks.find_classes import find_classes
from paddlemae.data.masks.image_nodata import TIFF, NodataMasks
from paddlemae.data.masks.options import MaskOptions
from paddlemae.data.masks.readers import ClassMasks, MaskFiles, RawMasks
from paddlemae.data.masks.select_classes import select_classes
from paddlemae.data.sources.readers import FileReader, Reader
from paddlemae.data.sources.source import MaskReader, MaskTargets, Source
from paddlemae.data.sources.splits import SourceNote, is_held_out
from paddlemae.data.sources.string_table import StringTable


@dataclass(frozen=True, eq=False)
class MaskLayout:
    """Images with masks as a layout stores them.

    Args:
        name: for messages.
        reader: reads the images.
        masks: reads the masks, one an image.
        every: reads the masks of all splits, which have the same classes.
        listed: the classes; None if nothing lists them.
        groups: as of `image_groups.number_groups`; None without groups.
        is_fixed: whether the layout itself says its classes, so that an option can't.
    """

    name: str
    reader: Reader
    masks: RawMasks
    every: RawMasks
    listed: Sequence[ListedClass] | None = None
    is_fixed: bool = False
    groups: tuple[NDArray[np.int64], StringTable] | None = None


def layout_of_files(
    name: str,
    root: str,
    images: Sequence[str],
    masks: Sequence[str],
    every: Sequence[str],
    listed: Sequence[ListedClass] | None,
    options: MaskOptions,
) -> MaskLayout:
    """Return the layout of image files with mask files, one each; paths are relative to `root` or absolute."""
    photos = StringTable.of(images)
    stored = MaskFiles(root, StringTable.of(masks), options.rgb, photos if options.turn_masks else None)
    return MaskLayout(
        name, FileReader(root, photos), stored, MaskFiles(root, StringTable.of(every), options.rgb), listed
    )


def make_source(layout: MaskLayout, options: MaskOptions, split: str | None) -> Source:
    """Return the source of a layout; raises as `find_classes` and `select_classes`.

    Args:
        split: of the images. Held-out ones have the classes of those to train on, so notes of these are not repeated.
    """
    listed = layout.listed if layout.is_fixed else options.classes or layout.listed
    with warnings.catch_warnings():
        if is_held_out(split):
            warnings.simplefilter("ignore", SourceNote)
        class_map = find_classes(listed, layout.every, options, repr(layout.name))
    masks: MaskReader = ClassMasks(layout.masks, class_map)
    files = layout.reader.files if class_map.ignores_nodata and isinstance(layout.reader, FileReader) else ()
    if isinstance(layout.reader, FileReader) and any(name.lower().endswith(TIFF) for name in files):
        masks = NodataMasks(masks, layout.reader.root, layout.reader.files)
    targets = MaskTargets(class_map.classes, class_map.palette, masks)
    source = Source(layout.name, layout.reader, targets, *(layout.groups or ()))
    return select_classes(source, options.select) if options.select else source
