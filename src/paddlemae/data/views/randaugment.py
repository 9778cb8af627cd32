"""RandAugment: a few operations, drawn at random, all of about one strength.

Cubuk et al., arXiv 1909.13719, in the variant that MAE's fine-tuning uses (appendix A.2, "RandAugment (9, 0.5)"): its
15 operations are those whose effect grows with the magnitude; each is done with probability 1/2 and with a magnitude of
its own, normal around the one that is set. Magnitudes go up to 10. Images are uint8 [H, W, C] with 1 or 3 channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

LARGEST_MAGNITUDE = 10.0
# Of an image's side, of a turn in degrees, of a shear; at the largest magnitude (AutoAugment, arXiv 1805.09501,
# table 6, with relative shifts)
SHIFT, DEGREES, SHEAR = 0.45, 30.0, 0.3
ENHANCEMENT = 0.9  # factors of 1 - 0.9 to 1 + 0.9
SOLARIZED_BELOW, SOLARIZED_BY = 128, 110

_Fill = tuple[int, ...]
_Apply = Callable[[Image.Image, float, _Fill], Image.Image]


@dataclass(frozen=True)
class RandAugment:
    """Settings of RandAugment.

    Args:
        num_ops: operations of an image, drawn with repetition.
        magnitude: 0..10.
        magnitude_std: standard deviation of each operation's own magnitude, which stays within 0..10.
        probability: of each drawn operation being done.
        fill: colour that comes in from outside, one number a channel; the images' mean, usually.
    """

    num_ops: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.5
    probability: float = 0.5
    fill: _Fill = (128,)

    def __post_init__(self) -> None:
        if self.num_ops < 1 or not 0 <= self.magnitude <= LARGEST_MAGNITUDE or self.magnitude_std < 0:
            raise ValueError(
                f"expected one operation or more, a magnitude in 0..{LARGEST_MAGNITUDE:g} and a deviation of 0 or "
                f"more, got {self.num_ops}, {self.magnitude:g}, {self.magnitude_std:g}"
            )


# operations in their order, with their magnitude, signed where there are two ways
Operations = tuple[tuple[str, float], ...]


def draw_operations(settings: RandAugment, rng: np.random.Generator) -> Operations:
    """Draw an image's operations; those that are not done are left out."""
    drawn = []
    for number in rng.integers(len(OPERATION_NAMES), size=settings.num_ops):
        done, sign = rng.random() < settings.probability, rng.choice((-1.0, 1.0))
        magnitude = np.clip(rng.normal(settings.magnitude, settings.magnitude_std), 0, LARGEST_MAGNITUDE)
        if done:
            drawn.append((OPERATION_NAMES[number], float(sign * magnitude)))
    return tuple(drawn)


def apply_operations(image_HWC: NDArray[np.uint8], drawn: Operations, fill: _Fill) -> NDArray[np.uint8]:
    """Apply the operations to an image one after another. Returns uint8 [H, W, C]."""
    channels = image_HWC.shape[2]
    if channels not in (1, 3):
        raise ValueError(f"RandAugment is for images of 1 or 3 channels, got {channels}; set randaugment=false")
    image = Image.fromarray(np.ascontiguousarray(image_HWC if channels == 3 else image_HWC[:, :, 0]))
    colour = tuple(np.resize(fill, channels).tolist())
    for name, magnitude in drawn:
        image = OPERATIONS[name](image, magnitude, colour)
    return np.asarray(image).reshape(image_HWC.shape)


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: _Fill) -> Image.Image:
    """Return the image sampled at (a x + b y + c, d x + e y + f) for each pixel (x, y)."""
    colour = fill if len(fill) == 3 else fill[0]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=colour)


def _rotate(image: Image.Image, magnitude: float, fill: _Fill) -> Image.Image:
    colour = fill if len(fill) == 3 else fill[0]
    return image.rotate(DEGREES * magnitude / LARGEST_MAGNITUDE, Image.Resampling.BICUBIC, fillcolor=colour)


def _posterize(image: Image.Image, magnitude: float, fill: _Fill) -> Image.Image:
    """Keep 4 bits down to none."""
    bits = 4 - int(abs(magnitude) / LARGEST_MAGNITUDE * 4)
    return ImageOps.posterize(image, bits) if bits else image.point(lambda value: 0)


def _solarize(image: Image.Image, magnitude: float, fill: _Fill) -> Image.Image:
    """Invert what is at least as bright as a threshold, which falls from 256 to 0."""
    return ImageOps.solarize(image, 256 - int(abs(magnitude) / LARGEST_MAGNITUDE * 256))


def _solarize_add(image: Image.Image, magnitude: float, fill: _Fill) -> Image.Image:
    """Brighten what is darker than the middle."""
    added = int(abs(magnitude) / LARGEST_MAGNITUDE * SOLARIZED_BY)
    return image.point([min(255, v + added) if v < SOLARIZED_BELOW else v for v in range(256)] * len(image.getbands()))


def _enhance_with(kind: Callable[..., Any]) -> _Apply:
    def apply(image: Image.Image, magnitude: float, fill: _Fill) -> Image.Image:
        return kind(image).enhance(max(0.1, 1 + ENHANCEMENT * magnitude / LARGEST_MAGNITUDE))

    return apply


OPERATIONS: dict[str, _Apply] = {
    "autocontrast": lambda image, magnitude, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, magnitude, fill: ImageOps.equalize(image),
    "invert": lambda image, magnitude, fill: ImageOps.invert(image),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _enhance_with(ImageEnhance.Color),
    "contrast": _enhance_with(ImageEnhance.Contrast),
    "brightness": _enhance_with(ImageEnhance.Brightness),
    "sharpness": _enhance_with(ImageEnhance.Sharpness),
    "shear_x": lambda image, m, fill: _affine(image, (1, SHEAR * m / LARGEST_MAGNITUDE, 0, 0, 1, 0), fill),
    "shear_y": lambda image, m, fill: _affine(image, (1, 0, 0, SHEAR * m / LARGEST_MAGNITUDE, 1, 0), fill),
    "shift_x": lambda image, m, fill: _affine(
        image, (1, 0, SHIFT * m / LARGEST_MAGNITUDE * image.width, 0, 1, 0), fill
    ),
    "shift_y": lambda image, m, fill: _affine(
        image, (1, 0, 0, 0, 1, SHIFT * m / LARGEST_MAGNITUDE * image.height), fill
    ),
}
OPERATION_NAMES = tuple(OPERATIONS)
