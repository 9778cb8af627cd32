"""Load weights into our models and take them out, with every key accounted for.

In memory a Linear weight is Paddle's [in, out] and the patch embedding a Linear over a patch's pixels (row, column,
channel); `heads.layers` has the other convolutions. Official tensors are PyTorch's: Linear [out, in], patch embedding a
Conv2D [D, C, height, width].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.encoder import Encoder
from paddlemae.model.heads.layers import GROWTH, Convolution, Upsampling
from paddlemae.weights.formats.mapped_file import release
from paddlemae.weights.layouts.architecture import faults
from paddlemae.weights.layouts.tensor_names import Draft
from paddlemae.weights.transpose import transpose

PATCH_EMBED = "patch_embed.proj.weight"


def official_name(name: str) -> str:
    """Return the official name of a parameter, which has no prefix for the encoder's and the decoder's layer."""
    return name.removeprefix("encoder.").removeprefix("decoder.")


def official_parameters(model: nn.Layer) -> list[tuple[str, paddle.Tensor]]:
    """Return the model's parameters under their official names, tokens and positions first as in official models."""
    named = [(official_name(name), parameter) for name, parameter in model.named_parameters()]
    return sorted(named, key=lambda pair: "." in pair[0])


def official_state(model: nn.Layer) -> dict[str, paddle.Tensor]:
    """Return the model's parameters and buffers under their official names, in Paddle's layout."""
    return {official_name(name): tensor for name, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class Form:
    """How a weight lies in a file and in memory.

    Attributes:
        shape: in the file, from that in memory.
        to_file, to_memory: the array in the other form; the second one's shape is then set to that in memory.
    """

    shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    to_file: Callable[[np.ndarray], np.ndarray]
    to_memory: Callable[[np.ndarray], np.ndarray]


LINEAR = Form(lambda shape: shape[::-1], transpose, transpose)


def _convolution(side: int) -> Form:
    """Return the form of a `heads.layers.Convolution`: [places, in, out] in memory, [out, in, side, side] in files."""
    return Form(
        lambda shape: (shape[2], shape[1], side, side),
        lambda array: array.reshape(side, side, *array.shape[1:]).transpose(3, 2, 0, 1),
        lambda array: array.transpose(2, 3, 1, 0),
    )


# [in, 4 * out] in memory, [in, out, 2, 2] in files
UPSAMPLING = Form(
    lambda shape: (shape[0], shape[1] // GROWTH**2, GROWTH, GROWTH),
    lambda array: array.reshape(len(array), GROWTH, GROWTH, -1).transpose(0, 3, 1, 2),
    lambda array: array.transpose(0, 2, 3, 1),
)


def _patch_embed(height: int, width: int, channels: int) -> Form:
    """Return the form of the patch embedding: [pixels, D] in memory, [D, C, height, width] in files."""
    return Form(
        lambda shape: (shape[1], channels, height, width),
        lambda array: array.reshape(height, width, channels, -1).transpose(3, 2, 0, 1),
        lambda array: array.transpose(2, 3, 1, 0),
    )


def _forms(model: nn.Layer) -> dict[str, Form]:
    """Return the forms of the weights that lie otherwise in files than in memory, by their official names."""
    forms: dict[str, Form] = {}
    for name, part in model.named_sublayers():
        if isinstance(part, nn.Linear):
            forms[f"{official_name(name)}.weight"] = LINEAR
        elif isinstance(part, Convolution):
            forms[f"{official_name(name)}.weight"] = _convolution(math.isqrt(part.weight.shape[0]))
        elif isinstance(part, Upsampling):
            forms[f"{official_name(name)}.weight"] = UPSAMPLING
    for part in model.sublayers():
        if isinstance(part, Encoder):
            forms[PATCH_EMBED] = _patch_embed(*part.patch_size, part.channels)
    return forms


def to_official(model: nn.Layer) -> dict[str, np.ndarray]:
    """Return the model's weights and position tables under the official names, in PyTorch's layout."""
    forms = _forms(model)
    tensors = {}
    for name, tensor in official_state(model).items():
        array = tensor.numpy()
        if name in forms:
            array = forms[name].to_file(array)
        tensors[name] = np.ascontiguousarray(array)
    return tensors


def official_shapes(model: nn.Layer) -> dict[str, tuple[int, ...]]:
    """Return the shape of each official tensor of this model."""
    forms = _forms(model)
    shapes = {}
    for name, tensor in official_state(model).items():
        shape = tuple(tensor.shape)
        shapes[name] = forms[name].shape(shape) if name in forms else shape
    return shapes


def load_official(
    model: nn.Layer,
    tensors: Mapping[str, np.ndarray],
    *,
    may_miss: Collection[str] = (),
    may_ignore: Collection[str] = (),
    source: str = "these weights",
) -> None:
    """Set every tensor of the model, or none.

    Args:
        tensors: official names and layout; of views of a mapped file, the memory is given back as they are taken.
        may_miss: first name parts ("head") that the model keeps as they are if `tensors` lacks them.
        may_ignore: first name parts ("decoder_blocks") that `tensors` may have beyond the model.
        source: what the error calls them.
    Raises:
        ValueError: any other key missing, left over or of another shape; all are listed.
    """
    shapes = official_shapes(model)
    needed = {name: shape for name, shape in shapes.items() if name in tensors or name.split(".")[0] not in may_miss}
    given = {name: array for name, array in tensors.items() if name in shapes or name.split(".")[0] not in may_ignore}
    if found := faults(Draft(given), needed):
        raise ValueError(f"{source} do not fit the model; " + "; ".join(found))
    forms = _forms(model)
    for name, tensor in official_state(model).items():
        if name in tensors:
            array = np.asarray(tensors[name], dtype=np.float32)
            if name in forms:
                array = forms[name].to_memory(array).reshape(tensor.shape)
            tensor.set_value(np.ascontiguousarray(array))
            release(tensors[name])
