"""Translate names and shapes of weights between layouts, both ways: NumPy arrays in, NumPy arrays out.

A layout is recognised by its keys. Every key is accounted for: used, converted, ignored by a stated rule, or an
error. No model is built and nothing is read from a disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from paddlemae.model.shape import tensor_shapes
from paddlemae.system.display_names import display_name
from paddlemae.weights.layouts import huggingface, mae_pytorch, official, paddlevit, timm, upernet
from paddlemae.weights.layouts.architecture import assemble, faults
from paddlemae.weights.layouts.settings import Settings, from_arguments, from_preprocessor, size_of, whole
from paddlemae.weights.layouts.tensor_names import (
    Draft,
    Pairs,
    Shapes,
    draft_tensors,
    lies_as,
    linear_names,
    remove_markers,
    their_name,
    transpose_linears,
    wrapper_prefix,
)
from paddlemae.weights.layouts.translation import Exported, Imported
from paddlemae.weights.transpose import transpose

__all__ = ["LAYOUTS", "Exported", "Imported", "export_weights", "import_weights", "recognise"]


@dataclass(frozen=True)
class _Layout:
    """How a layout is recognised, read and written.

    Attributes:
        signs: names that its every file has; the more of a file's, the nearer.
        pairs: its names.
        write_parts: (kind, architecture, our tensors, notes) -> the tensors that it has names for.
        read_parts: turns its tensors, under our names, into ours; None where the names are all that differs.
        lies: how its Linear weights lie, "torch" or "paddle".
        wrapper: see `Exported`.
    """

    signs: tuple[str, ...]
    pairs: Pairs
    write_parts: Callable[[str, Mapping[str, Any], Mapping[str, np.ndarray], list[str]], dict[str, np.ndarray]]
    read_parts: Callable[[Draft, Settings], None] | None = None
    lies: str = "torch"
    wrapper: str | None = None


_PLAIN = ("pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight")
_TRANSFORMERS = (
    "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.weight",
    "encoder.layer.0.layernorm_before.weight",
    "encoder.layer.0.attention.attention.query.weight",
)
_PADDLEVIT = ("cls_token", "patch_embedding.patch_embedding.weight", "encoder.layers.0.attn_norm.weight")
_OFFICIAL = _Layout(_PLAIN, official.NAMES, official.write_parts, official.fold_probe, wrapper="model")
_MAE_PYTORCH = _Layout(
    (
        "encoder.patch_embed.proj.weight",
        "encoder.blocks.0.attn.qkv.weight",
        "encoder_to_decoder.weight",
        "decoder.head.weight",
    ),
    mae_pytorch.PRETRAINED,
    mae_pytorch.write_parts,
    mae_pytorch.read_parts,
    wrapper="model",
)
_LAYOUTS = {
    "official": _OFFICIAL,
    "timm": _Layout(_PLAIN, timm.NAMES, timm.write_parts),
    "transformers": _Layout(_TRANSFORMERS, huggingface.NAMES, huggingface.write_parts, huggingface.read_parts),
    "mae-pytorch": _MAE_PYTORCH,
    "paddle": replace(_OFFICIAL, lies="paddle", wrapper=None),
    "paddle-mae-pytorch": replace(_MAE_PYTORCH, lies="paddle", wrapper=None),
    "paddlevit": _Layout(_PADDLEVIT, paddlevit.NAMES, paddlevit.write_parts, paddlevit.read_parts, lies="paddle"),
    upernet.BEIT: _Layout(
        ("beit.embeddings.patch_embeddings.projection.weight", "decode_head.classifier.weight", "fpn1.0.weight"),
        upernet.BEIT_NAMES,
        upernet.write_beit,
        upernet.read_parts,
    ),
    upernet.MMSEGMENTATION: _Layout(
        ("backbone.patch_embed.projection.weight", "decode_head.conv_seg.weight", "neck.upsample_4x.0.weight"),
        upernet.MMSEGMENTATION_NAMES,
        upernet.write_parts,
        upernet.read_parts,
        wrapper="state_dict",
    ),
}
LAYOUTS: tuple[str, ...] = tuple(_LAYOUTS)
_UPERNET = (upernet.BEIT, upernet.MMSEGMENTATION)  # those of segmenters
_LEFT_OVER = {"transformers": huggingface.LEFT_OVER, **dict.fromkeys(_UPERNET, upernet.LEFT_OVER)}


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
    names = {remove_markers(name.removeprefix(wrapper)) for name in names_and_shapes}
    if upernet.is_beit(names):
        return upernet.BEIT
    if upernet.is_mmsegmentation(names):
        return upernet.MMSEGMENTATION
    if f"{huggingface.encoder_prefix(names)}embeddings.patch_embeddings.projection.weight" in names:
        return "transformers"
    if "patch_embedding.patch_embedding.weight" in names:
        return "paddlevit"
    paddle = lies_as(names_and_shapes) == "paddle"
    if within := _prefix_of_vit(names):
        raise ValueError(
            f"the names that begin with {display_name(within)!r} are those of a ViT, and others are not; use "
            f"key={display_name(within[:-1])} to read the ViT alone"
        )
    has_split_biases = {"patch_embed.proj.weight", "blocks.0.attn.q_bias"} <= names and "cls_token" not in names
    if has_split_biases or "encoder.patch_embed.proj.weight" in names:
        return "paddle-mae-pytorch" if paddle else "mae-pytorch"
    if "patch_embed.proj.weight" in names and "blocks.0.norm1.weight" in names:
        return "paddle" if paddle else "timm" if timm.is_config(config) else "official"
    encoder = huggingface.encoder_prefix(names)
    raise ValueError(_not_known({name.removeprefix(encoder) for name in names}))


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
    """Convert the tensors of a file to one of our models.

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
    arguments = Settings(
        image_size=size_of(tuple(image_size) if isinstance(image_size, Sequence) else image_size, "image_size"),
        heads=whole(heads, "heads"),
        decoder_heads=whole(decoder_heads, "decoder_heads"),
        norm_pix_loss=None if target is None else target == "normalised",
    )
    layout = layout or recognise({name: array.shape for name, array in tensors.items()}, config)
    draft, configured = _read(tensors, layout, config)
    settings = from_arguments(extras).overrule(from_preprocessor(extras)).overrule(configured).overrule(arguments)
    _check_lie(draft, layout)
    if layout in _UPERNET:
        settings.heads = settings.heads or upernet.heads_of(draft)
    if layout == upernet.MMSEGMENTATION:
        settings.classes, settings.palette = upernet.from_meta(extras)
    if read_parts := _LAYOUTS[layout].read_parts:
        read_parts(draft, settings)
    return assemble(draft, layout, settings)


