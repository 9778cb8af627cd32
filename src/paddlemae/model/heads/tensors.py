"""Names and shapes of the tensors of segmenters' heads, as files hold them (PyTorch's layout).

Shapes: D width of the encoder, W channels of the head, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddlemae.model.block_tensors import TensorShapes

POOLS = (1, 2, 3, 6)  # sides of the grids that UPerNet's smallest map is pooled to
AUXILIARY_WIDTH = 256  # channels of the auxiliary head


def head_tensors(architecture: Mapping[str, Any]) -> TensorShapes:
    """Return the shape of every tensor behind the encoder of a segmenter."""
    return HEAD_TENSORS[architecture["head"]](architecture)


def _linear(architecture: Mapping[str, Any]) -> TensorShapes:
    return _layer("head.classifier", architecture["num_classes"], architecture["embed_dim"])


def _conv(architecture: Mapping[str, Any]) -> TensorShapes:
    width, channels = architecture["embed_dim"], architecture["head_width"]
    shapes: TensorShapes = {}
    for number, inputs in enumerate((width, channels)):
        stage = f"head.stages.{number}"
        shapes |= _upsampling(f"{stage}.up", inputs, channels) | _layer(f"{stage}.norm1", channels)
        shapes |= {f"{stage}.conv.weight": (channels, channels, 3, 3)} | _layer(f"{stage}.norm2", channels)
    return shapes | _layer("head.classifier", architecture["num_classes"], channels)


def _upernet(architecture: Mapping[str, Any]) -> TensorShapes:
    width, channels, classes = (architecture[name] for name in ("embed_dim", "head_width", "num_classes"))
    shapes = _upsampling("neck.quadrupled.first", width, width) | _batch_norm("neck.quadrupled.norm", width)
    shapes |= _upsampling("neck.quadrupled.second", width, width) | _upsampling("neck.doubled", width, width)
    for number in range(len(POOLS)):
        shapes |= _block(f"head.pools.{number}", width, channels, 1)
    shapes |= _block("head.pooled", width + len(POOLS) * channels, channels)
    for number in range(3):
        shapes |= _block(f"head.laterals.{number}", width, channels, 1)
    for number in range(3):
        shapes |= _block(f"head.smooths.{number}", channels, channels)
    shapes |= _block("head.fusion", 4 * channels, channels) | _layer("head.classifier", classes, channels)
    shapes |= _block("auxiliary.convs.0", width, AUXILIARY_WIDTH)
    return shapes | _layer("auxiliary.classifier", classes, AUXILIARY_WIDTH)


HEAD_TENSORS = {"linear": _linear, "conv": _conv, "upernet": _upernet}


def _layer(name: str, *weight: int) -> TensorShapes:
    """Return a weight and the bias of its first dimension."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _upsampling(name: str, inputs: int, outputs: int) -> TensorShapes:
    return {f"{name}.weight": (inputs, outputs, 2, 2), f"{name}.bias": (outputs,)}


def _batch_norm(name: str, channels: int) -> TensorShapes:
    return dict.fromkeys((f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")), (channels,))


def _block(name: str, inputs: int, outputs: int, side: int = 3) -> TensorShapes:
    """Return a convolution without a bias, and its batch norm."""
    return {f"{name}.conv.weight": (outputs, inputs, side, side)} | _batch_norm(f"{name}.norm", outputs)
