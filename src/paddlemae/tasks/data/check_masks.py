"""Find what is wrong with masks: the part of `paddlemae data check` that images with masks have in addition."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.inspect.small_pictures import small_picture
from paddlemae.data.masks.overlay import draw_overlay
from paddlemae.data.masks.pairs import UnpairedFiles
from paddlemae.data.masks.survey import MaskSurvey, survey_masks
from paddlemae.data.sources import BadMask, MissingSplit, Source, open_source
from paddlemae.data.sources.splits import TEST_ONLY, VAL_ONLY
from paddlemae.data.workers import workers_for
from paddlemae.runs.contact_sheet import TILE, Block
from paddlemae.runs.progress import progress
from paddlemae.system.display_names import display_name
from paddlemae.tasks.data.splits import ALL_SPLITS, OpenedSplit

MOST_CLASSES, MOST_EXAMPLES = 20, 3  # that the text and the picture show
_SWATCH = 24  # pixels of a class's colour in the picture

FINDING_TEXTS = {
    "masks_unusable": "masks can't be used",
    "images_without_masks": "images have no mask",
    "masks_without_images": "masks have no image",
    "masks_all_ignored": "masks have ignored pixels only",
    "mask_classes_absent": "classes of the masks have no pixel in one of the splits",
}


@dataclass(frozen=True, eq=False)
class MaskPart:
    """Findings about the masks of a split.

    Args:
        name: of the split.
        source, looks: the images with masks, and what these hold; None if they can't be opened, and `fault` says why.
        lonely_images, lonely_masks: files without a partner.
    """

    name: str
    source: Source | None = None
    looks: MaskSurvey | None = None
    fault: str | None = None
    lonely_images: tuple[str, ...] = ()
    lonely_masks: tuple[str, ...] = ()

    def unusable(self) -> Iterator[str]:
        """Yield why masks can't be used."""
        if self.fault:
            yield self.fault
        yield from self.looks.faults.values() if self.looks else ()

    def absent(self) -> list[str]:
        """Return the classes without a pixel, where others have some."""
        if self.source is None or self.looks is None or not self.looks.pixels.any():
            return []
        return [name for name, count in zip(self.source.classes, self.looks.images.tolist()) if not count]


def check_parts(spec: str, split: str, *, workers: int | None, quiet: bool) -> list[MaskPart]:
    """Read every mask of a split, or of those of train, val and test that a source has.

    Args:
        spec: as `open_source` takes it.
        split: train, test (the held-out one), or all.
        workers: processes that read; None is one a core where the masks are many.
    """
    parts = []
    for one in ("train", VAL_ONLY, TEST_ONLY) if split == ALL_SPLITS else (split,):
        with contextlib.suppress(MissingSplit):
            parts.append(_check_part(spec, one, workers, quiet))
    return parts


def _check_part(spec: str, split: str, workers: int | None, quiet: bool) -> MaskPart:
    name = split.removesuffix("-only")
    lonely_images: tuple[str, ...] = ()
    lonely_masks: tuple[str, ...] = ()
    try:
        try:
            source = open_source(spec, split, masks=True)
        except UnpairedFiles as fault:
            lonely_images, lonely_masks = fault.pairs.lonely_images, fault.pairs.lonely_masks
            source = open_source(f"{spec}::unpaired=skip", split, masks=True)
    except MissingSplit:
        raise
    except ValueError as fault:
        return MaskPart(name, None, None, str(fault), lonely_images, lonely_masks)
    with progress("masks", len(source), show=not quiet) as show:
        looks = survey_masks(source, workers=workers_for(len(source), workers), on_masks=show)
    return MaskPart(name, source, looks, None, lonely_images, lonely_masks)


def splits_of_masks(parts: Sequence[MaskPart], plain: list[OpenedSplit]) -> list[OpenedSplit]:
    """Return the splits of images as those of their masks are, or `plain` where these are the same or can't be opened.

    The lists of PASCAL VOC and the JSONs of COCO name images of each split that lie in one folder.
    """
    if any(part.source is None for part in parts):
        return plain
    images = {part.name: len(part.source or ()) + len(part.lonely_images) for part in parts}
    if images == {split.name: len(split.source) for split in plain}:
        return plain
    return [
        OpenedSplit(part.name, replace(part.source, targets=None), "masks instead") for part in parts if part.source
    ]


def mask_findings(parts: Sequence[MaskPart]) -> dict[str, int]:
    """Return how many there are of each kind of `FINDING_TEXTS`."""
    return {
        "masks_unusable": len(_unusable(parts)),
        "images_without_masks": sum(len(part.lonely_images) for part in parts),
        "masks_without_images": sum(len(part.lonely_masks) for part in parts),
        "masks_all_ignored": sum(len(part.looks.all_ignored) for part in parts if part.looks),
        "mask_classes_absent": len({name for part in parts for name in part.absent()}),
    }


