"""Choose a pretraining for images, a time and a speed: pure functions, documented as a table in docs/plan.md.

A "view" is an image as it is trained on once. Rates are floating-point operations a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from paddlemae.tasks.plan.data_survey import DataSurvey
from paddlemae.tasks.plan.detail import FLAT, Kept


class ModelSize(NamedTuple):
    """The size of an encoder and its decoder, and when it pays.

    Attributes:
        views, images: fewest views of a training, and fewest images, that it is chosen for.
        peak_lr: for a batch of `LR_BATCH`.
    """

    name: str
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    views: int
    images: int
    peak_lr: float


MODELS = (
    ModelSize("mini", 128, 4, 4, 96, 1, 4, 0, 0, 1e-3),
    ModelSize("narrow", 192, 6, 3, 128, 2, 4, 250_000, 500, 1e-3),
    ModelSize("tiny", 192, 12, 3, 128, 2, 4, 1_000_000, 5_000, 7.5e-4),
    ModelSize("small", 384, 12, 6, 192, 2, 6, 10_000_000, 50_000, 5e-4),
    ModelSize("base", 768, 12, 12, 512, 4, 16, 50_000_000, 500_000, 3e-4),
)
LR_BATCH = 128  # for which `peak_lr` is meant; it grows with the batch's square root

# short side in pixels -> patch size; 64 to 196 patches of a square
PATCHES = {32: 4, 48: 6, 64: 8, 96: 8, 144: 12, 192: 16, 224: 16}
LEAST_KEPT = Kept(0.85, 0.15)  # of what an image shows, that a size should keep
MOST_KEPT = Kept(1.0, 0.5)  # beyond which more pixels bring little
FEW_VIEWS, FEW_EPOCHS = 150_000, 150  # fewer are no training for images of this size
MANY_VIEWS = 1_000_000  # from which images larger than what the detail asks for are of use
SAME_RATIO = 0.04  # largest spread of width / height, relative, of images of one shape
SQUARE_RATIO = 1.1  # up to which images count as squares
LEAST_SEEN = 0.5  # of the images that centre crops show least of: below, images are stretched
FEW_PATCHES = 36  # below, fewer of them are removed
MOST_EPOCHS = 800
MOST_UPDATES_OF_FEW = 10_000  # that even a few images are trained for
UPDATES = 4_000  # that a batch is chosen to allow
WINDOW, WINDOW_PATCH = 128, 8  # pixels: of images with masks, whose small things are told apart
SCENE_SIDE, LARGEST_SCENE = 256, 2048  # short side of scenes, pixels; larger ones are maps, which keep their scale
NEAR_SCENE = 1.25  # times `SCENE_SIDE`, up to which scenes keep their size
SMALL_SIDE = 64  # images up to this short side are small: whole objects, mostly
SMALLEST_BATCH, LARGEST_BATCH, LARGEST_ACCELERATOR_BATCH = 32, 256, 512
SLOW_READING = 0.08  # share of a step from which reading ahead pays
LEAST_SAVED = 0.05  # share of the time that a packed copy must save
MOSTLY_FLAT = 0.45  # share of flat patches from which on they would be most of the loss
LEAST_UPDATES = 300  # fewer are no training at all


@dataclass(frozen=True)
class Shape:
    """The shape of what is trained.

    Attributes:
        image_size: (height, width) in pixels.
        patch_size: side in pixels.
        wanted: the short side that the images' detail asks for, and `most` the largest of use.
        scene: short side of the images that views are parts of, pixels; None where they show images as a whole.
        why_model: why it is no larger.
    """

    image_size: tuple[int, int]
    patch_size: int
    model: ModelSize
    mask_ratio: float
    channels: int
    wanted: int
    most: int
    scene: int | None = None
    why_model: str = field(default="", compare=False)

    @property
    def patches(self) -> int:
        """Return the number of patches of an image."""
        return math.prod(self.image_size) // self.patch_size**2

    @property
    def side(self) -> int:
        """Return the short side in pixels."""
        return min(self.image_size)


@dataclass(frozen=True)
class Course:
    """How long is trained, and in which batches."""

    views: int
    batch_size: int

    @property
    def updates(self) -> int:
        """Return the optimizer steps."""
        return max(1, round(self.views / self.batch_size))


@dataclass(frozen=True)
class Reading:
    """Costs of reading images, as measured on one core.

    Attributes:
        a_view: seconds to make a training view from the images as they are stored.
        cached: the same from a packed copy; None where there is to be none.
        packing: seconds to pack an image.
        room: bytes that the copy may take.
    """

    a_view: float
    cached: float | None = None
    packing: float = 0.0
    room: float = 0.0


@dataclass(frozen=True)
class Input:
    """How images reach the model.

    Attributes:
        workers: processes that read ahead.
        cached: whether a packed copy is made first.
        reason: why, in one line.
        seconds: that reading adds to a view's computing.
        start: seconds before the first step, to make the copy.
    """

    workers: int
    cached: bool
    reason: str
    seconds: float = 0.0
    start: float = 0.0


def operations(shape: Shape) -> float:
    """Return the floating-point operations of a view in pretraining: two a weight and token, forward, twice backward.

    Attention's products are counted; norms, softmax and the optimizer are not.
    """
    model, patches = shape.model, shape.patches
    visible = patches - round(patches * shape.mask_ratio) + 1
    pixels = shape.patch_size**2 * shape.channels
    encoder = model.depth * (12 * model.width**2 * visible + 2 * model.width * visible**2)
    decoder = model.decoder_depth * (
        12 * model.decoder_width**2 * (patches + 1) + 2 * model.decoder_width * (patches + 1) ** 2
    )
    ends = pixels * (model.width * visible + model.decoder_width * patches) + model.width * model.decoder_width * (
        visible
    )
    return 6.0 * (encoder + decoder + ends)


def classifier_operations(shape: Shape) -> float:
    """Return the floating-point operations of a view in fine-tuning."""
    model, tokens = shape.model, shape.patches + 1
    pixels = shape.patch_size**2 * shape.channels
    blocks = model.depth * (12 * model.width**2 * tokens + 2 * model.width * tokens**2)
    return 6.0 * (blocks + pixels * model.width * tokens)


def choose_sides(survey: DataSurvey) -> tuple[int, int]:
    """Return the short sides that the images' detail asks for: (the smallest that keeps `LEAST_KEPT`, the largest of
    use); neither is larger than the images are."""
    own = survey.short_side
    sides = [side for side in PATCHES if side <= own * 1.1] or [_fit_side(own)]
    wanted = next((side for side in sides if _keeps(survey.kept, side, LEAST_KEPT)), sides[-1])
    most = next((side for side in sides if _keeps(survey.kept, side, MOST_KEPT)), sides[-1])
    return wanted, max(wanted, most)


def _keeps(kept: Mapping[int, Kept], side: int, least: Kept) -> bool:
    nearest = max((known for known in kept if known <= side), default=None)
    if nearest is None:
        return False
    found = kept[nearest]
    return found.detail >= least.detail and found.structure >= min(least.structure, 0.99)


def _fit_side(own: float) -> int:
    """Return the side for images that are smaller than all of `PATCHES`: a multiple of 4, 8 pixels or more."""
    return max(8, 4 * round(own / 4))


def choose_shape(survey: DataSurvey, seconds: float, rate: float) -> Shape:
    """Choose image size, patch size and model.

    Of images with masks views are windows of `WINDOW` pixels. Other images are the largest, up to what the detail asks
    for, of which the time allows `FEW_VIEWS` with the smallest model; or larger ones of use, of which it allows
    `MANY_VIEWS` with the second. The model is the largest for which the time and the images suffice.

    Args:
        seconds: of training.
        rate: of this device.
    """
    if survey.masked:
        return _largest_model(survey, seconds, rate, lambda model: window_shape(survey, model))
    wanted, most = choose_sides(survey)
    sides = [side for side in PATCHES if side <= most] or [most]
    for side in reversed(sides):
        least = MODELS[0] if side <= wanted else MODELS[1]
        needed = min(FEW_VIEWS, FEW_EPOCHS * survey.images) if side <= wanted else MANY_VIEWS
        views = _views(shape_of(survey, side, least, wanted, most), seconds, rate)
        if least.images <= survey.images and views >= needed:
            break
    return _largest_model(survey, seconds, rate, lambda model: shape_of(survey, side, model, wanted, most))


def _largest_model(survey: DataSurvey, seconds: float, rate: float, shape_with: Callable[[ModelSize], Shape]) -> Shape:
    """Return the shape with the largest model that the time and the images suffice for."""
    chosen = shape_with(MODELS[0])
    for model in MODELS[1:]:
        larger = shape_with(model)
        views, name = _views(larger, seconds, rate), f"{model.width} x {model.depth}"
        if survey.images < model.images:
            return replace(chosen, why_model=f"{name} is for {model.images:,} images or more")
        if views < model.views:
            why = f"the time allows {views:,.0f} views of {name}, which is for {model.views:,} or more"
            return replace(chosen, why_model=why)
        chosen = larger
    return replace(chosen, why_model="the largest that plans know")


def _views(shape: Shape, seconds: float, rate: float) -> float:
    return seconds * rate / operations(shape)


def shape_of(survey: DataSurvey, side: int, model: ModelSize, wanted: int, most: int) -> Shape:
    """Return the shape of images of a short side: rectangular if all of them are, with the same ratio."""
    patch = patch_of(side)
    size = rectangle(survey, side, patch)
    patches = math.prod(size) // patch**2
    return Shape(size, patch, model, _mask_ratio(patches), survey.channels, wanted, most)


def _mask_ratio(patches: int) -> float:
    return 0.75 if patches >= FEW_PATCHES else 0.6


def window_shape(survey: DataSurvey, model: ModelSize) -> Shape:
    """Return the shape of square windows of images with masks."""
    scene = scene_side(survey) or int(survey.short_side)
    side = max(WINDOW_PATCH, min(WINDOW, scene // WINDOW_PATCH * WINDOW_PATCH))
    ratio = _mask_ratio((side // WINDOW_PATCH) ** 2)
    return Shape((side, side), WINDOW_PATCH, model, ratio, survey.channels, side, side, scene)


def scene_side(survey: DataSurvey) -> int | None:
    """Return the short side in pixels that images with masks are brought to; None where they keep their size."""
    return SCENE_SIDE if NEAR_SCENE * SCENE_SIDE < survey.short_side <= LARGEST_SCENE else None


def windows_of(survey: DataSurvey, shape: Shape, overlap: float) -> int:
    """Return the number of windows that cover a scene, of scenes of different sizes about the mean."""
    assert shape.scene is not None
    long = shape.scene * survey.elongation
    step = shape.side * (1 - overlap)
    usual = math.prod(1 + math.ceil(max(0.0, length - shape.side) / step) for length in (shape.scene, long))
    larger = 1.0 if scene_side(survey) else survey.pixels / (survey.height.median * survey.width.median)
    return round(usual * max(1.0, larger))


def patch_of(side: int) -> int:
    """Return the patch size for a short side."""
    return PATCHES.get(side) or (4 if side >= 16 else 2)


def rectangle(survey: DataSurvey, side: int, patch: int) -> tuple[int, int]:
    """Return (height, width), multiples of the patch: of the images' shape where they share one, else a square."""
    ratio = survey.ratio
    if ratio.high - ratio.low > SAME_RATIO * ratio.median or survey.elongation <= SQUARE_RATIO:
        return side, side
    if survey.elongation > 4:  # strips would leave few rows
        return side, side
    long = patch * round(side * survey.elongation / patch)
    return (side, long) if ratio.median > 1 else (long, side)


