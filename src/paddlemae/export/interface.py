"""What an exported model takes and gives, and what is written of it into its file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from paddlemae import __version__
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.vit import VisionTransformer, pool_tokens
from paddlemae.weights.store import Description

FORMAT = 1  # of the metadata
PARTS = ("encoder", "classifier", "reconstructor")
Model = MaskedAutoencoder | VisionTransformer


@dataclass(frozen=True)
class Value:
    """An input or output; its shape is that of one image's, and the batch comes before it.

    Attributes:
        dtype: "uint8" or "float32".
        meaning: for people.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    meaning: str


@dataclass(frozen=True)
class Interface:
    """The part of a model that is exported.

    Attributes:
        what: one of `PARTS`.
        token: of an encoder's features, "cls" or "mean"; else None.
    """

    what: str
    token: str | None
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def interface_of(model: Model, what: str, token: str | None = None) -> Interface:
    """The interface of a part.

    Args:
        token: of an encoder, "mean" unless given.
    Raises:
        ValueError: a part or token that the model does not have.
    """
    if what not in PARTS:
        raise ValueError(f"what is exported must be one of {', '.join(PARTS)}, got {what!r}")
    if what == "classifier" and not isinstance(model, VisionTransformer):
        raise ValueError("a pretraining run has no classes; fine-tune it first, or export --what encoder")
    if what == "reconstructor" and not isinstance(model, MaskedAutoencoder):
        raise ValueError("a classifier has no decoder to reconstruct with; export the pretraining run that it is from")
    size = tuple(grid * patch for grid, patch in zip(model.grid, model.patch_size))
    shape = (model.channels, *size)
    inputs = [Value("images", "uint8", shape, "0..255, RGB where there are 3 channels; normalised inside")]
    if what == "encoder":
        token = token or "mean"
        pool_tokens(_two_tokens(), token, model.has_cls)  # refuses a token that it doesn't have
        width = model.config["embed_dim"]
        meaning = "cls token" if token == "cls" else "mean of the patch tokens"
        outputs = [Value("features", "float32", (width,), f"{meaning} after the encoder's last norm")]
        return Interface(what, token, tuple(inputs), tuple(outputs))
    if what == "classifier":
        outputs = [Value("logits", "float32", (model.config["num_classes"],), "before softmax, in the labels' order")]
        return Interface(what, None, tuple(inputs), tuple(outputs))
    rule = (
        "1 = patch removed, 0 = kept; every image of a batch keeps the same number, at least 1 (else nan or an error)"
    )
    inputs.append(Value("mask", "uint8", model.grid, rule))
    scale = "normalised by each patch's mean and deviation" if model.config["norm_pix_loss"] else "normalised images'"
    patches = (model.grid[0] * model.grid[1], model.patch_size[0] * model.patch_size[1] * model.channels)
    outputs = [
        Value(
            "completed", "float32", shape, "0..1 and a little beyond: kept patches as they are, removed ones predicted"
        ),
        Value("patches", "float32", patches, f"the decoder's own output, pixels {scale}, ordered row, column, channel"),
    ]
    return Interface(what, None, tuple(inputs), tuple(outputs))


def _two_tokens():
    import paddle

    return paddle.zeros([1, 2, 1])


def metadata_of(model: Model, description: Description, interface: Interface) -> dict[str, Any]:
    """What a program that knows no PaddleMAE must know to use the file; JSON's types alone."""
    values = {
        side: [{**asdict(value), "shape": ["batch", *value.shape]} for value in several]
        for side, several in (("inputs", interface.inputs), ("outputs", interface.outputs))
    }
    facts: dict[str, Any] = {
        "format": FORMAT,
        "made_by": f"PaddleMAE {__version__}",
        "what": interface.what,
        **values,
        "image_size": list(interface.inputs[0].shape[1:]),
        "channels": model.channels,
        "eval_crop_ratio": description.eval_crop_ratio,
        "mean": description.mean,
        "std": description.std,
        "normalised_inside": True,
        "patch_size": list(model.patch_size),
    }
    if interface.what == "encoder":
        facts["token"] = interface.token
    elif interface.what == "classifier":
        facts["labels"] = description.classes
    else:
        facts["target"] = description.target
    return facts
