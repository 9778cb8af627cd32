"""Adapt weights to other images than they were trained on: another size, patch or number of channels.

Each function takes official tensors and the architecture that they make, and returns new ones with a note of the
rule. Nothing is changed in place; what a change does not concern is shared.

Shapes: D width, C channels, L patches of a grid (rows x columns).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddlemae.model.grid_weights import bilinear_weights
from paddlemae.model.shape import RELATIVE_POSITIONS, patch_grid

Tensors = Mapping[str, np.ndarray]
# Keys (1981), "Cubic Convolution Interpolation"; both are what PyTorch takes, without and with antialiasing.
SHARPNESS, SHARPNESS_ANTIALIASED = -0.75, -0.5


@dataclass(frozen=True)
class Adapted:
    """Tensors, the architecture that they make, and a sentence that says what was done."""

    tensors: dict[str, np.ndarray]
    architecture: dict[str, Any]
    note: str


def change_image_size(tensors: Tensors, architecture: Mapping[str, Any], image_size: int | Sequence[int]) -> Adapted:
    """Resize the position tables by bicubic interpolation (DeiT, arXiv 2012.12877, sec. 6; ViT, sec. 3.2).

    The result is that of `model.positions.resize_positions`. The cls token's row stays. Relative positions are
    resized as `model.positions.relative_bias` does.

    Args:
        tensors, architecture: a model's, as `layouts.Imported` has them.
        image_size: pixels, one number or (height, width).
    Raises:
        ValueError: the patches don't divide the image.
    """
    height, width = _pair(image_size, "image_size")
    patch_height, patch_width = architecture["patch_size"]
    if height % patch_height or width % patch_width:
        raise ValueError(
            f"an image of {height} x {width} is not divisible by patches of {patch_height} x {patch_width}; name "
            "another image_size, or change the patch size first"
        )
    old = patch_grid(architecture["image_size"], architecture["patch_size"])
    new = height // patch_height, width // patch_width
    changed = {
        name: _resize_table(tensors[name], old, new) for name in ("pos_embed", "decoder_pos_embed") if name in tensors
    }
    changed |= {
        name: _resize_distances(array, old, new) for name, array in tensors.items() if name.endswith(RELATIVE_POSITIONS)
    }
    what = "stay as they are: the grid is the same" if old == new else "are resized by bicubic interpolation"
    return Adapted(
        {**tensors, **changed},
        {**architecture, "image_size": [height, width]},
        f"image size {_by(architecture['image_size'])} -> {height} x {width}: positions of {_by(old)} patches, now "
        f"{_by(new)}, {what}",
    )


def change_patch_size(tensors: Tensors, architecture: Mapping[str, Any], patch_size: int | Sequence[int]) -> Adapted:
    """Resize the patch embedding by the pseudo-inverse of resizing patches (FlexiViT, arXiv 2212.08013, sec. 3.4).

    Where patches grow, each resized patch gives exactly the tokens of the patch that it came from; where they shrink,
    this is the nearest in the sense of least squares. Patches are resized by antialiased bicubic interpolation. A
    decoder's predicted pixels are resized directly. The grid stays, so the image size changes with the patch.

    Args:
        tensors, architecture: a model's, as `layouts.Imported` has them.
        patch_size: pixels, one number or (height, width).
    """
    old, new = tuple(architecture["patch_size"]), _pair(patch_size, "patch_size")
    rows, columns = patch_grid(architecture["image_size"], architecture["patch_size"])
    size = [rows * new[0], columns * new[1]]
    steps = [cubic_weights(before, after, antialias=True) for before, after in zip(old, new)]
    weight = tensors["patch_embed.proj.weight"]
    # The pseudo-inverse of a Kronecker product is that of its factors, so height and width are taken one by one.
    inverses = [np.linalg.pinv(step.T) for step in steps]
    changed = {
        "patch_embed.proj.weight": _like(weight, np.einsum("hi,dcij,wj->dchw", inverses[0], weight, inverses[1]))
    }
    for name in ("decoder_pred.weight", "decoder_pred.bias"):
        if name in tensors:
            pixels = tensors[name].reshape(*old, architecture["channels"], -1)
            resized = np.einsum("hi,ijck,wj->hwck", steps[0], pixels, steps[1])
            changed[name] = _like(tensors[name], resized.reshape(-1, *tensors[name].shape[1:]))
    return Adapted(
        {**tensors, **changed},
        {**architecture, "patch_size": list(new), "image_size": size},
        f"patch size {_by(old)} -> {_by(new)}: the patch embedding is resized by the pseudo-inverse of bicubic "
        f"resizing (FlexiViT); the grid stays, so the image size is now {_by(size)}",
    )


def change_channels(tensors: Tensors, architecture: Mapping[str, Any], channels: int) -> Adapted:
    """Give the patch embedding another number of channels, by the rule of timm's `adapt_input_conv`.

    To one channel its weights are summed, so that a grey image gives what it gave as three equal channels. To M of N
    they are repeated in turn and multiplied by N / M, so that tokens keep their size. A decoder's predicted pixels are
    averaged, or repeated in turn.

    Args:
        tensors, architecture: a model's, as `layouts.Imported` has them.
        channels: from 1.
    Raises:
        ValueError: channels below 1.
    """
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    had = architecture["channels"]
    if channels == had:
        return Adapted(dict(tensors), dict(architecture), f"{had} channels, as before")
    weight = tensors["patch_embed.proj.weight"].astype(np.float64)
    turn = np.arange(channels) % had
    embedding = weight.sum(axis=1, keepdims=True) if channels == 1 else weight[:, turn] * (had / channels)
    changed = {"patch_embed.proj.weight": _like(tensors["patch_embed.proj.weight"], embedding)}
    for name in ("decoder_pred.weight", "decoder_pred.bias"):
        if name in tensors:
            pixels = tensors[name].reshape(-1, had, *tensors[name].shape[1:])
            pixels = pixels.mean(axis=1, keepdims=True) if channels == 1 else pixels[:, turn]
            changed[name] = _like(tensors[name], pixels.reshape(-1, *tensors[name].shape[1:]))
    rule = "summed" if channels == 1 else f"repeated in turn, times {had}/{channels}"
    return Adapted(
        {**tensors, **changed},
        {**architecture, "channels": channels},
        f"channels {had} -> {channels}: the patch embedding's weights are {rule}",
    )


def cubic_weights(old: int, new: int, *, antialias: bool = False) -> np.ndarray:
    """Return the matrix [new, old] that resizes a row of pixels as PyTorch's and Paddle's bicubic interpolation do.

    Pixels are areas (`align_corners=False`). With antialiasing the kernel is as wide as the output's pixels and cut
    off at the border; without, pixels beyond the border are the border's.
    """
    scale = old / new
    matrix = np.zeros((new, old))
    if not antialias:
        for row in range(new):
            place = (row + 0.5) * scale - 0.5
            first = int(np.floor(place)) - 1
            for column in range(first, first + 4):
                matrix[row, min(max(column, 0), old - 1)] += _kernel(place - column, SHARPNESS)
        return matrix
    wide = max(scale, 1.0)
    for row in range(new):
        centre = (row + 0.5) * scale
        first, last = max(int(centre - 2 * wide + 0.5), 0), min(int(centre + 2 * wide + 0.5), old)
        columns = np.arange(first, last)
        weights = np.array([_kernel((column - centre + 0.5) / wide, SHARPNESS_ANTIALIASED) for column in columns])
        matrix[row, columns] = weights / weights.sum()
    return matrix


def _kernel(distance: float, sharpness: float) -> float:
    """Compute Keys' cubic convolution kernel."""
    x = abs(distance)
    if x < 1:
        return ((sharpness + 2) * x - (sharpness + 3)) * x * x + 1
    return ((x - 5) * x + 8) * x * sharpness - 4 * sharpness if x < 2 else 0.0


