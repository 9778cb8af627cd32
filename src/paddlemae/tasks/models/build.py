"""Models for tasks: built from a recipe's shape, or read from a checkpoint; and images made ready for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any, Literal

import numpy as np
import paddle

from paddlemae.data.batches import PATH_STREAM, Batch, batch_rngs
from paddlemae.data.decode.pixel_format import default_bits
from paddlemae.data.views.augment import View
from paddlemae.data.views.randaugment import RandAugment
from paddlemae.engine.device import is_cpu, tensor_of
from paddlemae.model.kernels import scale_channels
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.vit import SIZES, VisionTransformer, pair
from paddlemae.recipe import (
    AUTO,
    Augmentation,
    AutoencoderShape,
    ClassifierShape,
    FinetuneAugmentation,
    default_statistics,
)
from paddlemae.system.display_names import say
from paddlemae.system.limits import free_memory
from paddlemae.tasks.models.read_model import ADAPTED, ENCODER_FIELDS, KIND_NAMES, Checkpoint, adapted, plain
from paddlemae.weights.description import count_weights
from paddlemae.weights.model_folder import Description
from paddlemae.weights.transfer import load_official

KINDS = {"mae": MaskedAutoencoder, "classifier": VisionTransformer, "encoder": VisionTransformer}
SHOWN_DEVIATIONS = 2.5
BYTES_A_WEIGHT = 16  # in training: itself, its gradient and two moments, in float32
DECODER_FIELDS = (
    "decoder",
    "decoder_embed_dim",
    "decoder_depth",
    "decoder_num_heads",
    "inter_block_attention",
    "norm_pix_loss",
)
DECODER_PARTS = (
    "mask_token",
    "decoder_embed",
    "decoder_pos_embed",
    "decoder_blocks",
    "inter_block",
    "decoder_norm",
    "decoder_pred",
)


def named(shape: AutoencoderShape | ClassifierShape) -> dict[str, Any]:
    """What a recipe's shape says: the size's values, overruled by those that are named one by one."""
    given = {name: value for name, value in shape.model_dump().items() if value is not None and name != "size"}
    return {**SIZES[shape.size], **given} if shape.size else given


def autoencoder_arguments(shape: AutoencoderShape) -> dict[str, Any]:
    """The keyword arguments of `MaskedAutoencoder` that a recipe's shape means."""
    return named(shape)


