"""Describe the inputs and outputs of an exported model, and the metadata stored in its file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from paddlemae import __version__
from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.segmenter import Segmenter
from paddlemae.weights.model_folder import Description

FORMAT = 1  # of the metadata
PARTS = ("encoder", "classifier", "reconstructor", "segmenter")
ANY_SIZE = ("height", "width")
TOKENS = ("cls", "mean")  # features of an exported encoder
Model = MaskedAutoencoder | VisionTransformer | Segmenter


@dataclass(frozen=True)
class Value:
    """An input or output; its shape is that of one image's, and the batch comes before it. Any size has a name.

    Attributes:
        dtype: "uint8", "int32" or "float32".
        meaning: for people.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str


@dataclass(frozen=True)
class Interface:
    """The part of a model that is exported.

    Attributes:
        what: one of `PARTS`.
        token: of an encoder's features, "cls" or "mean"; else None.
        depth: bits of a channel's value in its images, 8 or 16.
    """

    what: str
    token: str | None
    depth: int
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def interface_of(
    model: Model, what: str, token: str | None = None, depth: int = 8, *, multi_label: bool = False
) -> Interface:
    """Return the interface of an exportable part of a model.

    Args:
        token: of an encoder, "mean" unless given.
        depth: bits of a channel's value, as in `View.depth`. Images of 16 are int32, since Paddle takes uint16 for
            bfloat16.
        multi_label: whether a classifier gives an image any number of classes.
    Raises:
        ValueError: a part or token that the model does not have.
    """
    if what not in PARTS:
        raise ValueError(f"--what must be one of {', '.join(PARTS)}, got {what!r}")
    if what == "classifier" and not isinstance(model, VisionTransformer):
        raise ValueError("a pretraining run has no classes; fine-tune it first, or export --what encoder")
    if what == "reconstructor" and not isinstance(model, MaskedAutoencoder):
        raise ValueError(f"a {model.kind} has no decoder; export the pretraining run that it started from")
    if what == "segmenter" and not isinstance(model, Segmenter):
        raise ValueError("this run has no classes of pixels; export a run of segment, or --what encoder")
    if what == "encoder" and isinstance(model, Segmenter):
        _check_encoder(model)
    shape = (model.encoder.channels, *(grid * patch for grid, patch in zip(model.grid, model.encoder.patch_size)))
    values = f"0..{2**depth - 1}, RGB where there are 3 channels; normalised inside"
    images = Value("images", "uint8" if depth == 8 else "int32", shape, values)
    if isinstance(model, Segmenter) and what == "segmenter":
        rows, columns = model.encoder.patch_size
        least = ", at least two patches" if model.taps else ""
        any_size = f"{values}; height a multiple of {rows}, width of {columns}{least}"
        images = replace(images, shape=(model.encoder.channels, *ANY_SIZE), meaning=any_size)
        scores = Value("logits", "float32", (model.config["num_classes"], *ANY_SIZE), "before softmax, of each pixel")
        return Interface(what, None, depth, (images,), (scores,))
    if what == "classifier":
        meaning = f"before {'sigmoid' if multi_label else 'softmax'}, in the labels' order"
        logits = Value("logits", "float32", (model.config["num_classes"],), meaning)
        return Interface(what, None, depth, (images,), (logits,))
    if what == "encoder":
        return Interface(what, token or "mean", depth, (images,), (_features(model, token or "mean"),))
    assert isinstance(model, MaskedAutoencoder)
    rule = "1 = patch removed, 0 = kept; all images of a batch keep the same number, at least 1 (else an error or nan)"
    mask = Value("mask", "uint8", model.grid, rule)
    meaning = "0..1 or a bit beyond: kept patches as they are, removed ones predicted"
    completed = Value("completed", "float32", shape, meaning)
    order = f"what the decoder gives, pixels {model.target.meaning}; by row, column, channel"
    patches = Value("patches", "float32", (model.grid[0] * model.grid[1], model.pixels), order)
    return Interface(what, None, depth, (images, mask), (completed, patches))


def _check_encoder(model: Segmenter) -> None:
    """Raise a ValueError unless an export of the encoder alone can hold this one."""
    if not model.encoder.has_norm or model.config["relative_positions"]:
        why = "relative positions" if model.encoder.has_norm else "no norm after its last block"
        raise ValueError(f"the encoder of this segmenter has {why}; export --what segmenter, or its pretraining run")


def _features(model: Model, token: str) -> Value:
    if token not in TOKENS:
        raise ValueError(f"--token must be one of {', '.join(TOKENS)}, got {token!r}")
    if token == "cls" and not model.encoder.has_cls:
        raise ValueError("this model has no cls token; use --token mean")
    meaning = "cls token" if token == "cls" else "mean of the patch tokens"
    return Value("features", "float32", (model.config["embed_dim"],), f"{meaning} after the encoder's last norm")


def metadata_of(model: Model, description: Description, interface: Interface) -> dict[str, Any]:
    """Return the metadata that other programs need to use the file, as JSON types."""
    inputs, outputs = (
        [{**asdict(value), "shape": ["batch", *value.shape]} for value in several]
        for several in (interface.inputs, interface.outputs)
    )
    facts: dict[str, Any] = {
        "format": FORMAT,
        "made_by": f"PaddleMAE {__version__}",
        "what": interface.what,
        "inputs": inputs,
        "outputs": outputs,
        "image_size": [grid * patch for grid, patch in zip(model.grid, model.encoder.patch_size)],
        "channels": model.encoder.channels,
        "bits": interface.depth,
        "eval_crop_ratio": description.eval_crop_ratio,
        "fit": description.fit,
        "mean": description.mean,
        "std": description.std,
        "normalised_inside": True,
        "patch_size": list(model.encoder.patch_size),
    }
    if interface.what == "encoder":
        facts["token"] = interface.token
    elif interface.what == "classifier":
        facts["labels"] = description.classes
        if description.thresholds is not None:
            facts["thresholds"] = description.thresholds
    elif interface.what == "segmenter":
        facts["labels"] = description.classes
        if description.palette is not None:
            facts["palette"] = description.palette
    else:
        facts["target"] = description.target
    return facts
