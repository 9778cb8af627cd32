"""Turn one image and its mask into one training view, both by the same draws.

An image is scaled by a factor that is drawn, then a box of the view's size is cut out of it; where the box is larger
than the image, the rest of the view is filled: the mask with IGNORE. The box is resized straight from the image as it
is read: the image bicubic, the mask always nearest, by the centres of the pixels.

Shapes: H height, W width of the whole image and mask; h, w of the view; C channels. Masks are int16, IGNORE where
nothing counts. Boxes are (left, top, right, bottom), in pixels of the whole image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import Need, Picture
from paddlemae.data.decode.pixel_format import HasDepth, Pixels, largest_value
from paddlemae.data.sources.source import IGNORE, Mask
from paddlemae.data.views.augment import Draw, View, compute_need, resize_crop
from paddlemae.data.views.photometric import Photometric, apply_photometric, draw_photometric

CROP_TRIES = 10  # boxes that are drawn until no class fills too much of one


@dataclass(frozen=True)
class SceneView(HasDepth):
    """Settings of the training views that are made of images and their masks.

    Args:
        image_size: (height, width) of a view, pixels.
        channels: number of channels of an image and of its view.
        short_side: of an image with scale 1, pixels; None is the image's own.
        scale: smallest and largest factor on an image's size.
        max_class_share: largest share of a crop's counted pixels that one class may have; of ten tries above it, the
            one with the least stands.
        rare_crops: share of the crops that hold a pixel of a class drawn from those of the image, each as likely.
        flip, flip_vertical: mirror half of the views left to right, and top to bottom.
        rotate: turn views by 0, 90, 180 or 270 degrees, for images without up and down.
        photometric: strength of changes of colour, 0 (none) to 1.
        fill: of each channel in [0, 1], what surrounds an image that is smaller than its view.
        decode: "fast" or "exact", as of `View`.
        bits: depth of a channel, as of `View`.
    """

    image_size: tuple[int, int]
    channels: int
    short_side: int | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    rare_crops: float = 0.0
    flip: bool = True
    flip_vertical: bool = False
    rotate: bool = False
    photometric: float = 0.0
    fill: tuple[float, ...] = ()
    decode: Literal["fast", "exact"] = "fast"
    bits: Literal[8, 16] | None = None

    repeats = 1  # views of an image each time it is decoded

    def __post_init__(self) -> None:
        if min(self.image_size) < 1 or self.channels < 1:
            raise ValueError(f"expected positive image_size and channels, got {self.image_size}, {self.channels}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be [smallest, largest], above 0, got {list(self.scale)}")


@dataclass(frozen=True)
class SceneDraw:
    """The random choices of a view.

    Attributes:
        left, top: of the box, in pixels of the scaled image; negative where the image begins inside the view.
        size: (height, width) of the box there, before it is turned.
        scaled: (height, width) of the scaled image, pixels.
        turns: quarter turns against the clock.
        photometric: None changes no colour.
    """

    left: int
    top: int
    size: tuple[int, int]
    scaled: tuple[int, int]
    turns: int
    flip: bool
    flip_vertical: bool
    photometric: Photometric | None


def draw_scene(mask_HW: Mask, view: SceneView, rng: np.random.Generator) -> SceneDraw:
    """Draw a training view of an image with this mask."""
    height, width = mask_HW.shape
    factor = rng.uniform(*view.scale) * (view.short_side or min(height, width)) / min(height, width)
    scaled = max(1, round(height * factor)), max(1, round(width * factor))
    turns = int(rng.integers(4)) if view.rotate else 0
    flip, flip_vertical = (bool(rng.random() < 0.5 and wanted) for wanted in (view.flip, view.flip_vertical))
    photometric = draw_photometric(view.photometric, rng) if view.photometric else None
    size = view.image_size[::-1] if turns % 2 else view.image_size
    if view.rare_crops and rng.random() < view.rare_crops and (pixel := _draw_pixel(mask_HW, rng)):
        places = (place * whole // own for place, whole, own in zip(pixel, scaled, mask_HW.shape))
        top, left = (_draw_start_around(*each, rng) for each in zip(places, scaled, size))
        return SceneDraw(left, top, size, scaled, turns, flip, flip_vertical, photometric)
    tried: list[tuple[float, SceneDraw]] = []
    while len(tried) < CROP_TRIES:
        top, left = (_draw_start(whole - part, rng) for whole, part in zip(scaled, size))
        draw = SceneDraw(left, top, size, scaled, turns, flip, flip_vertical, photometric)
        if view.max_class_share == 1:
            return draw
        tried.append((_largest_share(_cut_mask(mask_HW, draw)), draw))
        if tried[-1][0] <= view.max_class_share:
            return draw
    return min(tried, key=lambda one: one[0])[1]


def _draw_pixel(mask_HW: Mask, rng: np.random.Generator) -> tuple[int, int] | None:
    """Return the (row, column) of a pixel of a class, both drawn; None where no pixel counts."""
    values = mask_HW.ravel()
    counts = np.bincount(values[values >= 0])
    present = np.flatnonzero(counts)
    if not len(present):
        return None
    chosen = int(rng.choice(present))
    place = int(np.flatnonzero(values == chosen)[rng.integers(counts[chosen])])
    return place // mask_HW.shape[1], place % mask_HW.shape[1]


def _draw_start_around(place: int, whole: int, part: int, rng: np.random.Generator) -> int:
    """Return where a box that holds a pixel begins, anywhere inside the image as far as that goes."""
    if part >= whole:
        return _draw_start(whole - part, rng)
    return int(rng.integers(max(0, place - part + 1), min(whole - part, place) + 1))


def _draw_start(spare: int, rng: np.random.Generator) -> int:
    """Return where a box begins: anywhere inside the image, or with the image anywhere inside the box."""
    return int(rng.integers(min(0, spare), max(0, spare) + 1))


def _largest_share(mask: Mask) -> float:
    """Return the share that the commonest class has of the counted pixels; infinity where none counts."""
    counts = np.bincount(mask[mask >= 0])
    return float(counts.max() / counts.sum()) if counts.size else math.inf


def _inside(draw: SceneDraw) -> tuple[slice, slice]:
    """Return the rows and columns of the box, before it is turned, that the image fills."""
    (height, width), (tall, wide) = draw.size, draw.scaled
    rows = slice(max(0, -draw.top), min(height, tall - draw.top))
    return rows, slice(max(0, -draw.left), min(width, wide - draw.left))


def scene_need(height: int, width: int, draw: SceneDraw, view: SceneView) -> Need:
    """Return how much of an image of this size must be decoded for a view of it."""
    rows, columns = _inside(draw)
    plain = _resize_settings(view, (rows.stop - rows.start, columns.stop - columns.start))
    return compute_need([Draw(_box_of((height, width), draw), (0, 0), False)], plain)


def _resize_settings(view: SceneView, size: tuple[int, int]) -> View:
    return View(size, view.channels, decode=view.decode, bits=view.bits)


def _box_of(size: tuple[int, ...], draw: SceneDraw) -> tuple[int, int, int, int]:
    """Return the part of the whole image, of (height, width), that fills the view, in its pixels."""
    rows, columns = _inside(draw)
    edges = []
    for part, start, whole, scaled in (
        (rows, draw.top, size[0], draw.scaled[0]),
        (columns, draw.left, size[1], draw.scaled[1]),
    ):
        first = min(whole - 1, round((start + part.start) * whole / scaled))
        edges.append((first, max(first + 1, min(whole, round((start + part.stop) * whole / scaled)))))
    (top, bottom), (left, right) = edges
    return left, top, right, bottom


def make_scene(picture: Picture, mask_HW: Mask, view: SceneView, draw: SceneDraw) -> tuple[Pixels, Mask]:
    """Make the view that was drawn. Returns uint8 or uint16 [C, h, w] and int16 [h, w]."""
    rows, columns = _inside(draw)
    size = rows.stop - rows.start, columns.stop - columns.start
    inner_HWC = resize_crop(picture, _box_of(mask_HW.shape, draw), size, _resize_settings(view, size))
    if draw.photometric:
        inner_HWC = apply_photometric(inner_HWC, draw.photometric)
    image_HWC = np.empty((*draw.size, view.channels), view.dtype)
    image_HWC[:] = np.rint(np.array(view.fill or (0.0,) * view.channels) * largest_value(image_HWC))
    image_HWC[rows, columns] = inner_HWC
    mask = np.full(draw.size, IGNORE, np.int16)
    mask[rows, columns] = _cut_mask(mask_HW, draw)
    image_HWC, mask = np.rot90(image_HWC, draw.turns), np.rot90(mask, draw.turns)
    if draw.flip:
        image_HWC, mask = image_HWC[:, ::-1], mask[:, ::-1]
    if draw.flip_vertical:
        image_HWC, mask = image_HWC[::-1], mask[::-1]
    return image_HWC.transpose(2, 0, 1), mask


def _cut_mask(mask_HW: Mask, draw: SceneDraw) -> Mask:
    """Return the part of the mask in the box, at the box's resolution."""
    rows, columns = _inside(draw)
    left, top, right, bottom = _box_of(mask_HW.shape, draw)
    ys, xs = _centres(bottom - top, rows.stop - rows.start), _centres(right - left, columns.stop - columns.start)
    return mask_HW[top + ys][:, left + xs]


def _centres(length: int, pixels: int) -> NDArray[np.int64]:
    """Return which of `length` pixels is at the centre of each of `pixels` that they are resized to."""
    return np.minimum(length - 1, ((np.arange(pixels) + 0.5) * length / pixels).astype(np.int64))
