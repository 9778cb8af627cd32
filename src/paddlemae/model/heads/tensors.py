"""Names and shapes of the tensors of segmenters' heads, as files hold them (PyTorch's layout).

Shapes: D width of the encoder, W channels of the head, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TensorShapes = dict[str, tuple[int, ...]]


def head_tensors(architecture: Mapping[str, Any]) -> TensorShapes:
    """Return the shape of every tensor behind the encoder of a segmenter."""
    return {"linear": _linear}[architecture["head"]](architecture)


def _linear(architecture: Mapping[str, Any]) -> TensorShapes:
    return layer("head.classifier", architecture["num_classes"], architecture["embed_dim"])


def layer(name: str, *weight: int) -> TensorShapes:
    """Return a weight and the bias of its first dimension."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}
