"""Measure what images show: how much of it remains at a smaller size, and how many patches show little but noise.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paddlemae.data.decode.pixel_format import Pixels

SIDES = (16, 24, 32, 48, 64, 96, 128, 160, 192, 224)  # short sides that are tried, in pixels
REFERENCE = 256  # larger images are compared at this short side
PATCHED_SIDE, PATCH = 64, 8  # short side and patches, in pixels, at which flat patches are counted
FLAT = 0.1  # of the images' deviation: patches that vary by less are flat


class Kept(NamedTuple):
    """The shares of an image that remain at a smaller size, 0 to 1.

    Attributes:
        structure: of the variance of its pixels, most of which is in large structures.
        detail: of the energy of its gradients, most of which is in small ones.
    """

    structure: float
    detail: float


def measure_kept(pixels_HWC: Pixels) -> dict[int, Kept]:
    """Return what remains of an image whose short side becomes each of `SIDES`; all of it where it has no more."""
    gray = _as_gray(pixels_HWC)
    whole = _resize(gray, min(1.0, REFERENCE / min(gray.shape)))
    return {side: _kept_at(whole, side) for side in SIDES}


def mean_kept(images: Sequence[Mapping[int, Kept]]) -> dict[int, Kept]:
    """Return the mean of several images' `measure_kept`."""
    return {
        side: Kept(*(float(value) for value in np.mean([image[side] for image in images], axis=0))) for side in SIDES
    }


def measure_patches(pixels_HWC: Pixels) -> NDArray[np.float32]:
    """Return mean and deviation of each patch of an image whose short side becomes `PATCHED_SIDE`: [patches, 2]."""
    gray = _as_gray(pixels_HWC)
    gray = _resize(gray, min(1.0, PATCHED_SIDE / min(gray.shape)))
    rows, columns = (side // PATCH for side in gray.shape)
    blocks = gray[: rows * PATCH, : columns * PATCH].reshape(rows, PATCH, columns, PATCH).swapaxes(1, 2)
    blocks_NP = blocks.reshape(rows * columns, PATCH**2)
    return np.stack([blocks_NP.mean(axis=1), blocks_NP.std(axis=1)], axis=1)


def flat_share(images: Sequence[NDArray[np.float32]]) -> float:
    """Return the share of flat patches among all of several images' `measure_patches`; 0 of images of one colour."""
    mean_N, deviation_N = np.concatenate(images).astype(np.float64).T
    if not len(mean_N):
        return 0.0
    variance = mean_N.var() + np.square(deviation_N).mean()
    return float((np.square(deviation_N) < FLAT**2 * variance).mean())


def _kept_at(whole_HW: NDArray[np.float32], side: int) -> Kept:
    if side >= min(whole_HW.shape):
        return Kept(1.0, 1.0)
    small = _resize(whole_HW, side / min(whole_HW.shape))
    size = whole_HW.shape[::-1]
    again = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
    return Kept(
        _share(float(again.var()), float(whole_HW.var())), _share(_gradient_energy(again), _gradient_energy(whole_HW))
    )


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole else 1.0


def _as_gray(pixels_HWC: Pixels) -> NDArray[np.float32]:
    gray: NDArray[np.float32] = pixels_HWC.mean(axis=2, dtype=np.float32)
    return gray


def _resize(gray_HW: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Return an image scaled by area means."""
    if scale >= 1:
        return gray_HW
    height, width = (max(1, round(side * scale)) for side in gray_HW.shape)
    return np.asarray(Image.fromarray(gray_HW).resize((width, height), Image.Resampling.BOX))


def _gradient_energy(gray_HW: NDArray[np.float32]) -> float:
    return float(sum(np.square(np.diff(gray_HW, axis=axis)).mean() for axis in (0, 1) if gray_HW.shape[axis] > 1))
