"""Build models from a recipe's shape or a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from paddlemae.engine.device import is_cpu
from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.segmenter import Segmenter
from paddlemae.model.shape import (
    RELATIVE_POSITIONS,
    SIZES,
    DecoderShape,
    architecture_of,
    decoder_parts,
    names_of,
    split_keys,
)
from paddlemae.system.display_names import say
from paddlemae.system.limits import free_memory
from paddlemae.tasks.models.read_model import ADAPTED, ENCODER_FIELDS, KIND_NAMES, Checkpoint, adapt, plain
from paddlemae.weights.description import count_weights
from paddlemae.weights.model_folder import Description
from paddlemae.weights.transfer import load_official, official_shapes

KINDS: dict[str, type[MaskedAutoencoder] | type[VisionTransformer] | type[Segmenter]] = {
    "mae": MaskedAutoencoder,
    "classifier": VisionTransformer,
    "encoder": VisionTransformer,
    "segmenter": Segmenter,
}
BYTES_A_WEIGHT = 16  # in training: itself, its gradient and two moments, in float32
DECODER_FIELDS = names_of(DecoderShape)
DECODER_PARTS = sorted(decoder_parts())
HEAD_PARTS = ("head", "neck", "auxiliary")  # behind an encoder's last norm, in classifiers and segmenters


def arguments_of(shape: BaseModel) -> dict[str, Any]:
    """Return the model's keyword arguments for a recipe's shape: the size's values, overridden by those set."""
    given = {name: value for name, value in shape.model_dump().items() if value is not None}
    size = given.pop("size", None)  # which recipes of every kind of model have
    return {**SIZES[size], **given} if size else given


