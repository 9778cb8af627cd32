"""Other people's names and shapes of the same weights, both ways: NumPy arrays in, NumPy arrays out.

A layout is recognised by its keys. Every key is accounted for: used, converted, ignored by a stated rule, or an
error. No model is built and nothing is read from a disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from paddlemae.model.shape import tensor_shapes
from paddlemae.system.display_names import display_name
from paddlemae.weights.layouts import huggingface, mae_pytorch, official, paddlevit, timm
from paddlemae.weights.layouts.architecture import assemble, faults
from paddlemae.weights.layouts.settings import Settings, from_arguments, from_preprocessor, size_of, whole
from paddlemae.weights.layouts.tensor_names import (
    Draft,
    Pairs,
    Shapes,
    drafted,
    lies_as,
    linear_names,
    their_name,
    transpose_linears,
    unmarked,
    wrapper_prefix,
)
from paddlemae.weights.layouts.translation import Exported, Imported
from paddlemae.weights.transpose import transpose

__all__ = ["LAYOUTS", "Exported", "Imported", "export_weights", "import_weights", "recognise"]


@dataclass(frozen=True)
class _Layout:
    """How a layout is recognised.

    Attributes:
        signs: names that its every file has; the more of a file's, the nearer.
        lies: how its Linear weights lie, "torch" or "paddle".
        wrapper: see `Exported`.
    """

    signs: tuple[str, ...]
    lies: str
    wrapper: str | None = None


_PLAIN = ("pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight")
_MAE_PYTORCH = (
    "encoder.patch_embed.proj.weight",
    "encoder.blocks.0.attn.qkv.weight",
    "encoder_to_decoder.weight",
    "decoder.head.weight",
)
_LAYOUTS = {
    "official": _Layout(_PLAIN, "torch", "model"),
    "timm": _Layout(_PLAIN, "torch"),
    "transformers": _Layout(
        (
            "embeddings.position_embeddings",
            "embeddings.patch_embeddings.projection.weight",
            "encoder.layer.0.layernorm_before.weight",
            "encoder.layer.0.attention.attention.query.weight",
        ),
        "torch",
    ),
    "mae-pytorch": _Layout(_MAE_PYTORCH, "torch", "model"),
    "paddle": _Layout(_PLAIN, "paddle"),
    "paddle-mae-pytorch": _Layout(_MAE_PYTORCH, "paddle"),
    "paddlevit": _Layout(
        ("cls_token", "patch_embedding.patch_embedding.weight", "encoder.layers.0.attn_norm.weight"), "paddle"
    ),
}
LAYOUTS: tuple[str, ...] = tuple(_LAYOUTS)


def recognise(names_and_shapes: Shapes, config: Mapping[str, Any] | None = None) -> str:
    """Recognise the layout of a file by its keys.

    Official and timm's names are the same, so only a timm `config.json` makes it "timm". PASSL's and the other Paddle
    ports of the official MAE are "paddle".

    Args:
        names_and_shapes: of a file's tensors.
        config: `config.json` of its folder.
    Returns:
        one of `LAYOUTS`.
    Raises:
        ValueError: none; or Linear weights that lie both ways.
    """
    wrapper = wrapper_prefix(names_and_shapes)
    names = {unmarked(name.removeprefix(wrapper)) for name in names_and_shapes}
    if f"{huggingface.encoder_prefix(names)}embeddings.patch_embeddings.projection.weight" in names:
        return "transformers"
    if "patch_embedding.patch_embedding.weight" in names:
        return "paddlevit"
    paddle = lies_as(names_and_shapes) == "paddle"
    if within := _prefix_of_vit(names):
        raise ValueError(
            f"the names that begin with {display_name(within)!r} are a ViT's, next to others that are none of it; name "
            f"key={display_name(within[:-1])} to take these alone"
        )
    if "encoder.patch_embed.proj.weight" in names or _has_split_biases(names):
        return "paddle-mae-pytorch" if paddle else "mae-pytorch"
    if "patch_embed.proj.weight" in names and "blocks.0.norm1.weight" in names:
        return "paddle" if paddle else "timm" if timm.is_config(config) else "official"
    encoder = huggingface.encoder_prefix(names)
    raise ValueError(_not_known({name.removeprefix(encoder) for name in names}))


def _has_split_biases(names: set[str]) -> bool:
    return "patch_embed.proj.weight" in names and "blocks.0.attn.q_bias" in names and "cls_token" not in names


def _prefix_of_vit(names: set[str]) -> str | None:
    """Return the prefix of a ViT's names inside a larger model in the official layout; None for a whole model.

    MAE-pytorch's own encoder, which has no cls token, is none.
    """
    ends = ("patch_embed.proj.weight", "cls_token", "blocks.0.attn.qkv.bias")
    starts = sorted(name.removesuffix(ends[0]) for name in names if name.endswith(f".{ends[0]}"))
    return next((start for start in starts if any(f"{start}{end}" in names for end in ends[1:])), None)


def _not_known(names: set[str]) -> str:
    """Describe the nearest layout and the keys that it lacks."""
    lacking = {layout: [sign for sign in one.signs if sign not in names] for layout, one in _LAYOUTS.items()}
    nearest = min(lacking, key=lambda layout: len(lacking[layout]) / len(_LAYOUTS[layout].signs))
    held = ", ".join(display_name(name) for name in sorted(names)[:3]) or "nothing"
    near = f"the nearest is {nearest}, of which {', '.join(lacking[nearest])} is missing; "
    return (
        f"not a known layout of ViT or MAE weights ({', '.join(LAYOUTS)}): "
        f"{near if len(lacking[nearest]) < len(_LAYOUTS[nearest].signs) else ''}"
        f"the file holds {held}{', ...' if len(names) > 3 else ''}"
    )


def import_weights(
    tensors: Mapping[str, np.ndarray],
    *,
    config: Mapping[str, Any] | None = None,
    extras: Mapping[str, Any] | None = None,
    layout: str | None = None,
    image_size: int | Sequence[int] | None = None,
    target: str | None = None,
    heads: int | None = None,
    decoder_heads: int | None = None,
) -> Imported:
    """Someone's tensors as one of our models.

    Args:
        tensors: the file's names -> arrays.
        config: `config.json` of its folder.
        extras: what else was found: "args" of a checkpoint (a mapping, or `Opaque` with one as its state),
            "preprocessor_config.json" of a folder.
        layout: one of `LAYOUTS`; by default what `recognise` says.
        image_size: pixels that the weights were trained at, one number or (height, width), where no file states it.
        target: "normalised" or "raw" pixels, what an autoencoder predicts; overrules the file.
        heads, decoder_heads: of attention; overrule the file.
    Raises:
        ValueError: not that layout, or tensors missing, left over or of another shape, under the file's own names; or
            a property that neither the file nor an argument states.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if target not in (None, "normalised", "raw"):
        raise ValueError(f"target must be 'normalised' or 'raw', got {target!r}")
    said = Settings(
        image_size=size_of(tuple(image_size) if isinstance(image_size, Sequence) else image_size, "image_size"),
        heads=whole(heads, "heads"),
        decoder_heads=whole(decoder_heads, "decoder_heads"),
        norm_pix_loss=None if target is None else target == "normalised",
    )
    layout = layout or recognise({name: array.shape for name, array in tensors.items()}, config)
    draft, own = _read(tensors, layout, config)
    found = from_arguments(extras).overruled(from_preprocessor(extras)).overruled(own).overruled(said)
    _check_lie(draft, layout)
    _read_parts(draft, layout, found)
    return assemble(draft, layout, found)


