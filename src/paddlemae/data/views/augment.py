"""Turn one image into one view for training or evaluation.

Shapes: H height, W width of the whole image; h, w of a smaller copy; C channels. Images are uint8 or uint16,
views as deep as their settings say; boxes are Pillow's (left, top, right, bottom), in pixels of the whole image.

A random view is drawn from the image's size alone, so that a JPEG need not be decoded larger than its crop needs.
With decode "fast" the crop is then resized by cykooz_resizer: Pillow's antialiased bicubic filter with the
processor's vector instructions, which rounds differently. "exact" decodes every pixel and resizes with Pillow, and so
does every evaluation view.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image

from paddlemae.data.decode.images import REDUCTIONS, Need, Picture
from paddlemae.data.decode.pixel_format import HasDepth, Pixels, convert_depth, largest_value
from paddlemae.data.views.limits import check_crops
from paddlemae.data.views.randaugment import Operations, RandAugment, apply_operations, draw_operations

Box = tuple[int, int, int, int]
_FloatBox = tuple[float, float, float, float]

# The Catmull-Rom spline is the bicubic filter with Pillow's a = -0.5; its support is 2 pixels of the smaller image.
_BICUBIC = ResizeAlg.convolution(FilterType.catmull_rom)
_SUPPORT = 2
_PIXEL_TYPES = {
    np.dtype(np.uint8): {1: PixelType.U8, 2: PixelType.U8x2, 3: PixelType.U8x3, 4: PixelType.U8x4},
    np.dtype(np.uint16): {1: PixelType.U16, 2: PixelType.U16x2, 3: PixelType.U16x3, 4: PixelType.U16x4},
}
_AT_ONCE = 4  # channels that the fast resizer takes; more are resized in turns
_RESIZER = Resizer()
_OFF_CENTRE = 1e-6  # pixels; boxes and so the centres of their pixels are at larger distances, or equal

# A longer image is cut to this many times its short side before it is resized to cover a view: the rest
# would only be cropped away, and a hair-thin panorama would fill the memory first.
MAX_ASPECT = 32
CROP_TRIES = 10  # random rectangles that are drawn until one fits


@dataclass(frozen=True)
class View(HasDepth):
    """Settings of the views that are computed from images.

    Args:
        image_size: (height, width) of a view, pixels.
        channels: number of channels of an image and of its view.
        crop_scale: smallest and largest area of a random crop, as a share of the image; None trains
            on the evaluation view.
        crop_ratio: smallest and largest width / height of a random crop.
        flip, flip_vertical: mirror half of the training views left to right, and top to bottom.
        rotate: turn training views by 0, 90, 180 or 270 degrees.
        shift: instead of a crop, move the training view by up to this many pixels each way and fill
            with zeros: for digits and other tiny images.
        fit: how an image of another shape becomes a view: "crop" keeps its aspect and cuts off what is beyond the
            centre; "stretch" changes its aspect and shows all of it, and `crop_ratio` is then relative to the image's.
        eval_crop_ratio: side of the evaluation view's centre crop, as a share of the resized image;
            with 1, images of the right size stay unchanged.
        decode: "fast" decodes only what random crops need and resizes them faster, "exact" as Pillow does both.
        repeats: number of training views of an image each time it is decoded.
        randaugment: operations on the training views, applied last; None applies none.
        bits: depth of a channel in a view, 8 or 16; images of another depth are converted, from 16 to 8 bits by
            dropping the low byte. None: 8 for 1, 3 and 4 channels, 16 for any other number.
    """

    image_size: tuple[int, int]
    channels: int
    crop_scale: tuple[float, float] | None = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    flip_vertical: bool = False
    rotate: bool = False
    shift: int = 0
    fit: Literal["crop", "stretch"] = "crop"
    eval_crop_ratio: float = 0.875
    decode: Literal["fast", "exact"] = "fast"
    repeats: int = 1
    randaugment: RandAugment | None = None
    bits: Literal[8, 16] | None = None

    def __post_init__(self) -> None:
        if min(self.image_size) < 1 or self.channels < 1:
            raise ValueError(f"expected positive image_size and channels, got {self.image_size}, {self.channels}")
        check_crops(self.crop_scale, self.crop_ratio, self.shift, self.eval_crop_ratio)
        if not 0 <= self.shift < min(self.image_size):
            raise ValueError(f"expected a shift in 0..{min(self.image_size) - 1} pixels, got {self.shift}")
        if self.fit not in ("crop", "stretch"):
            raise ValueError(f"expected fit 'crop' or 'stretch', got {self.fit!r}")
        if self.decode not in ("fast", "exact"):
            raise ValueError(f"expected decode 'fast' or 'exact', got {self.decode!r}")
        if self.repeats < 1:
            raise ValueError(f"expected repeats of 1 or more, got {self.repeats}")
        if self.bits not in (8, 16, None):
            raise ValueError(f"expected 8 or 16 bits, got {self.bits}")
        if self.randaugment and (self.channels not in (1, 3) or self.depth != 8):
            raise ValueError(
                f"RandAugment is for images of 1 or 3 channels and 8 bits, not {self.channels} and {self.depth}; "
                "set randaugment=0"
            )


@dataclass(frozen=True)
class Draw:
    """The random choices of a training view.

    Attributes:
        box: to crop; None: the evaluation view.
        turns: quarter turns against the clock, after the flips.
    """

    box: Box | None
    shift: tuple[int, int]
    flip: bool
    operations: Operations = ()
    flip_vertical: bool = False
    turns: int = 0


def draw_view(height: int, width: int, settings: View, rng: np.random.Generator) -> Draw:
    """Draw a training view of an image of this size."""
    box, shift = None, (0, 0)
    turns = int(rng.integers(4)) if settings.rotate else 0
    if settings.crop_scale:
        box = random_crop_box(height, width, settings.crop_scale, _ratio_of(height, width, settings, turns), rng)
    if settings.shift:
        dy, dx = (int(draw) - settings.shift for draw in rng.random(2) * (2 * settings.shift + 1))
        shift = dy, dx
    flip = bool(settings.flip and rng.random() < 0.5)
    flip_vertical = bool(settings.flip_vertical and rng.random() < 0.5)
    operations = draw_operations(settings.randaugment, rng) if settings.randaugment else ()
    return Draw(box, shift, flip, operations, flip_vertical, turns)


def _ratio_of(height: int, width: int, settings: View, turns: int) -> tuple[float, float]:
    """Return the smallest and largest width / height of the box of a view that is turned so often afterwards."""
    low, high = settings.crop_ratio
    if turns % 2:
        low, high = 1 / high, 1 / low
    if settings.fit == "crop":
        return low, high
    view_height, view_width = _turned_size(settings, turns)
    own = (width / height) / (view_width / view_height)
    return low * own, high * own


def _turned_size(settings: View, turns: int) -> tuple[int, int]:
    """Return the (height, width) that a view has before it is turned."""
    return settings.image_size[::-1] if turns % 2 else settings.image_size


def compute_need(draws: Sequence[Draw], settings: View) -> Need:
    """Return the need of these crops: as many pixels as each view has, and no row below the lowest crop."""
    boxes = [(draw.box, _turned_size(settings, draw.turns)) for draw in draws if draw.box]
    if settings.decode == "exact" or len(boxes) < len(draws):
        return Need()
    spare = min(
        min((bottom - top) / height, (right - left) / width) for (left, top, right, bottom), (height, width) in boxes
    )
    times = choose_reduction(spare)
    lowest = max(
        bottom + times * _margin((bottom - top) / times / height) for (_, top, _, bottom), (height, _) in boxes
    )
    return Need(times, math.ceil(lowest))


def choose_reduction(spare: float) -> int:
    """Return the largest reduction of an image that has `spare` times the needed pixels a side."""
    return next((times for times in REDUCTIONS if times <= spare), 1)


def make_view(picture: Picture, settings: View, draw: Draw) -> Pixels:
    """Make the training view that was drawn for the picture's size.

    Returns:
        uint8 or uint16 [C, H, W], laid out as [H, W, C]: whoever stacks views copies them once.
    """
    size = _turned_size(settings, draw.turns)
    if draw.box:
        view_HWC = resize_crop(picture, draw.box, size, settings)
    else:
        view_HWC = _centre(_convert_to_view(picture.pixels_hwC, settings), size, settings)
    if settings.shift:
        view_HWC = _shift(view_HWC, *draw.shift)
    if draw.flip:
        view_HWC = view_HWC[:, ::-1]
    if draw.flip_vertical:
        view_HWC = view_HWC[::-1]
    if draw.turns:
        view_HWC = np.rot90(view_HWC, draw.turns)
    if draw.operations and settings.randaugment:
        view_HWC = apply_operations(view_HWC, draw.operations, settings.randaugment.fill)
    return view_HWC.transpose(2, 0, 1)


def resize_crop(picture: Picture, box: Box, size: tuple[int, int], settings: View) -> Pixels:
    """Resize a box of the picture to `size` as the settings say. Returns [h, w, C] in the view's depth."""
    resize = _resize if settings.decode == "exact" else _resize_fast
    return resize(_convert_to_view(picture.pixels_hwC, settings), _box_in(picture, box), size)