def _resize_table(table_1ND: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Resize a position table to another grid; rows before the patches (the cls token) are unchanged."""
    if old == new:
        return table_1ND
    front = table_1ND.shape[1] - old[0] * old[1]
    picture = table_1ND[0, front:].reshape(*old, -1)
    rows, columns = (cubic_weights(before, after) for before, after in zip(old, new))
    resized = np.einsum("hi,ijd,wj->hwd", rows, picture, columns).reshape(1, new[0] * new[1], -1)
    return np.concatenate([table_1ND[:, :front], _like(table_1ND, resized)], axis=1)


def _resize_distances(table_TH: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Resize a table of relative positions by bilinear interpolation; the cls token's three rows are unchanged."""
    if old == new:
        return table_TH
    before, after = ((2 * rows - 1, 2 * columns - 1) for rows, columns in (old, new))
    distances = table_TH[: before[0] * before[1]]
    rows, columns = (bilinear_weights(wide, narrow) for wide, narrow in zip(after, before))
    resized = np.einsum("hi,ijd,wj->hwd", rows, distances.reshape(*before, -1), columns)
    return np.concatenate([_like(table_TH, resized.reshape(-1, table_TH.shape[1])), table_TH[len(distances) :]])


def _pair(size: int | Sequence[int], what: str) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{what} must be one or two whole numbers of pixels, got {size!r}")
    return pair[0], pair[1]


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _like(array: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=array.dtype)