def check_memory(kind: str, arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError if training such a model takes more memory than there is, before any is taken.

    Args:
        kind, arguments: the keyword arguments of one of `KINDS`.
    """
    if not is_cpu():
        return
    defaults = {name: one.default for name, one in signature(KINDS[kind]).parameters.items()}
    weights = count_weights(kind, {**defaults, **arguments})
    free = free_memory()
    if free is not None and BYTES_A_WEIGHT * weights > free:
        raise ValueError(
            f"a model of {weights:,} weights takes {BYTES_A_WEIGHT * weights / 2**30:,.1f} GiB with its gradients and "
            f"the optimizer's state, and {free / 2**30:.1f} GiB are free; choose a smaller one, or another machine"
        )


def build_autoencoder(shape: AutoencoderShape, seed: int, checkpoint: Checkpoint | None = None) -> MaskedAutoencoder:
    """A new model whose weights depend on the seed alone, or whose encoder is a checkpoint's, as `fitted` to it.

    The checkpoint's decoder comes along if it has one of the same shape that predicts the same target; a classifier has
    no norm behind its encoder's last block, which is new then. What is new is said on stderr.
    """
    paddle.seed(seed)
    model = MaskedAutoencoder(**autoencoder_arguments(shape))
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
        say(f"{checkpoint.folder}: the {parts} begins anew{why}", error=True)
    return model


def load_autoencoder(checkpoint: Checkpoint) -> MaskedAutoencoder:
    """The masked autoencoder of a checkpoint, in eval mode.

    Raises:
        ValueError: the checkpoint is another kind of model, or its files don't belong together.
    """
    _check_kind(checkpoint, "mae", "no decoder to reconstruct with; name a pretraining run")
    model = load_encoder(checkpoint)
    assert isinstance(model, MaskedAutoencoder)
    return model


def _check_kind(checkpoint: Checkpoint, wanted: str, lacking: str) -> None:
    if checkpoint.description.kind != wanted:
        what = KIND_NAMES[checkpoint.description.kind]
        raise ValueError(f"{checkpoint.folder} holds {what}, which has {lacking}")


def load_encoder(checkpoint: Checkpoint, *, random: bool = False) -> MaskedAutoencoder | VisionTransformer:
    """The model of a checkpoint, of any kind, in eval mode: for its features.

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
    """The classifier of a checkpoint, in eval mode.

    Raises:
        ValueError: the checkpoint is another kind of model, or its files don't belong together.
    """
    _check_kind(checkpoint, "classifier", "no classes; name a fine-tuning run")
    model = load_encoder(checkpoint)
    assert isinstance(model, VisionTransformer)
    return model


def classifier_arguments(shape: ClassifierShape, checkpoint: Checkpoint | None, num_classes: int) -> dict[str, Any]:
    """The keyword arguments of `VisionTransformer`: the recipe's, else the checkpoint's, else the size's.

    Args:
        checkpoint: as `fitted` to the shape.
    Raises:
        ValueError: neither a checkpoint nor a size.
    """
    given = named(shape)
    if checkpoint is None:
        if not shape.size:
            raise ValueError(
                f"training from scratch needs a model; set model.size (one of {', '.join(SIZES)}) or choose a recipe "
                "that names one"
            )
        return {**given, "num_classes": num_classes}
    saved = {name: checkpoint.description.architecture[name] for name in ENCODER_FIELDS}
    return {**saved, **given, "num_classes": num_classes}


def fitted(checkpoint: Checkpoint, wanted: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint whose encoder is as `wanted` has it, brought to its channels, patches and images.

    Raises:
        ValueError: it can't be brought to it; all differences are listed.
    """
    saved = checkpoint.description.architecture
    different = [
        f"{name} is {plain(saved[name])} in the checkpoint and {plain(wanted[name])} in the recipe"
        for name in ENCODER_FIELDS
        if name not in ADAPTED
        and name in wanted
        and plain(saved[name]) != plain(wanted[name])
        and not (name == "positions" and wanted[name] == "learned")  # a fixed table is what learning begins with
    ]
    if different:
        raise ValueError(
            f"{checkpoint.folder} has another architecture: {'; '.join(different)}; change the recipe or the checkpoint"
        )
    return adapted(checkpoint, **{name: wanted[name] for name in ADAPTED if name in wanted})


def build_classifier(arguments: dict[str, Any], checkpoint: Checkpoint | None, seed: int) -> VisionTransformer:
    """A classifier, its encoder taken from the checkpoint, as `fitted` to it, if there is one.

    The head is new, and so is `fc_norm` where the pretrained model had `norm` (MAE, appendix A.2).
    """
    paddle.seed(seed)
    model = VisionTransformer(**arguments)
    if checkpoint is None:
        return model
    ignored = [*DECODER_PARTS, "norm", "fc_norm", "head"]
    tensors = {
        name: tensor for name, tensor in checkpoint.tensors.items() if name.split(".")[0] not in ("fc_norm", "head")
    }
    load_official(
        model,
        tensors,
        may_miss=["fc_norm", "norm", "head"],
        may_ignore=ignored,
        source=str(checkpoint.folder),
    )
    return model


def describe(model, statistics, *, eval_crop_ratio: float, classes=(), provenance=None, bits=None) -> Description:
    """The description that goes beside the model's weights."""
    mean, std = statistics
    return Description(
        kind="mae" if isinstance(model, MaskedAutoencoder) else "classifier",
        architecture=model.config,
        mean=list(mean),
        std=list(std),
        eval_crop_ratio=eval_crop_ratio,
        classes=list(classes),
        provenance={**(provenance or {}), "parameters": parameter_count(model)},
        bits=bits,
    )


def statistics_of(
    recipe, channels: int, checkpoint: Checkpoint | None = None, measured: Callable[[], Any] | None = None
):
    """(mean, std): the recipe's, else those that the checkpoint was trained with, else the defaults.

    Args:
        measured: gives those of the training images, which `auto` means; without it the numbers don't matter.
    Raises:
        ValueError: not one number a channel.
    """
    trained, origin = (checkpoint.description, checkpoint.folder) if checkpoint else (None, None)
    mean: Sequence[float]
    std: Sequence[float]
    mean, std = (trained.mean, trained.std) if trained else default_statistics(channels)
    given = (recipe.mean, recipe.std)
    if recipe.mean == AUTO:
        given = measured() if measured else (None, None)
    mean, std = given[0] or mean, given[1] or std
    if len(mean) != channels or len(std) != channels:
        instead = f"mean=null std=null takes those of {origin}" if trained else "mean=auto std=auto finds your images'"
        raise ValueError(
            f"mean and std need {channels} numbers, one a channel; got {list(mean)} and {list(std)}; {instead}"
        )
    if trained and not np.allclose((mean, std), (trained.mean, trained.std)):
        warnings.warn(f"the recipe normalises images otherwise than {origin} was trained", stacklevel=3)
    if not trained and not recipe.mean and (recipe.augment.bits or default_bits(channels)) == 16:
        warnings.warn(
            "images of 16 bits are normalised as if they were as bright as pictures, and few are: name their mean and "
            "std (a channel, as parts of 65535), or mean=auto std=auto",
            stacklevel=3,
        )
    return mean, std


def training_view(
    augment: Augmentation,
    image_size,
    channels: int,
    mean: Sequence[float] = (),
    bits: Literal[8, 16] | None = None,
) -> View:
    """The views that a recipe's augmentation makes.

    Args:
        mean: in [0, 1] a channel, fills what RandAugment uncovers.
        bits: of a channel's value, if the recipe names none.
    """
    shared = {name: getattr(augment, name) for name in Augmentation.model_fields}
    shared["bits"] = augment.bits or bits
    view = View(image_size=pair(image_size), channels=channels, **shared)
    if not isinstance(augment, FinetuneAugmentation) or not augment.randaugment:
        return view
    fill = tuple(min(255, round(255 * value)) for value in mean)
    drawn = RandAugment(augment.randaugment, augment.magnitude, augment.magnitude_std, fill=fill)
    return replace(view, randaugment=drawn)


def evaluation_view(description: Description) -> View:
    """The view that a saved model looks at images through."""
    shape = description.architecture
    return View(
        image_size=pair(shape["image_size"]),
        channels=shape["channels"],
        eval_crop_ratio=description.eval_crop_ratio,
        bits=description.bits,
    )


def _pixel_statistics(description: Description) -> tuple[np.ndarray, np.ndarray]:
    """(mean, std), float32 [1, C, 1, 1] each."""
    mean, std = (np.asarray(values, np.float32).reshape(1, -1, 1, 1) for values in (description.mean, description.std))
    return mean, std


def path_noise(seed: int, batch: Batch, depth: int) -> np.ndarray:
    """Each image's noise for drop path, float32 [B, depth, 2] in [0, 1); see `vit.encode`."""
    return np.stack([rng.random((depth, 2), np.float32) for rng in batch_rngs(seed, PATH_STREAM, batch)])


def to_input(images: np.ndarray, description: Description) -> paddle.Tensor:
    """Normalised float32 images [B, C, H, W] from uint8 or uint16 ones, on the model's device."""
    if images.dtype == np.uint16:  # which Paddle takes for bfloat16
        return normalised(tensor_of(images.astype(np.int32)), description, white=65535)
    return normalised(tensor_of(images), description)


def normalised(images: paddle.Tensor, description: Description, white: int = 255) -> paddle.Tensor:
    """`to_input` of images that are on the device already; `white` is the largest value of their depth."""
    mean, std = (values.ravel() for values in _pixel_statistics(description))
    return scale_channels(images.astype("float32"), tensor_of(1 / (white * std)), tensor_of(-mean / std))


def to_pictures(images: paddle.Tensor, description: Description) -> np.ndarray:
    """uint8 [B, H, W, C] pictures from normalised images; values out of range are clipped.

    Of 16 bits, `SHOWN_DEVIATIONS` standard deviations around each channel's mean are shown, since most such images
    would be black else.
    """
    values = images.numpy()
    if evaluation_view(description).depth == 16:
        shown = values / (2 * SHOWN_DEVIATIONS) + 0.5
    else:
        mean, std = _pixel_statistics(description)
        shown = values * std + mean
    return np.clip(shown * 255 + 0.5, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def grey_of(description: Description) -> np.ndarray:
    """The normalised value of each channel, [C], that `to_pictures` shows as the middle of all brightness."""
    if evaluation_view(description).depth == 16:
        return np.zeros(len(description.mean))
    return (0.5 - np.asarray(description.mean)) / np.asarray(description.std)


def parameter_count(model) -> int:
    """Trainable numbers in the model."""
    return sum(parameter.size for parameter in model.parameters() if not parameter.stop_gradient)