def _read(tensors: Mapping[str, np.ndarray], layout: str, config: Mapping[str, Any] | None) -> tuple[Draft, Settings]:
    """Return (tensors under our names, settings of the configuration)."""
    wrapper = wrapper_prefix(tensors)
    names = {unmarked(name.removeprefix(wrapper)) for name in tensors}
    encoder = huggingface.encoder_prefix(names) if layout == "transformers" else ""
    draft = drafted(
        tensors,
        _pairs(layout, pretrained="encoder.patch_embed.proj.weight" in names),
        huggingface.LEFT_OVER if layout == "transformers" else (),
        bare=lambda name: unmarked(name.removeprefix(wrapper)).removeprefix(encoder),
        whole=lambda name: wrapper + huggingface.with_prefix(name, encoder),
    )
    if wrapper:
        draft.notes.append(f"all names begin with {display_name(wrapper)!r}, which a wrapper of the model put there")
    if config is None:
        return draft, Settings()
    if layout == "transformers":
        return draft, huggingface.settings_of(config, draft.notes)
    if layout == "timm":
        return draft, timm.settings_of(config)
    draft.notes.append(f"its configuration is not used: files of the layout {layout} have none")
    return draft, Settings()


def _pairs(layout: str, *, pretrained: bool) -> Pairs:
    """Return the name pairs of a layout; MAE-pytorch's differ between pretraining and fine-tuning."""
    if "mae-pytorch" in layout:
        return mae_pytorch.names_of(pretrained)
    return {"timm": timm.NAMES, "paddlevit": paddlevit.NAMES, "transformers": huggingface.NAMES}.get(
        layout, official.NAMES
    )


