"""Check labelled images before a training: enough classes, channels that the model takes, sides of a patch or more."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.sources import MultiLabelTargets, Source
from paddlemae.data.sources.splits import list_names
from paddlemae.data.sources.subsets import spread_over
from paddlemae.model.shape import pair

LOOKED_AT = 5


def check_classes(train: Source, held_out: Source) -> None:
    """Check that there is something to tell apart, and enough of each class to train on it and evaluate it.

    Raises:
        ValueError: training images of a single class, or a class with a single image in both sources together.
    """
    check_two_classes(train)
    counts = _class_counts(train) + _class_counts(held_out)
    if single := [name for name in train.classes if counts[name] == 1]:
        raise ValueError(
            f"{list_names(single)}: a single image of this class, which can't be trained on and evaluated; add images "
            "of it, join it with another class, or remove it"
        )


def check_two_classes(train: Source) -> None:
    """Raise a ValueError if all training images are of one class, or of the same ones."""
    if isinstance(train.targets, MultiLabelTargets) and set(train.targets.counts().tolist()) <= {0, len(train)}:
        raise ValueError(
            f"all {len(train)} images of {train.name} have the same classes, so there is nothing to learn; add images "
            "of others"
        )
    if len(names := list(+_class_counts(train))) < 2 and train.labels is not None:
        raise ValueError(
            f"a classifier needs images of two classes or more, and all {len(train)} of {train.name} are "
            f"{list_names(names)}; add a class, or pretrain on them without labels"
        )


def _class_counts(source: Source) -> Counter[str]:
    assert source.targets is not None
    return Counter(dict(zip(source.classes, source.targets.counts().tolist())))


def check_images(source: Source, shape: Mapping[str, Any], origin: str) -> None:
    """Read a few images; warn if most of them are smaller than a patch.

    Args:
        shape: of the encoder, with channels, image_size and patch_size.
        origin: what has that shape, for errors.
    Raises:
        ValueError: images of other channels, which can't be converted.
    """
    sizes, faults = [], []
    channels, (height, width) = shape["channels"], pair(shape["patch_size"])
    for i in spread_over(len(source), LOOKED_AT).tolist():
        try:
            sizes.append(source.read(i, channels).shape[:2])
        except UnreadableImage as fault:  # training counts and lists these
            faults.append(fault.reason)
    asked = f", expected {channels}"
    if not sizes and faults and all(asked in reason for reason in faults):
        there = faults[0].partition(",")[0]
        raise ValueError(
            f"images of {source.name} have {there}, and {origin} takes {channels}; set channels={there.split()[0]}, to "
            "which weights are adapted, or start from weights of as many"
        )
    small = [size for size in sizes if size[0] < height or size[1] < width]
    if 2 * len(small) > len(sizes):
        image = "x".join(map(str, pair(shape["image_size"])))
        warnings.warn(
            f"images of {small[0][0]}x{small[0][1]} pixels are smaller than a patch of {height}x{width}; they are "
            f"enlarged to {image}, so a smaller image_size and patch_size would do",
            stacklevel=3,
        )