def eval_view(image_HWC: Pixels, settings: View) -> Pixels:
    """Resize the image to cover the view and crop its centre. Returns [C, H, W] in the view's depth.

    The image is resized, keeping its aspect, to just cover `image_size / eval_crop_ratio`; its
    centre is the view. (224 pixels and 0.875: short side to 256, centre 224, as is usual.) With fit "stretch" it is
    resized to exactly that size.
    """
    view_HWC = _centre(_convert_to_view(image_HWC, settings), settings.image_size, settings)
    return np.ascontiguousarray(view_HWC.transpose(2, 0, 1))


def random_crop_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """Draw the box of a random resized crop (Szegedy et al. 2015, arXiv 1409.4842, sec. 6).

    The area is uniform in `scale` x the image's and width / height log-uniform in `ratio`; after ten
    boxes that don't fit, the largest centred one within `ratio` is taken.

    Returns:
        (left, top, right, bottom), whole pixels.
    """
    for w, h in draw_sides(height * width, scale, ratio, rng):
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def draw_sides(
    area: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Yield ten rectangles' sides, drawn one by one: their product uniform in `scale` x the area, the first over
    the second log-uniform in `ratio`."""
    for _ in range(CROP_TRIES):
        crop_area = area * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        yield round(math.sqrt(crop_area * aspect)), round(math.sqrt(crop_area / aspect))


def _box_in(picture: Picture, box: Box) -> _FloatBox:
    """Return the box in the decoded pixels, in steps of 1/1024: their sums are exact, and so end at the border."""
    h, w = picture.pixels_hwC.shape[:2]
    rows, columns = (1024 * scale for scale in picture.scale)
    left, top, right, bottom = box
    x, x_end = (min(w, round(edge * columns) / 1024) for edge in (left, right))
    y, y_end = (min(h, round(edge * rows) / 1024) for edge in (top, bottom))
    return x, y, x_end, y_end


def _convert_to_view(image_HWC: Pixels, settings: View) -> Pixels:
    """Return the image in the view's depth; raise a ValueError if it has other channels."""
    if image_HWC.shape[2] != settings.channels:
        raise ValueError(f"expected an image of {settings.channels} channels, got {image_HWC.shape[2]}")
    return convert_depth(image_HWC, settings.depth)


def _centre(image_HWC: Pixels, size: tuple[int, int], settings: View) -> Pixels:
    """Resize to cover, or to stretch to, somewhat more than `size`, then crop the centre."""
    H, W = image_HWC.shape[:2]
    cover_h, cover_w = (round(side / settings.eval_crop_ratio) for side in size)
    if settings.fit == "crop":
        image_HWC = _centre_crop(image_HWC, (min(H, MAX_ASPECT * W), min(W, MAX_ASPECT * H)))
        H, W = image_HWC.shape[:2]
        if cover_h * W >= cover_w * H:
            cover_w = max(cover_w, cover_h * W // H)
        else:
            cover_h = max(cover_h, cover_w * H // W)
    return _centre_crop(_resize(image_HWC, (0, 0, W, H), (cover_h, cover_w)), size)


def _centre_crop(image_HWC: Pixels, size: tuple[int, int]) -> Pixels:
    top, left = (round((side - kept) / 2) for side, kept in zip(image_HWC.shape[:2], size, strict=True))
    return image_HWC[top : top + size[0], left : left + size[1]]


def _resize(image_HWC: Pixels, box: _FloatBox, size: tuple[int, int]) -> Pixels:
    """Resize the box with Pillow's antialiased bicubic filter; the same box and size change nothing."""
    H, W, C = image_HWC.shape
    if box == (0, 0, W, H) and size == (H, W):
        return image_HWC
    if C != 3 or image_HWC.dtype == np.uint16:  # Pillow has no images of any number of channels, nor of deep ones
        planes = [_resize_plane(image_HWC[:, :, c], box, size) for c in range(C)]
        return np.stack(planes, axis=2)
    return _resize_plane(image_HWC, box, size)


def _resize_plane(pixels: Pixels, box: _FloatBox, size: tuple[int, int]) -> Pixels:
    if pixels.dtype == np.uint8:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC, box=box))
    # Pillow rounds 16 bits down; of floats it loses nothing
    image = Image.fromarray(pixels.astype(np.float32))
    resized = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC, box=box))
    return np.clip(np.rint(resized), 0, largest_value(pixels)).astype(np.uint16)