def choose_fit(survey: DataSurvey, shape: Shape) -> tuple[str, str]:
    """Return `fit` with its reason: "stretch" where a centre crop shows too little of one image in twenty."""
    own = shape.image_size[1] / shape.image_size[0]
    seen = min(survey.ratio.low / own, own / survey.ratio.high)
    if seen < LEAST_SEEN:
        return "stretch", f"images differ in shape: of one in twenty, a centre crop would show {seen:.0%} or less"
    return "crop", "images keep their aspect; a centre crop shows most of them"


def choose_course(
    survey: DataSurvey,
    seconds: float,
    seconds_a_view: float,
    *,
    batch_size: int | None = None,
    accelerator: bool = False,
) -> Course:
    """Choose the number of views, as many as the time allows, and the batch.

    Args:
        seconds: of training.
        seconds_a_view: as measured, with reading.
        batch_size: where it is chosen already.
    """
    affordable = seconds / seconds_a_view
    batch = batch_size or _batch(affordable, survey.images, accelerator)
    most = max(MOST_EPOCHS * survey.images, MOST_UPDATES_OF_FEW * batch)
    return Course(max(batch, int(min(affordable, most))), batch)


def _batch(views: float, images: int, accelerator: bool) -> int:
    largest = LARGEST_ACCELERATOR_BATCH if accelerator else LARGEST_BATCH
    batch = SMALLEST_BATCH
    while 2 * batch <= min(largest, images) and views / (2 * batch) >= UPDATES:
        batch *= 2
    return batch


