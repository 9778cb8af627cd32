"""Parse `model.json`, and compare it with the tensors next to it before a model is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model

from paddlemae.model.block_tensors import TensorShapes
from paddlemae.model.shape import (
    LARGEST_STATISTIC,
    MOST,
    MOST_PIXELS,
    SHAPES,
    SMALLEST_STD,
    Key,
    Pixels,
    check_taps,
    keys_of,
    pair,
    tensor_shapes,
)
from paddlemae.system.display_names import display_name
from paddlemae.system.documents import validate_content
from paddlemae.weights.layouts.architecture import faults
from paddlemae.weights.layouts.tensor_names import Draft

Count = Annotated[int, Field(ge=1, le=MOST)]
Means = Annotated[list[Annotated[float, Field(ge=-LARGEST_STATISTIC, le=LARGEST_STATISTIC)]], Field(min_length=1)]
Colour = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]
Stds = Annotated[list[Annotated[float, Field(ge=SMALLEST_STD, le=LARGEST_STATISTIC)]], Field(min_length=1)]


def _type_of(shape: type[Any]) -> type[BaseModel]:
    """Return the type of a shape's keys in `model.json`."""
    types: Any = {key.name: (_kind_of(key), key.default if key.is_new else ...) for key in keys_of(shape)}
    config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    return create_model(f"{shape.__name__}Type", __config__=config, **types)


def _kind_of(key: Key) -> Any:
    if key.kind == Pixels:
        side = Annotated[int, Field(**key.limits)]
        return side | Annotated[list[side], Field(min_length=2, max_length=2)]
    return Annotated[key.kind, Field(**key.limits)] if key.limits else key.kind


class HeadType(BaseModel):
    """A probe's head."""

    model_config = ConfigDict(strict=True, extra="forbid")
    width: Count
    num_classes: Count


TYPES: dict[str, tuple[type[BaseModel], ...]] = {
    **{kind: tuple(map(_type_of, shapes)) for kind, shapes in SHAPES.items()},
    "probe": (HeadType,),
}
if TYPE_CHECKING:
    Kind = str
else:
    Kind = Literal[tuple(TYPES)]


class DescriptionType(BaseModel):
    """The fields of `model.json`, but for what its kind asks of the architecture."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    kind: Kind
    architecture: dict[str, Any]
    mean: Means
    std: Stds
    eval_crop_ratio: Annotated[float, Field(gt=0, le=1)]
    classes: list[str]
    provenance: dict[str, Any]
    bits: Literal[8, 16] | None = None
    fit: Literal["crop", "stretch"] = "crop"
    thresholds: list[Annotated[float, Field(ge=0, le=1)]] | None = None
    palette: list[Colour] | None = None
    short_side: Annotated[int, Field(ge=1, le=MOST_PIXELS)] | None = None


def check_description(content: Mapping[str, Any]) -> None:
    """Raise a ValueError, one line, unless these are a model's description, each field and all together."""
    found = validate_content(DescriptionType, dict(content))
    known: set[str] = set()
    shape: dict[str, Any] = {}
    for kind in TYPES[found.kind]:
        try:
            shape |= validate_content(kind, found.architecture).model_dump()
        except ValueError as fault:
            raise ValueError(f"architecture.{fault}") from None
        known |= set(kind.model_fields)
    if others := sorted(set(found.architecture) - known):
        raise ValueError(f"an architecture that this PaddleMAE does not know: {display_name(', '.join(others[:4]))}")
    if found.kind != "probe":
        _check_encoder(found.kind, shape)
        if len(found.mean) != shape["channels"] or len(found.std) != shape["channels"]:
            raise ValueError(f"{len(found.mean)} means and {len(found.std)} stds for {shape['channels']} channels")
    classes = shape.get("num_classes", 0) if found.kind != "encoder" else 0
    if len(found.classes) != classes:
        raise ValueError(f"{len(found.classes)} names of {classes} classes")
    if found.thresholds is not None and (found.kind != "classifier" or len(found.thresholds) != classes):
        raise ValueError(f"{len(found.thresholds)} thresholds of a {found.kind} of {classes} classes")
    if found.palette is not None and (found.kind != "segmenter" or len(found.palette) != classes):
        raise ValueError(f"{len(found.palette)} colours of a {found.kind} of {classes} classes")


def _check_encoder(kind: str, shape: Mapping[str, Any]) -> None:
    sides = zip(pair(shape["image_size"]), pair(shape["patch_size"]))
    if any(image % patch for image, patch in sides):
        raise ValueError("architecture.image_size is not divisible by its patch_size")
    widths = [("embed_dim", "num_heads")] + ([("decoder_embed_dim", "decoder_num_heads")] if kind == "mae" else [])
    for width, heads in widths:
        if shape[width] % shape[heads]:
            raise ValueError(f"architecture.{width} ({shape[width]}) is not divisible by {heads} ({shape[heads]})")
    if shape.get("pool") == "cls" and not shape["cls_token"]:
        raise ValueError("architecture.pool is cls, and there is no cls token")
    if shape.get("taps"):
        check_taps(shape["taps"], shape["depth"])
    if kind == "segmenter" and shape["head"] != "linear" and not shape["head_width"]:
        raise ValueError(f"architecture.head_width is missing for the head {shape['head']}")
    if kind == "segmenter" and shape["head"] == "upernet" and not shape["taps"]:
        raise ValueError("architecture.taps is missing for the head upernet")


def check_tensors(kind: str, architecture: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Raise a ValueError, one line, unless the tensors are all that this model has, each of its shape, of floats.

    Args:
        kind, architecture: as `check_description` took them. No model is built, and no more time and memory is taken
            than for a model of as many tensors.
    """
    depth = sum(architecture.get(name, 0) for name in ("depth", "decoder_depth"))
    if depth > len(tensors):
        raise ValueError(f"a model of {depth} blocks, and weights of {len(tensors)} tensors")
    if kind == "probe":
        shapes = head_shapes(architecture["width"], architecture["num_classes"])
    else:
        shapes = tensor_shapes(kind, architecture)
    found = faults(Draft(dict(tensors)), shapes)
    found += [f"{name} is of {array.dtype}" for name, array in tensors.items() if array.dtype.kind != "f"][:1]
    if found:
        raise ValueError("; ".join(found))


def head_shapes(width: int, num_classes: int) -> TensorShapes:
    """Return names and shapes of a probe's head."""
    shapes: TensorShapes = {"head.0.running_mean": (width,), "head.0.running_var": (width,)}
    return shapes | {"head.1.weight": (num_classes, width), "head.1.bias": (num_classes,)}


def count_weights(kind: str, architecture: Mapping[str, Any]) -> int:
    """Count the numbers in a model's tensors without listing its blocks, so that any depth is fast.

    Args:
        kind, architecture: see `tensor_shapes`.
    """
    depths = ("depth", "decoder_depth") if kind == "mae" else ("depth",)
    least = {**architecture, **dict.fromkeys(depths, 1)}
    total = base = _numbers(kind, least)
    for name in depths:
        total += (architecture[name] - 1) * (_numbers(kind, {**least, name: 2}) - base)
    return total


def _numbers(kind: str, architecture: Mapping[str, Any]) -> int:
    return sum(map(math.prod, tensor_shapes(kind, architecture).values()))