def _resize_fast(image_HWC: Pixels, box: _FloatBox, size: tuple[int, int]) -> Pixels:
    """Resize as `_resize` does to within rounding; copy only what the filter reaches: the box and a margin."""
    C = image_HWC.shape[2]
    if C > _AT_ONCE:
        starts = range(0, C, _AT_ONCE)
        return np.concatenate([_resize_fast(image_HWC[:, :, c : c + _AT_ONCE], box, size) for c in starts], axis=2)
    kind = _PIXEL_TYPES[image_HWC.dtype][C]
    left, top, right, bottom = box
    x, x_end = _reach(left, right, size[1], image_HWC.shape[1])
    y, y_end = _reach(top, bottom, size[0], image_HWC.shape[0])
    around = ImageData(x_end - x, y_end - y, kind, image_HWC[y:y_end, x:x_end].tobytes())
    view = ImageData(size[1], size[0], kind)
    crop = CropBox(
        _begin(left - x, right - left, size[1]), _begin(top - y, bottom - top, size[0]), right - left, bottom - top
    )
    _RESIZER.resize(around, view, ResizeOptions(_BICUBIC, use_alpha=False, crop_box=crop))
    return np.frombuffer(view.get_buffer(), image_HWC.dtype).reshape(*size, C)


def _reach(start: float, end: float, num_pixels: int, limit: int) -> tuple[int, int]:
    """Return the pixels, of `limit`, that the filter reaches when start..end becomes `num_pixels`."""
    margin = _margin((end - start) / num_pixels)
    return max(0, math.floor(start - margin)), min(limit, math.ceil(end + margin))