def base_lr(shape: Shape, batch_size: int) -> float:
    """Return `base_lr`, which is meant for a batch of 256, rounded to two digits."""
    peak = shape.model.peak_lr * math.sqrt(batch_size / LR_BATCH)
    return float(f"{peak * 256 / batch_size:.2g}")


def crop_scale(survey: DataSurvey, shape: Shape) -> tuple[tuple[float, float], str]:
    """Return `crop_scale` with its reason."""
    if shape.scene:
        share = (shape.side / shape.scene) ** 2 / survey.elongation
        about = tuple(float(f"{limit:.2g}") for limit in (share / 2, min(1.0, 2 * share)))
        return (about[0], about[1]), f"crops show about as much as the windows of {shape.side} pixels of segmentation"
    if survey.short_side <= SMALL_SIDE:
        return (0.4, 1.0), f"small images ({survey.short_side:.0f} pixels) show whole objects, so crops are mild"
    if survey.short_side >= 2 * shape.side:
        return (0.2, 1.0), f"images are {survey.short_side / shape.side:.1f} times as large as their views"
    return (0.3, 1.0), "images are little larger than their views"


def norm_pix_floor(survey: DataSurvey) -> tuple[float, str]:
    """Return `norm_pix_floor` with its reason."""
    if survey.flat > MOSTLY_FLAT:
        return FLAT, f"{survey.flat:.0%} of the patches show little but noise, which would be most of the loss"
    return 0.0, "the paper's"


