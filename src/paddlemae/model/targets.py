"""What a decoder predicts of a patch, and how a picture is drawn from it (MAE, sec. 3, "Reconstruction target").

Shapes: B images, L patches, P pixels a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddlemae.model.kernels.rows import as_rows, normalise_rows

TARGET_EPSILON = 1e-6  # added to a patch's variance; the published models' value


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Attributes:
        of: patches [B, L, P] -> what they should be predicted as.
        pixels: (prediction, original patches) -> pixels to be shown, [B, L, P] each.
        fewest_pixels: the smallest P that it makes sense of.
        meaning: of its numbers, for people.
    """

    of: Callable[[Any], Any]
    pixels: Callable[[Any, Any], Any]
    fewest_pixels: int
    meaning: str


def normalise_patches(patches_BLP):
    """(patches less their mean, over their deviation [B, L, P]; mean, 1 / deviation [B, L, 1]).

    The variance is unbiased, as in the published models.
    """
    batch, patches, pixels = patches_BLP.shape
    parts = normalise_rows(as_rows(patches_BLP), pixels - 1, TARGET_EPSILON)
    return [part.reshape([batch, patches, -1]) for part in parts]


def with_statistics_of(normal_BLP, patches_BLP):
    """Give normalised patches the mean and deviation of the original ones."""
    _, mean_BL1, scale_BL1 = normalise_patches(patches_BLP)
    return normal_BLP / scale_BL1 + mean_BL1


TARGETS = {
    "raw": Target(lambda patches: patches, lambda prediction, _: prediction, 1, "of normalised images"),
    "normalised": Target(
        lambda patches: normalise_patches(patches)[0],
        with_statistics_of,
        fewest_pixels=2,  # one alone has no deviation
        meaning="less the patch's own mean, over its deviation",
    ),
}