def mask_examples(parts: Sequence[MaskPart], finding: str) -> list[str]:
    """Return some of what a finding counts, a line each."""
    found: dict[str, Iterator[str]] = {
        "masks_unusable": iter(_unusable(parts)),
        "images_without_masks": (repr(name) for part in parts for name in part.lonely_images),
        "masks_without_images": (repr(name) for part in parts for name in part.lonely_masks),
        "masks_all_ignored": (repr(name) for part in parts for name in _all_ignored(part)),
        "mask_classes_absent": (f"{name!r} in {part.name}" for part in parts for name in part.absent()),
    }
    return list(islice(found.get(finding, iter(())), MOST_EXAMPLES))


def _unusable(parts: Sequence[MaskPart]) -> list[str]:
    """Return why masks can't be used; what keeps several splits from being opened counts once."""
    return list(dict.fromkeys(text for part in parts for text in part.unusable()))


def _all_ignored(part: MaskPart) -> list[str]:
    if part.source is None or part.looks is None:
        return []
    return [part.source.masks.describe(i) for i in part.looks.all_ignored]


def mask_lines(parts: Sequence[MaskPart]) -> list[str]:
    """Return lines of text: the pixels of each class in each split."""
    lines = []
    for part in parts:
        if part.source is None or part.looks is None:
            lines.append(f"masks      {part.name}: can't be opened")
            continue
        total = max(1, int(part.looks.pixels_NK.sum()))
        lines.append(
            f"masks      {part.name}: {len(part.source):,} of {len(part.source.classes)} classes, "
            f"{part.looks.ignored_share:.1%} of the pixels ignored"
        )
        rows = zip(part.source.classes, part.looks.pixels.tolist(), part.looks.images.tolist())
        for name, pixels, images in islice(rows, MOST_CLASSES):
            lines.append(
                f"           {display_name(name, 40)}: {pixels / total:.2%} of the pixels, in {images:,} images"
            )
        if (more := len(part.source.classes) - MOST_CLASSES) > 0:
            lines.append(f"           and {more} more classes")
    return lines


def masks_as_json(parts: Sequence[MaskPart], most: int) -> dict[str, Any]:
    """Return what was found as JSON; at most `most` files of each kind are named."""
    return {part.name: _part_as_json(part, most) for part in parts}


def _part_as_json(part: MaskPart, most: int) -> dict[str, Any]:
    content: dict[str, Any] = {
        "unusable": list(islice(part.unusable(), most)),
        "images_without_masks": list(part.lonely_images[:most]),
        "masks_without_images": list(part.lonely_masks[:most]),
    }
    if part.source is None or part.looks is None:
        return content
    rows = zip(part.source.classes, part.looks.pixels.tolist(), part.looks.images.tolist())
    return content | {
        "masks": len(part.source),
        "classes": [{"class": name, "pixels": pixels, "images": images} for name, pixels, images in rows],
        "ignored_pixels": int(part.looks.pixels_NK[:, -1].sum()),
        "all_ignored": _all_ignored(part)[:most],
    }


def mask_sections(parts: Sequence[MaskPart], channels: int) -> list[tuple[str, list[Block]]]:
    """Return the sections of a contact sheet: of each class its colour, and the images with most of it, overlaid."""
    sections = []
    for part in parts:
        blocks = list(_class_blocks(part, channels))
        blocks += [Block(text) for text in islice(part.unusable(), MOST_CLASSES)]
        if blocks:
            sections.append((f"{part.name}: masks, each class with the images that have most of it", blocks))
    return sections


def _class_blocks(part: MaskPart, channels: int) -> Iterator[Block]:
    if part.source is None or part.looks is None:
        return
    total = max(1, int(part.looks.pixels_NK.sum()))
    for number, name in enumerate(part.source.classes[:MOST_CLASSES]):
        pixels_N = part.looks.pixels_NK[:, number]
        largest = [place for place in np.argsort(-pixels_N, kind="stable")[:MOST_EXAMPLES] if pixels_N[place]]
        swatch = np.broadcast_to(part.source.masks.palette[number], (_SWATCH, _SWATCH, 3))
        shown = [_overlaid(part.source, int(place), channels) for place in largest]
        text = f"{display_name(name, 30)}: {pixels_N.sum() / total:.2%}"
        yield Block(text, [swatch, *(each for each in shown if each is not None)])


def _overlaid(source: Source, i: int, channels: int) -> NDArray[np.uint8] | None:
    """Return a small picture of an image with its mask over it; None if either went away since it was looked at."""
    try:
        return draw_overlay(small_picture(source, i, channels, TILE), source.masks.read(i), source.masks.palette)
    except (UnreadableImage, BadMask):
        return None