def _read(tensors: Mapping[str, np.ndarray], layout: str, config: Mapping[str, Any] | None) -> tuple[Draft, Settings]:
    """Return (tensors under our names, settings of the configuration)."""
    wrapper = wrapper_prefix(tensors)
    names = {remove_markers(name.removeprefix(wrapper)) for name in tensors}
    encoder = huggingface.encoder_prefix(names) if layout == "transformers" else ""
    draft = draft_tensors(
        tensors,
        _pairs(layout, pretrained="encoder.patch_embed.proj.weight" in names),
        _LEFT_OVER.get(layout, ()),
        bare=lambda name: remove_markers(name.removeprefix(wrapper)).removeprefix(encoder),
        whole=lambda name: wrapper + huggingface.with_prefix(name, encoder),
    )
    if wrapper:
        draft.notes.append(f"all names begin with {display_name(wrapper)!r}, which a wrapper of the model put there")
    if config is None:
        return draft, Settings()
    if layout == "transformers":
        return draft, huggingface.settings_of(config, draft.notes)
    if layout == upernet.BEIT:
        return draft, upernet.settings_of(config, draft.notes)
    if layout == "timm":
        return draft, timm.settings_of(config)
    draft.notes.append(f"its configuration is not used: files of the layout {layout} have none")
    return draft, Settings()


def _pairs(layout: str, *, pretrained: bool) -> Pairs:
    """Return the name pairs of a layout; MAE-pytorch's differ between pretraining and fine-tuning."""
    return mae_pytorch.FINETUNED if "mae-pytorch" in layout and not pretrained else _LAYOUTS[layout].pairs


def _check_lie(draft: Draft, layout: str) -> None:
    """Check that Linear weights lie as the layout's do, and transpose Paddle's."""
    expected = _LAYOUTS[layout].lies
    actual = lies_as({name: array.shape for name, array in draft.tensors.items()})
    if actual not in (None, expected):
        ways = {"torch": "[out, in], as in PyTorch", "paddle": "[in, out], as in Paddle"}
        raise ValueError(f"Linear weights are {ways[actual]}, but the layout {layout} has them {ways[expected]}")
    if expected == "paddle":
        transpose_linears(draft)


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
    if kind == "segmenter" and layout not in _UPERNET:
        raise ValueError(f"{layout}'s layout can't hold this model: it has no segmenters; use {' or '.join(_UPERNET)}")
    shapes = tensor_shapes(kind, architecture)
    held = {name: array for name, array in tensors.items() if kind != "encoder" or not name.startswith("head.")}
    if found := faults(Draft(held), shapes):
        raise ValueError(f"these tensors are an incomplete {kind}: {'; '.join(found)}")
    notes: list[str] = []
    if floor := architecture.get("norm_pix_floor"):
        notes.append(
            f"norm_pix_floor={floor:g} has no place in that layout: read again, predictions of patches with a small "
            "deviation are drawn with less contrast; features are the same"
        )
    parts = _LAYOUTS[layout].write_parts(kind, architecture, {name: held[name] for name in shapes}, notes)
    if _LAYOUTS[layout].lies == "paddle":
        linear = set(linear_names({name: array.shape for name, array in parts.items()}))
        parts = {name: transpose(array) if name in linear else array for name, array in parts.items()}
    pairs = _pairs(layout, pretrained=kind == "mae")
    names = {name: their_name(name, pairs) for name in parts}
    config, files = None, {}
    if layout == "transformers":
        prefix = "" if kind == "encoder" else "vit."
        names = {name: huggingface.with_prefix(theirs, prefix) for name, theirs in names.items()}
        config = huggingface.config_of(kind, architecture, classes)
        files["preprocessor_config.json"] = huggingface.preprocessor_of(architecture, mean, std)
    elif layout == upernet.BEIT:
        config = upernet.config_of(architecture, classes)
        processor = {"image_processor_type": "BeitImageProcessor", "do_center_crop": False, "do_reduce_labels": False}
        files["preprocessor_config.json"] = huggingface.preprocessor_of(architecture, mean, std) | processor
    elif layout == "timm":
        config = timm.config_of(kind, architecture, mean, std, classes)
    # np.ascontiguousarray would give a number an axis
    named = {names[name]: np.asarray(array, order="C") for name, array in parts.items()}
    return Exported(named, config, _LAYOUTS[layout].wrapper, files, notes)
