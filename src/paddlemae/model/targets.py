"""What a decoder predicts of a patch, and how a picture is drawn from it (MAE, sec. 3, "Reconstruction target").

Shapes: B images, L patches, P pixels a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddlemae.engine.safe_import import paddle
from paddlemae.model.kernels.rows import as_rows, normalise_rows

TARGET_EPSILON = 1e-6  # added to a patch's variance; the published models' value


@dataclass(frozen=True)
class Target:
    """A prediction target.

    Attributes:
        of: patches [B, L, P] -> the numbers to predict, [B, L, P].
        pixels: (prediction, original patches) -> pixels to show, [B, L, P] each.
        fewest_pixels: the smallest P that it is defined for.
        meaning: of its numbers, for messages and metadata.
    """

    of: Callable[[Any], Any]
    pixels: Callable[[Any, Any], Any]
    fewest_pixels: int
    meaning: str


def normalise_patches(patches_BLP: paddle.Tensor) -> list[paddle.Tensor]:
    """Normalise each patch: return (patches [B, L, P], mean [B, L, 1], 1 / deviation [B, L, 1]).

    The variance is unbiased, as in the published models.
    """
    batch, patches, pixels = patches_BLP.shape
    parts = normalise_rows(as_rows(patches_BLP), pixels - 1, TARGET_EPSILON)
    return [part.reshape([batch, patches, -1]) for part in parts]


def with_statistics_of(normal_BLP: paddle.Tensor, patches_BLP: paddle.Tensor) -> paddle.Tensor:
    """Give normalised patches the mean and deviation of the original ones."""
    _, mean_BL1, scale_BL1 = normalise_patches(patches_BLP)
    return normal_BLP / scale_BL1 + mean_BL1


TARGETS = {
    "raw": Target(lambda patches: patches, lambda prediction, _: prediction, 1, "of normalised images"),
    "normalised": Target(
        lambda patches: normalise_patches(patches)[0],
        with_statistics_of,
        fewest_pixels=2,  # a single number has no deviation
        meaning="less the patch's own mean, over its deviation",
    ),
}