def crop_ratio(shape: Shape) -> tuple[float, float]:
    """Return `crop_ratio`: width / height of crops, from 3/4 to 4/3 of the image's own."""
    own = shape.image_size[1] / shape.image_size[0]
    return float(f"{own * 3 / 4:.3g}"), float(f"{own * 4 / 3:.3g}")


def choose_reading(
    reading: Reading,
    computing: float,
    views: float,
    images: int,
    copy_bytes: float,
    cpus: int,
    *,
    on_cpu: bool,
) -> Input:
    """Choose whether images are packed first, and how many processes read ahead.

    Args:
        computing: seconds a view without reading.
        views: about how many there are to be.
        images: to be packed.
        copy_bytes: what the packed copy would take.
        cpus: of this machine.
        on_cpu: the model computes on them too.
    """
    plain = _read_ahead(reading.a_view, computing, cpus, on_cpu, cached=False)
    if reading.cached is None or copy_bytes > reading.room:
        return plain
    start = images * reading.packing / cpus
    packed = replace(_read_ahead(reading.cached, computing, cpus, on_cpu, cached=True), start=start)
    saved = views * (plain.seconds - packed.seconds) - start
    return packed if saved > LEAST_SAVED * views * (computing + plain.seconds) else plain


def _read_ahead(reading: float, computing: float, cpus: int, on_cpu: bool, *, cached: bool) -> Input:
    share = reading / (reading + computing)
    what = "reading the packed copy" if cached else "reading"
    if share < SLOW_READING or cpus < 2:
        return Input(0, cached, f"{what} takes {share:.0%} of a step", reading)
    most = max(1, cpus // 2) if on_cpu else cpus - 1
    workers = max(1, min(most, math.ceil(reading / computing)))
    seconds = reading / cpus if on_cpu else max(0.0, reading / workers - computing)
    if on_cpu:  # one process can't read faster than it does
        seconds = max(seconds, reading / workers - computing)
    return Input(workers, cached, f"{what} would take {share:.0%} of a step without them", seconds)


def packed_bytes(survey: DataSurvey, shape: Shape) -> float:
    """Return about how many bytes a packed copy of all images takes."""
    short = shape.scene or max(shape.image_size) * 8 / 7
    scale = min(1.0, short / survey.short_side)
    values = survey.height.median * survey.width.median * scale**2 * survey.channels
    deep = survey.bits == 16
    return survey.images * values * (2 if deep else 1)