def check_memory(kind: str, arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError if training such a model takes more memory than there is, before any is taken.

    Args:
        kind, arguments: the keyword arguments of one of `KINDS`.
    """
    if not is_cpu():
        return
    weights = count_weights(kind, architecture_of(*split_keys(kind, arguments)))
    free = free_memory()
    if free is not None and BYTES_A_WEIGHT * weights > free:
        raise ValueError(
            f"a model of {weights:,} weights takes {BYTES_A_WEIGHT * weights / 2**30:,.1f} GiB with its gradients and "
            f"the optimizer's state, and {free / 2**30:.1f} GiB are free; choose a smaller one, or another machine"
        )


def build_autoencoder(shape: BaseModel, seed: int, checkpoint: Checkpoint | None = None) -> MaskedAutoencoder:
    """Build a model whose weights depend on the seed alone, or whose encoder is a checkpoint's, see `fit_shape`.

    The checkpoint's decoder comes along if it has one of the same shape that predicts the same target; a classifier has
    no norm after its encoder's last block, so that starts new. What starts new is printed to stderr.
    """
    paddle.seed(seed)
    model = MaskedAutoencoder(**arguments_of(shape))
    if checkpoint is None:
        return model
    saved = checkpoint.description.architecture
    other = [name for name in DECODER_FIELDS if saved.get(name) != model.config.get(name)]
    new = [*(DECODER_PARTS if other else ()), *(() if "norm.weight" in checkpoint.tensors else ("norm",))]
    tensors = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if name.split(".")[0] not in new and not name.endswith(RELATIVE_POSITIONS)
    }
    load_official(
        model, tensors, may_miss=new, may_ignore=["fc_norm", *HEAD_PARTS, *DECODER_PARTS], source=str(checkpoint.folder)
    )
    if new:
        parts = " and ".join([*(["decoder"] if other else []), *(["encoder's last norm"] if "norm" in new else [])])
        why = f" ({', '.join(other)} as the recipe has it)" if other and checkpoint.description.kind == "mae" else ""
        say(f"{checkpoint.folder}: new weights for the {parts}{why}", error=True)
    return model


def load_autoencoder(checkpoint: Checkpoint) -> MaskedAutoencoder:
    """Load the masked autoencoder of a checkpoint, in eval mode.

    Raises:
        ValueError: the checkpoint is another kind of model, or its files don't belong together.
    """
    _check_kind(checkpoint, "mae", "no decoder to reconstruct with; name a pretraining run")
    model = load_encoder(checkpoint)
    assert isinstance(model, MaskedAutoencoder)
    return model


def _check_kind(checkpoint: Checkpoint, kind: str, lacking: str) -> None:
    if checkpoint.description.kind != kind:
        raise ValueError(f"{checkpoint.folder} holds {KIND_NAMES[checkpoint.description.kind]}, which has {lacking}")


def load_encoder(checkpoint: Checkpoint, *, random: bool = False) -> MaskedAutoencoder | VisionTransformer | Segmenter:
    """Load the model of a checkpoint, of any kind, in eval mode.

    Args:
        random: the same model as it is before any training, for comparison.
    Raises:
        ValueError: its files don't belong together.
    """
    if random:
        paddle.seed(0)
    model = KINDS[checkpoint.description.kind](**checkpoint.description.architecture)
    if not random:
        load_official(model, checkpoint.tensors, source=str(checkpoint.folder))
    model.eval()
    return model


def load_classifier(checkpoint: Checkpoint) -> VisionTransformer:
    """Load the classifier of a checkpoint, in eval mode.

    Raises:
        ValueError: the checkpoint is another kind of model, or its files don't belong together.
    """
    others = "embed, search, reconstruct" if checkpoint.description.kind == "mae" else "embed, search"
    lacking = f"no classes; name a fine-tuning run, or use this one with {others} or finetune --init"
    _check_kind(checkpoint, "classifier", lacking)
    model = load_encoder(checkpoint)
    assert isinstance(model, VisionTransformer)
    return model


def load_segmenter(checkpoint: Checkpoint) -> Segmenter:
    """Load the segmenter of a checkpoint, in eval mode.

    Raises:
        ValueError: the checkpoint is another kind of model, or its files don't belong together.
    """
    _check_kind(checkpoint, "segmenter", "no classes of pixels; name a run of segment, or use this one as its --init")
    model = load_encoder(checkpoint)
    assert isinstance(model, Segmenter)
    return model


def arguments_with_head(shape: BaseModel, checkpoint: Checkpoint | None, num_classes: int) -> dict[str, Any]:
    """Return the keyword arguments of a classifier or segmenter: the recipe's, else the checkpoint's, else the size's.

    Args:
        shape: of the model, as a recipe has it.
        checkpoint: from `fit_shape`.
    Raises:
        ValueError: neither a checkpoint nor a size.
    """
    given = arguments_of(shape)
    if checkpoint is None:
        if not shape.model_dump()["size"]:
            raise ValueError(
                f"training from scratch needs a model; set model.size (one of {', '.join(SIZES)}) or choose a recipe "
                "that names one"
            )
        return {**given, "num_classes": num_classes}
    saved = {name: checkpoint.description.architecture[name] for name in ENCODER_FIELDS}
    return {**saved, **given, "num_classes": num_classes}


def fit_shape(checkpoint: Checkpoint, shape: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint with its encoder adapted to the channels, patch size and image size of a shape.

    Raises:
        ValueError: other differences, which are all listed.
    """
    saved = checkpoint.description.architecture
    different = [
        f"{name} is {plain(saved[name])} in the checkpoint and {plain(shape[name])} in the recipe"
        for name in ENCODER_FIELDS
        if name not in ADAPTED
        and name in shape
        and plain(saved[name]) != plain(shape[name])
        and not (name == "positions" and shape[name] == "learned")  # a fixed table is what learning begins with
    ]
    if different:
        raise ValueError(
            f"{checkpoint.folder} has another architecture: {'; '.join(different)}; change the recipe or the checkpoint"
        )
    return adapt(checkpoint, **{name: shape[name] for name in ADAPTED if name in shape})


def build_classifier(arguments: Mapping[str, Any], checkpoint: Checkpoint | None, seed: int) -> VisionTransformer:
    """Build a classifier, its encoder from the checkpoint if there is one, see `fit_shape`.

    The head is new, and so is `fc_norm` where the pretrained model had `norm` (MAE, appendix A.2).
    """
    paddle.seed(seed)
    model = VisionTransformer(**arguments)
    if checkpoint is None:
        return model
    new = ["fc_norm", "norm", "head"]
    tensors = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if name.split(".")[0] not in ("fc_norm", *HEAD_PARTS) and not name.endswith(RELATIVE_POSITIONS)
    }
    ignored = [*DECODER_PARTS, *new]
    load_official(model, tensors, may_miss=new, may_ignore=ignored, source=str(checkpoint.folder))
    return model