def _check_lie(draft: Draft, layout: str) -> None:
    """Linear weights lie as the layout's do; Paddle's are turned."""
    wanted = _LAYOUTS[layout].lies
    found = lies_as({name: array.shape for name, array in draft.tensors.items()})
    if found not in (None, wanted):
        ways = {"torch": "[out, in], as in PyTorch", "paddle": "[in, out], as in Paddle"}
        raise ValueError(f"Linear weights lie {ways[found]}, and those of the layout {layout} {ways[wanted]}")
    if wanted == "paddle":
        transpose_linears(draft)


def _read_parts(draft: Draft, layout: str, settings: Settings) -> None:
    if layout == "transformers":
        huggingface.read_parts(draft, settings)
    elif "mae-pytorch" in layout:
        mae_pytorch.read_parts(draft, settings)
    elif layout == "paddlevit":
        settings.biasless = True
        paddlevit.check_head(draft)
    elif layout in ("official", "paddle"):
        official.fold_probe(draft)


def export_weights(
    layout: str,
    kind: str,
    architecture: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str] = (),
) -> Exported:
    """Convert one of our models to another layout.

    Args:
        layout: one of `LAYOUTS`.
        kind, architecture: as `Imported` has them.
        tensors: official names and layout, as `transfer.to_official` gives them.
        mean, std, classes: of its images and head, for layouts that have a place for them.
    Raises:
        ValueError: the layout cannot hold this model, or its tensors are not whole.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if architecture.get("decoder", "mae") != "mae":
        raise ValueError(f"the layout {layout} can't hold a cross-attention decoder; export the model that it trains")
    shapes = tensor_shapes(kind, architecture)
    held = {name: array for name, array in tensors.items() if kind != "encoder" or not name.startswith("head.")}
    found = faults(Draft(held, lambda name: name), shapes)
    if found:
        raise ValueError(f"these tensors are no whole {kind}: {'; '.join(found)}")
    notes: list[str] = []
    parts = _write_parts(layout, kind, architecture, {name: held[name] for name in shapes}, notes)
    if _LAYOUTS[layout].lies == "paddle":
        linear = set(linear_names({name: array.shape for name, array in parts.items()}))
        parts = {name: transpose(array) if name in linear else array for name, array in parts.items()}
    pairs = _pairs(layout, pretrained=kind == "mae")
    names = {name: their_name(name, pairs) for name in parts}
    if layout == "transformers":
        names = {name: huggingface.with_prefix(theirs, huggingface.prefix_of(kind)) for name, theirs in names.items()}
    named = {names[name]: np.ascontiguousarray(array) for name, array in parts.items()}
    return replace(_described(layout, kind, architecture, mean, std, classes), tensors=named, notes=notes)


def _write_parts(
    layout: str, kind: str, architecture: Mapping[str, Any], tensors: dict[str, np.ndarray], notes: list[str]
) -> dict[str, np.ndarray]:
    if layout == "transformers":
        return huggingface.write_parts(kind, architecture, tensors, notes)
    if "mae-pytorch" in layout:
        return mae_pytorch.write_parts(kind, architecture, tensors, notes)
    if layout == "timm":
        return timm.write_parts(kind, tensors, notes)
    if layout == "paddlevit":
        return paddlevit.write_parts(architecture, tensors)
    official.note_what_is_ours(architecture, notes)
    return tensors


def _described(
    layout: str,
    kind: str,
    architecture: Mapping[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str],
) -> Exported:
    """Return the extra files and values of a layout around the tensors."""
    if layout == "transformers":
        config = huggingface.config_of(kind, architecture, classes)
        preprocessor = huggingface.preprocessor_of(architecture, mean, std)
        return Exported({}, config, files={"preprocessor_config.json": preprocessor})
    if layout == "timm":
        return Exported({}, timm.config_of(kind, architecture, mean, std, classes))
    return Exported({}, wrapper=_LAYOUTS[layout].wrapper)
