"""What a decoder predicts of a patch, and how a picture is drawn from it (MAE, sec. 3, "Reconstruction target").

Shapes: B images, L patches, P pixels a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddlemae.engine.safe_import import paddle
from paddlemae.model.kernels.rows import as_rows, normalise_rows, scale_rows

TARGET_EPSILON = 1e-6  # added to a patch's variance; the published models' value


@dataclass(frozen=True)
class Target:
    """A prediction target.

    Attributes:
        of: (patches [B, L, P], floor) -> the numbers to predict, [B, L, P].
        pixels: (prediction, original patches, floor) -> pixels to show, [B, L, P] each.
        fewest_pixels: the smallest P that it is defined for.
        meaning: of its numbers, for messages and metadata.
    """

    of: Callable[[Any, float], Any]
    pixels: Callable[[Any, Any, float], Any]
    fewest_pixels: int
    meaning: str


def normalise_patches(patches_BLP: paddle.Tensor, floor: float = 0.0) -> list[paddle.Tensor]:
    """Normalise each patch: return (patches [B, L, P], mean [B, L, 1], 1 / deviation [B, L, 1]).

    The variance is unbiased, as in the published models; the square of `floor` is added to it.
    """
    batch, patches, pixels = patches_BLP.shape
    normal_RP, mean_R1, scale_R1 = normalise_rows(as_rows(patches_BLP), pixels - 1, TARGET_EPSILON)
    if floor:  # Paddle's norm takes no epsilon above 0.001
        share_R1 = paddle.rsqrt(scale_R1.square() * floor**2 + 1)
        normal_RP, scale_R1 = scale_rows(share_R1, normal_RP), scale_R1 * share_R1
    return [part.reshape([batch, patches, -1]) for part in (normal_RP, mean_R1, scale_R1)]


def with_statistics_of(normal_BLP: paddle.Tensor, patches_BLP: paddle.Tensor, floor: float = 0.0) -> paddle.Tensor:
    """Give normalised patches the mean and deviation of the original ones."""
    _, mean_BL1, scale_BL1 = normalise_patches(patches_BLP, floor)
    return normal_BLP / scale_BL1 + mean_BL1


TARGETS = {
    "raw": Target(lambda patches, _: patches, lambda prediction, *_: prediction, 1, "of normalised images"),
    "normalised": Target(
        lambda patches, floor: normalise_patches(patches, floor)[0],
        with_statistics_of,
        fewest_pixels=2,  # a single number has no deviation
        meaning="less the patch's own mean, over its deviation",
    ),
}