def _begin(start: float, length: float, num_pixels: int) -> float:
    """Return where the resizer should begin when `length` becomes `num_pixels`.

    cykooz_resizer 4.0.1 takes it that the first pixel needs the leftmost values, and the last one the rightmost. When
    it enlarges, and the centre of one of the two is that of a pixel of the image, that one value is all it needs, the
    pixel next to it needs values further outside, and the resizer reads others in their place. A millionth of a pixel
    away, no value is left out.
    """
    half = length / num_pixels / 2
    is_hit = half < 0.5 and any(abs(centre % 1 - 0.5) < _OFF_CENTRE for centre in (start + half, start + length - half))
    if not is_hit:
        return start
    return start - _OFF_CENTRE if start > _OFF_CENTRE else start + _OFF_CENTRE  # there is room: no border is a centre


def _margin(shrinking: float) -> float:
    """Return how many pixels beyond a box the filter may reach when the box is made `shrinking` times smaller."""
    return 1 + _SUPPORT * max(1.0, shrinking)


def _shift(image_HWC: Pixels, dy: int, dx: int) -> Pixels:
    """Move the content dy pixels down and dx right; zeros come in."""
    H, W = image_HWC.shape[:2]
    moved = np.zeros_like(image_HWC)
    moved[max(0, dy) : H + min(0, dy), max(0, dx) : W + min(0, dx)] = image_HWC[
        max(0, -dy) : H - max(0, dy), max(0, -dx) : W - max(0, dx)
    ]
    return moved
