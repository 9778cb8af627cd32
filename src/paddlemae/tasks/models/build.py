"""Build models from a recipe's shape or a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from paddlemae.engine.device import is_cpu
from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.shape import SIZES, DecoderShape, architecture_of, decoder_parts, names_of, split_keys
from paddlemae.recipe import AutoencoderShape, ClassifierShape
from paddlemae.system.display_names import say
from paddlemae.system.limits import free_memory
from paddlemae.tasks.models.read_model import ADAPTED, ENCODER_FIELDS, KIND_NAMES, Checkpoint, adapt, plain
from paddlemae.weights.description import count_weights
from paddlemae.weights.model_folder import Description
from paddlemae.weights.transfer import load_official

KINDS: dict[str, type[MaskedAutoencoder] | type[VisionTransformer]] = {
    "mae": MaskedAutoencoder,
    "classifier": VisionTransformer,
    "encoder": VisionTransformer,
}
BYTES_A_WEIGHT = 16  # in training: itself, its gradient and two moments, in float32
DECODER_FIELDS = names_of(DecoderShape)
DECODER_PARTS = sorted(decoder_parts())


def arguments_of(shape: AutoencoderShape | ClassifierShape) -> dict[str, Any]:
    """Return the model's keyword arguments for a recipe's shape: the size's values, overridden by those set."""
    given = {name: value for name, value in shape.model_dump().items() if value is not None and name != "size"}
    return {**SIZES[shape.size], **given} if shape.size else given


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


def build_autoencoder(shape: AutoencoderShape, seed: int, checkpoint: Checkpoint | None = None) -> MaskedAutoencoder:
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
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name.split(".")[0] not in new}
    load_official(
        model, tensors, may_miss=new, may_ignore=["fc_norm", "head", *DECODER_PARTS], source=str(checkpoint.folder)
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


def load_encoder(checkpoint: Checkpoint, *, random: bool = False) -> MaskedAutoencoder | VisionTransformer:
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


def classifier_arguments(shape: ClassifierShape, checkpoint: Checkpoint | None, num_classes: int) -> dict[str, Any]:
    """Return the keyword arguments of `VisionTransformer`: the recipe's, else the checkpoint's, else the size's.

    Args:
        checkpoint: from `fit_shape`.
    Raises:
        ValueError: neither a checkpoint nor a size.
    """
    given = arguments_of(shape)
    if checkpoint is None:
        if not shape.size:
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
        name: tensor for name, tensor in checkpoint.tensors.items() if name.split(".")[0] not in ("fc_norm", "head")
    }
    load_official(model, tensors, may_miss=new, may_ignore=[*DECODER_PARTS, *new], source=str(checkpoint.folder))
    return model


def describe(
    model: nn.Layer,
    statistics: tuple[Sequence[float], Sequence[float]],
    *,
    eval_crop_ratio: float,
    classes: Sequence[str] = (),
    provenance: dict[str, Any] | None = None,
    bits: Literal[8, 16] | None = None,
    thresholds: list[float] | None = None,
) -> Description:
    """Return the description that is stored with the model's weights."""
    mean, std = statistics
    return Description(
        kind=model.kind,
        architecture=model.config,
        mean=list(mean),
        std=list(std),
        eval_crop_ratio=eval_crop_ratio,
        classes=list(classes),
        provenance={**(provenance or {}), "parameters": parameter_count(model)},
        bits=bits,
        thresholds=thresholds,
    )


def parameter_count(model: nn.Layer) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.size for parameter in model.parameters() if not parameter.stop_gradient)
