"""Look at somebody's images for a plan: count all of them, and read some."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.decode.pixel_format import Pixels, convert_depth, largest_value
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.inspect.statistics import Moments, image_moments
from paddlemae.data.inspect.stored_channels import read_forms
from paddlemae.data.masks.holds_masks import holds_masks
from paddlemae.data.sources import MissingSplit, MultiLabelTargets, Source
from paddlemae.data.sources.subsets import spread_over
from paddlemae.tasks.data.check_result import class_counts
from paddlemae.tasks.data.splits import OpenedSplit, collect_notes, open_split
from paddlemae.tasks.plan.detail import Kept, flat_share, mean_kept, measure_kept, measure_patches
from paddlemae.tasks.training.class_balance import balanced_order
from paddlemae.tasks.training.labelled_splits import open_val_and_test
from paddlemae.tasks.training.mask_checks import rarest_classes
from paddlemae.tasks.training.mask_splits import open_scenes

MOST_READ = 512  # images
FEWEST_READ = 32
READ_SECONDS = 8.0  # after which no more than the fewest are read
DETAIL_READ = 64  # images whose detail is measured
LEAST_SIDE = 8  # pixels
FORMS_READ = 32  # images whose headers decide about channels
FEWEST_MASKED = 5  # images with masks, for a part to train on and one to test on
MASKS_READ = 64
GRAY_LEVELS = 2.0  # of 255: colours that differ by no more in the mean are gray


@dataclass(frozen=True)
class Spread:
    """The least, median and largest of some values, and those that 5% and 95% do not exceed."""

    least: float
    low: float
    median: float
    high: float
    largest: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> Spread:
        """Return the spread of one value or more."""
        return cls(*(float(value) for value in np.quantile(values, (0, 0.05, 0.5, 0.95, 1))))


@dataclass(frozen=True)
class MaskedImages:
    """Images with masks.

    Attributes:
        images: number of those to train on.
        val_images, test_images: numbers of those in splits of their own, to choose the best model and to evaluate on;
            None without one.
        classes: of the pixels.
        commonest: share of the pixels that are of the commonest class, in the masks that were read.
        balanced_views: of an epoch with `sampling=balanced`, over those of one without.
    """

    images: int
    val_images: int | None
    test_images: int | None
    classes: tuple[str, ...]
    commonest: float
    balanced_views: float


@dataclass(frozen=True)
class DataSurvey:
    """Facts about images that a plan depends on.

    Attributes:
        images: number of images to pretrain on, labelled or not.
        test_images: number of labelled images in a split of their own to evaluate on; None without one.
        classes: class -> number of labelled training images; empty without labels.
        labelled: number of labelled training images; an image may have several classes where `is_multi_label`.
        unlabelled: why there are no labels; None if there are.
        masked: the images with masks, where there are no labels; None without any.
        read, unreadable: numbers of images that were read for the rest, and that could not be.
        height, width, ratio: of the images in pixels; width / height.
        pixels: mean number of an image's pixels.
        channels: that a model should take: 1, 3, or the number of bands.
        is_gray: colours are stored, but are all gray.
        bits: of a value as stored: 8 or 16.
        stored: form -> number of images, of those that were read.
        mean, std: of each channel, of values in [0, 1].
        kept: short side -> what remains of an image of that size.
        flat: share of patches that show little but noise.
        open_seconds: time to list the images, which each command takes again.
        read_seconds: mean time to read one whole image, on one core.
        image_bytes: mean size of an image's pixels.
        notes: how the images were understood where that is not plain.
    """

    images: int
    test_images: int | None
    classes: Mapping[str, int]
    labelled: int
    is_multi_label: bool
    unlabelled: str | None
    read: int
    unreadable: int
    height: Spread
    width: Spread
    ratio: Spread
    pixels: float
    channels: int
    is_gray: bool
    bits: int
    stored: Mapping[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kept: Mapping[int, Kept]
    flat: float
    open_seconds: float
    read_seconds: float
    image_bytes: float
    notes: tuple[str, ...] = ()
    masked: MaskedImages | None = None

    @property
    def trains_more(self) -> bool:
        """Return whether a fine-tuning or a segmentation follows the pretraining."""
        return bool(self.classes or self.masked)

    @property
    def short_side(self) -> float:
        """Return the median of the short sides, or what comes close to it, in pixels."""
        return min(self.height.median, self.width.median)

    @property
    def elongation(self) -> float:
        """How many times longer than the short side the long one is, for the median of height / width."""
        return max(self.ratio.median, 1 / self.ratio.median)


def survey_data(spec: str, *, on_images: Callable[[int, int], None] | None = None) -> tuple[DataSurvey, Source]:
    """Count all images of `spec`, and read up to `MOST_READ`, at even distances.

    Args:
        spec: as `open_source` takes it; the training split is planned for.
        on_images: called with (images read so far, how many are to be read).
    Returns:
        what was found, and the training images.
    Raises:
        ValueError: fewer than two images, images of less than `LEAST_SIDE` pixels, or a class with one image only.
        FileNotFoundError: no such path.
        DataFault: none of those that were tried can be read.
    """
    began = time.perf_counter()
    with collect_notes() as notes:
        train = open_split(spec, "train", "train", multi_label=True)
        test = _open_test(spec)
    with collect_notes() as notes_on_masks:
        masked, fault = (None, None) if train.unlabelled is None else _open_masked(spec)
    if fault:
        notes.append(f"the masks can't be used: {fault}")
    open_seconds = time.perf_counter() - began
    source = train.source
    if len(source) < 2:
        raise ValueError(f"{spec} has one image; a training needs at least two, and is of use from some dozens on")
    is_labelled = train.unlabelled is None
    classes = class_counts(train) if is_labelled else {}
    has_test = test is not None and test.unlabelled is None
    if is_labelled and not has_test:
        _check_classes(classes, spec)
    found = _read_some(source, spread_over(len(source), MOST_READ), on_images)
    height, width = found["height"].median, found["width"].median
    if min(height, width) < LEAST_SIDE:
        raise ValueError(
            f"images of {spec} have {height:.0f} x {width:.0f} pixels, which are too few for patches; they need "
            f"{LEAST_SIDE} x {LEAST_SIDE} at least"
        )
    return (
        DataSurvey(
            images=len(source),
            test_images=len(test.source) if test is not None and has_test else None,
            classes=classes,
            labelled=0 if source.targets is None else int(source.targets.known.sum()),
            is_multi_label=isinstance(source.targets, MultiLabelTargets),
            unlabelled=train.unlabelled,
            open_seconds=open_seconds,
            notes=tuple(notes_on_masks if masked else notes),
            masked=masked,
            **found,
        ),
        source,
    )


def _open_test(spec: str) -> OpenedSplit | None:
    try:
        return open_split(spec, "test", "test", multi_label=True)
    except (MissingSplit, ValueError):
        return None


def _open_masked(spec: str) -> tuple[MaskedImages | None, str | None]:
    """Return the images with masks, if there are any, and why they can't be used, if they can't."""
    if not holds_masks(spec):
        return None, None
    try:
        train = open_scenes(spec, "train")
        if len(train) < FEWEST_MASKED:
            return None, f"{len(train)} images have one, and {FEWEST_MASKED} are needed"
        try:
            val, test = open_val_and_test(spec, open_scenes)
        except MissingSplit:
            val, test = None, None
        of_val, of_test = (None if part is None else len(part) for part in (val, test))
        return MaskedImages(len(train), of_val, of_test, tuple(train.classes), *_pixel_shares(train)), None
    except ValueError as fault:
        return None, str(fault)


def _pixel_shares(source: Source) -> tuple[float, float]:
    """Read some masks; return `commonest` and `balanced_views` of `MaskedImages`."""
    masks = (source.masks.read(i) for i in spread_over(len(source), MASKS_READ).tolist())
    counts_NK = np.stack([np.bincount(mask[mask >= 0], minlength=len(source.classes)) for mask in masks])
    total = counts_NK.sum(axis=0)
    views = len(balanced_order(rarest_classes(counts_NK), seed=0))
    return float(total.max() / max(1, total.sum())), views / len(counts_NK)


def _check_classes(classes: Mapping[str, int], spec: str) -> None:
    if single := [name for name, count in classes.items() if count == 1]:
        raise ValueError(
            f"class {single[0]!r} of {spec} has one image, so none is left to evaluate on; add images to it, or leave "
            "that class out"
        )


class _Sums:
    """Measurements of single images."""

    def __init__(self) -> None:
        self.moments: list[Moments] = []
        self.sizes: list[tuple[int, int]] = []
        self.kept: list[dict[int, Kept]] = []
        self.patches: list[NDArray[np.float32]] = []
        self.bytes = 0
        self.colourful = False


def _read_some(
    source: Source, chosen: NDArray[np.int64], on_images: Callable[[int, int], None] | None
) -> dict[str, Any]:
    channels, bits, forms = read_forms(source, chosen[spread_over(len(chosen), FORMS_READ)].tolist())
    sums, unreadable, began = _Sums(), 0, time.perf_counter()
    reading = 0.0
    for done, i in enumerate(_in_even_turns(chosen).tolist(), start=1):
        start = time.perf_counter()
        try:
            pixels = convert_depth(source.read(i, channels), bits)
        except UnreadableImage as fault:
            unreadable, first = unreadable + 1, fault
            continue
        finally:
            reading += time.perf_counter() - start
        _add(sums, pixels)
        if on_images:
            on_images(done, len(chosen))
        if done >= FEWEST_READ and time.perf_counter() - began > READ_SECONDS:
            break
    if not sums.sizes:
        raise DataFault(f"none of {unreadable} images of {source.name} can be read; fix or replace them: {first}")
    return _describe(sums, channels, bits, forms, unreadable, reading)


def _describe(
    sums: _Sums, channels: int, bits: int, forms: Counter[str], unreadable: int, reading: float
) -> dict[str, Any]:
    read = len(sums.sizes)
    mean, std = _statistics(sums.moments)
    is_gray = channels == 3 and not sums.colourful
    if is_gray:
        mean, std = mean[:1], std[:1]
    heights, widths = np.array(sums.sizes, float).T
    return dict(
        read=read,
        unreadable=unreadable,
        height=Spread.of(heights),
        width=Spread.of(widths),
        ratio=Spread.of(widths / heights),
        pixels=float((heights * widths).mean()),
        channels=1 if is_gray else channels,
        is_gray=is_gray,
        bits=bits,
        stored=dict(forms.most_common()),
        mean=mean,
        std=std,
        kept=mean_kept(sums.kept),
        flat=flat_share(sums.patches),
        read_seconds=reading / (read + unreadable),
        image_bytes=sums.bytes / read,
    )


def _in_even_turns(chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the chosen images in an order of which every beginning is spread over all of them."""
    return np.random.default_rng(0).permutation(chosen)


def _add(sums: _Sums, pixels_HWC: Pixels) -> None:
    sums.moments.append(image_moments(pixels_HWC))
    sums.sizes.append((pixels_HWC.shape[0], pixels_HWC.shape[1]))
    if len(sums.kept) < DETAIL_READ:
        sums.kept.append(measure_kept(pixels_HWC))
        sums.patches.append(measure_patches(pixels_HWC))
    sums.bytes += pixels_HWC.nbytes
    if pixels_HWC.shape[2] == 3 and not sums.colourful:
        values = pixels_HWC[:: max(1, pixels_HWC.shape[0] // 64)].astype(np.float32)
        apart = float(np.ptp(values, axis=2).mean())
        sums.colourful = apart > GRAY_LEVELS * largest_value(pixels_HWC) / 255


def _statistics(moments: list[Moments]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, std) of each channel."""
    total = moments[0]
    for each in moments[1:]:
        total = total + each
    return _six_digits(total.mean), _six_digits(np.sqrt(total.deviations / total.weight))


def _six_digits(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values.tolist())
