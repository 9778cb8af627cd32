"""Load weights into our models and take them out, with every key accounted for.

In memory a Linear weight is Paddle's [in, out] and the patch embedding a Linear over a patch's pixels (row, column,
channel). Official tensors are PyTorch's: Linear [out, in], patch embedding a Conv2D [D, C, height, width].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from paddlemae.engine.safe_import import nn, paddle
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


def _linear_weights(model: nn.Layer) -> set[str]:
    return {f"{official_name(name)}.weight" for name, part in model.named_sublayers() if isinstance(part, nn.Linear)}


def to_official(model: nn.Layer) -> dict[str, np.ndarray]:
    """Return the model's weights and position tables under the official names, in PyTorch's layout."""
    linear = _linear_weights(model)
    tensors = {}
    for name, tensor in official_state(model).items():
        array = tensor.numpy()
        if name == PATCH_EMBED:
            array = array.reshape([*model.encoder.patch_size, model.encoder.channels, -1]).transpose(3, 2, 0, 1)
        elif name in linear:
            array = transpose(array)
        tensors[name] = np.ascontiguousarray(array)
    return tensors


def official_shapes(model: nn.Layer) -> dict[str, tuple[int, ...]]:
    """Return the shape of each official tensor of this model."""
    linear = _linear_weights(model)
    shapes = {}
    for name, tensor in official_state(model).items():
        shape = tuple(tensor.shape)
        if name == PATCH_EMBED:
            shape = (shape[1], model.encoder.channels, *model.encoder.patch_size)
        elif name in linear:
            shape = shape[::-1]
        shapes[name] = shape
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
    linear = _linear_weights(model)
    for name, tensor in official_state(model).items():
        if name in tensors:
            array = np.asarray(tensors[name], dtype=np.float32)
            if name == PATCH_EMBED:
                array = array.transpose(2, 3, 1, 0).reshape(tensor.shape)
            elif name in linear:
                array = transpose(array)
            tensor.set_value(np.ascontiguousarray(array))
            release(tensors[name])
