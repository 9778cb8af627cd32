"""Embedded scenes: digits on textured backgrounds, with the class of each pixel.

Scene i of a part follows from the part and i alone, by integer arithmetic, so it is the same everywhere:
    background   random colours on grids of 3 x 3 and 9 x 9 points, interpolated, and noise
    digits       1 to 3 of the embedded ones, of the same part, enlarged to 28 to 44 pixels, at random places where they
                 cover no other one, or left out if 20 places do; bright on dark and dark on bright surroundings
    mask         the digit of each pixel that it covers at least half; 0 elsewhere
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.decode.images import NeedOf, Picture
from paddlemae.data.decode.limits import MAX_IMAGE_BYTES
from paddlemae.data.decode.pixel_format import as_channels, check_channels
from paddlemae.data.sources.digits import open_digits
from paddlemae.data.sources.source import Mask, MaskTargets, Source
from paddlemae.data.sources.splits import TEST_ONLY, VAL_ONLY, MissingSplit
from paddlemae.data.sources.subsets import view_of

DIGIT_SCENES = "digit-scenes"
SIDE = 64
CLASSES = ("background", *"0123456789")
PALETTE = np.array(
    [[0, 0, 0], [230, 25, 75], [60, 180, 75], [255, 225, 25], [0, 130, 200], [245, 130, 48], [145, 30, 180]]
    + [[70, 240, 240], [240, 50, 230], [210, 245, 60], [250, 190, 212]],
    np.uint8,
)
_COUNTS = {"train": 2000, "test": 500}
_SPLITS = {
    "train": ("train", 0, 2000),
    "fit": ("train", 0, 1600),
    "val": ("train", 1600, 2000),
    "test": ("test", 0, 500),
}
_SEEDS = {"train": 2026, "test": 2027}
_SIZES = (28, 44)  # of a digit, pixels
_MOST_DIGITS, _MOST_PLACES = 3, 20
_ONE = 256  # of the fixed-point numbers that pixels are interpolated with


def open_digit_scenes(split: str | None, masks: bool) -> Source:
    """Open a split of the 64 x 64 scenes, as those of digits are called; None means "train"."""
    split = "test" if split == TEST_ONLY else split or "train"
    if split == VAL_ONLY:  # "val" is part of "train"
        raise MissingSplit(f"{DIGIT_SCENES} have no images of val that are not in train")
    if split not in _SPLITS:
        raise ValueError(f"expected one of {DIGIT_SCENES}' splits {', '.join(_SPLITS)}, got {split!r}")
    part, first, last = _SPLITS[split]
    targets = MaskTargets(CLASSES, PALETTE, SceneMasks(part)) if masks else None
    return view_of(
        Source(DIGIT_SCENES, SceneReader(part), targets), np.arange(first, last), f"{DIGIT_SCENES} ({split})"
    )


@dataclass(frozen=True)
class SceneReader:
    """The images of a part, "train" or "test"."""

    part: str

    def __len__(self) -> int:
        return _COUNTS[self.part]

    def describe(self, i: int) -> str:
        return f"{DIGIT_SCENES} {self.part} image {i}"

    def read_picture(self, i: int, channels: int, need_of: NeedOf) -> Picture:
        check_channels(channels)
        image_HWC = as_channels(self.stored(i), channels)
        need_of(SIDE, SIDE)
        return Picture(image_HWC, (SIDE, SIDE))

    def stored(self, i: int) -> NDArray[np.uint8]:
        return make_scene(self.part, i)[0]

    def room(self, i: int) -> int:
        return MAX_IMAGE_BYTES

    def stamp(self, i: int) -> str:
        return f"{self.part}\0{i}"


@dataclass(frozen=True)
class SceneMasks:
    """The masks of a part, "train" or "test"."""

    part: str

    def __len__(self) -> int:
        return _COUNTS[self.part]

    def describe(self, i: int) -> str:
        return f"{DIGIT_SCENES} {self.part} mask {i}"

    def read(self, i: int) -> Mask:
        return make_scene(self.part, i)[1].copy()

    def stamp(self, i: int) -> str:
        return f"{self.part}\0{i}"


@functools.lru_cache(maxsize=sum(_COUNTS.values()))
def make_scene(part: str, i: int) -> tuple[NDArray[np.uint8], Mask]:
    """Return (image uint8 [64, 64, 3], mask int16 [64, 64]) of scene i by the rule at the top of this module."""
    digits, labels = _digits_of(part)
    rng = np.random.default_rng((_SEEDS[part], i))
    image_HW3, mask_HW = _background(rng), np.zeros((SIDE, SIDE), np.int16)
    for _ in range(int(rng.integers(1, _MOST_DIGITS + 1))):
        number, size = int(rng.integers(len(labels))), int(rng.integers(_SIZES[0], _SIZES[1] + 1))
        shade = rng.integers(0, 96, 3)
        ink_hw = _enlarge(digits[number].astype(np.int64)[..., None], size)[..., 0]
        for top, left in rng.integers(0, SIDE - size + 1, (_MOST_PLACES, 2)).tolist():
            if not mask_HW[top : top + size, left : left + size][ink_hw > 0].any():
                _draw(image_HW3, mask_HW, ink_hw, (top, left), shade, 1 + int(labels[number]))
                break
    pixels_HW3 = image_HW3.astype(np.uint8)
    pixels_HW3.flags.writeable = mask_HW.flags.writeable = False
    return pixels_HW3, mask_HW


@functools.lru_cache(maxsize=2)
def _digits_of(part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    source = open_digits(part)
    assert source.labels is not None
    return np.stack([source.read(i, 1)[..., 0] for i in range(len(source))]), source.labels


def _background(rng: np.random.Generator) -> NDArray[np.int64]:
    """Return colours of 0 to 255, int64 [64, 64, 3]."""
    coarse = _enlarge(rng.integers(32, 224, (3, 3, 3)), SIDE)
    fine = _enlarge(rng.integers(-40, 41, (9, 9, 3)), SIDE)
    noise = rng.integers(-12, 13, (SIDE, SIDE, 3))
    return np.clip(coarse + fine + noise, 0, 255)


def _draw(
    image_HW3: NDArray[np.int64],
    mask_HW: Mask,
    ink_hw: NDArray[np.int64],
    place: tuple[int, int],
    shade: NDArray[np.int64],
    label: int,
) -> None:
    """Draw a digit, whose ink is 0 to 255 at each pixel, on an image and its mask."""
    rows, columns = (slice(start, start + len(ink_hw)) for start in place)
    under = image_HW3[rows, columns]
    colour = 255 - shade if int(under.sum()) < 128 * under.size else shade
    image_HW3[rows, columns] = (under * (255 - ink_hw[..., None]) + colour * ink_hw[..., None] + 127) // 255
    mask_HW[rows, columns][ink_hw >= 128] = label


def _enlarge(values_hwC: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Interpolate linearly between the values so that the corners stay at the corners: [size, size, C]."""
    steps = (len(values_hwC) - 1) * _ONE
    places = np.arange(size) * steps // (size - 1)
    low = np.minimum(places // _ONE, len(values_hwC) - 2)
    share = places - low * _ONE
    rows = values_hwC[low] * (_ONE - share)[:, None, None] + values_hwC[low + 1] * share[:, None, None]
    share = share[None, :, None]
    return (rows[:, low] * (_ONE - share) + rows[:, low + 1] * share + _ONE * _ONE // 2) // (_ONE * _ONE)