def build_segmenter(
    arguments: Mapping[str, Any],
    checkpoint: Checkpoint | None,
    seed: int,
    classes: Sequence[str] = (),
    shares_K: np.ndarray | None = None,
) -> Segmenter:
    """Build a segmenter, its encoder from the checkpoint if there is one, see `fit_shape`.

    The head is new unless the checkpoint is a segmenter of the same head and classes; so is the last norm where the
    checkpoint has none in front of its pooling. Relative positions begin at 0 where the checkpoint has none.

    Args:
        classes: the names of the classes, which decide whether a head is for them.
        shares_K: what a new head expects, see `Segmenter.expect`; None: all classes alike.
    """
    paddle.seed(seed)
    model = Segmenter(**arguments)
    if shares_K is not None:
        model.expect(shares_K)
    if checkpoint is None:
        return model
    shapes = official_shapes(model)
    head = {name for name in shapes if name.split(".")[0] in HEAD_PARTS}
    saved = {name: np.shape(tensor) for name, tensor in checkpoint.tensors.items() if name.split(".")[0] in HEAD_PARTS}
    keeps_head = (
        checkpoint.description.kind == "segmenter"
        and saved == {name: shapes[name] for name in head}
        and checkpoint.description.classes == list(classes)
        and checkpoint.description.architecture.get("taps") == model.config.get("taps")
    )
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name.endswith(RELATIVE_POSITIONS)}
    tensors |= {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if (keeps_head or name.split(".")[0] not in HEAD_PARTS)
        and (name in shapes or not name.endswith(RELATIVE_POSITIONS))
    }
    if checkpoint.description.kind == "segmenter":
        say(f"{checkpoint.folder}: {'its head is kept' if keeps_head else 'a new head'}", error=True)
    if any(name.endswith(RELATIVE_POSITIONS) and name not in shapes for name in checkpoint.tensors):
        say(f"{checkpoint.folder}: relative positions left out; relative_positions=true keeps them", error=True)
    load_official(
        model,
        tensors,
        may_miss=["norm", *HEAD_PARTS],
        may_ignore=["norm", "fc_norm", *DECODER_PARTS],
        source=str(checkpoint.folder),
    )
    return model


def describe(
    model: nn.Layer,
    statistics: tuple[Sequence[float], Sequence[float]],
    *,
    eval_crop_ratio: float,
    fit: Literal["crop", "stretch"] = "crop",
    classes: Sequence[str] = (),
    provenance: dict[str, Any] | None = None,
    bits: Literal[8, 16] | None = None,
    thresholds: list[float] | None = None,
    palette: list[list[int]] | None = None,
    short_side: int | None = None,
) -> Description:
    """Return the description that is stored with the model's weights."""
    mean, std = statistics
    return Description(
        kind=model.kind,
        architecture=model.config,
        mean=list(mean),
        std=list(std),
        eval_crop_ratio=eval_crop_ratio,
        fit=fit,
        classes=list(classes),
        provenance={**(provenance or {}), "parameters": parameter_count(model)},
        bits=bits,
        thresholds=thresholds,
        palette=palette,
        short_side=short_side,
    )


def parameter_count(model: nn.Layer) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.size for parameter in model.parameters() if not parameter.stop_gradient)
