"""pengzhiliang/MAE-pytorch's layout: no cls token, separate biases of queries and values, a computed position table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from paddlemae.model.sincos import sincos_1d
from paddlemae.system.display_names import display_name
from paddlemae.weights.layouts.settings import Settings
from paddlemae.weights.layouts.tensor_names import BLOCK, CLASSIFIER, Draft, Pairs, same_names

PARTS = (*BLOCK, "attn.q_bias", "attn.v_bias")
IMAGE_SIZE = 224  # of its published models
MAX_TOKENS = 4096  # 1024 x 1024 pixels in patches of 16; a number in a stranger's file must not fill the memory

# Pretrained: encoder and decoder apart; fine-tuned: no prefix.
PRETRAINED: Pairs = (
    ("pos_embed", "encoder.pos_embed"),
    ("patch_embed.proj", "encoder.patch_embed.proj"),
    *((f"blocks.{{}}.{part}", f"encoder.blocks.{{}}.{part}") for part in PARTS),
    ("norm", "encoder.norm"),
    ("decoder_embed", "encoder_to_decoder"),
    ("mask_token", "mask_token"),
    *((f"decoder_blocks.{{}}.{part}", f"decoder.blocks.{{}}.{part}") for part in PARTS),
    ("decoder_norm", "decoder.norm"),
    ("decoder_pred", "decoder.head"),
)
FINETUNED: Pairs = same_names(
    "pos_embed", "patch_embed.proj", *(f"blocks.{{}}.{part}" for part in PARTS), "norm", *CLASSIFIER
)


def read_parts(draft: Draft, settings: Settings) -> None:
    """Join biases, and make what these files do not hold.

    Raises:
        ValueError: a block has one of the two biases only, or an image size does not fit.
    """
    settings.biasless = True
    _join_biases(draft)
    if "decoder_embed.weight" in draft.tensors:
        weight = draft.tensors["decoder_embed.weight"]
        draft.set("decoder_embed.bias", np.zeros(weight.shape[:1], weight.dtype), "zeros: the layout has no bias here")
    _make_tables(draft, settings)


def _join_biases(draft: Draft) -> None:
    for name in [name for name in draft.tensors if name.endswith(".attn.qkv.weight")]:
        prefix = name.removesuffix("qkv.weight")
        query, value = (draft.tensors.pop(f"{prefix}{part}", None) for part in ("q_bias", "v_bias"))
        if query is None and value is None:
            continue
        if query is None or value is None:
            lacking = f"{prefix}{'q_bias' if query is None else 'v_bias'}"
            raise ValueError(
                f"missing: {display_name(draft.their_name(lacking))}; the other of the two biases is there"
            )
        if query.shape != value.shape:
            raise ValueError(
                f"{display_name(draft.their_name(prefix + 'q_bias'))} is {list(query.shape)} and the bias of values "
                f"{list(value.shape)}; they should be as long as each other"
            )
        joined = np.concatenate([query, np.zeros_like(query), value])
        draft.set(f"{prefix}qkv.bias", joined, "q_bias, zeros for the keys and v_bias joined")


def _make_tables(draft: Draft, settings: Settings) -> None:
    """Compute the 1-D position tables, which files of this layout do not hold."""
    patch = draft.tensors.get("patch_embed.proj.weight")
    if patch is None or patch.ndim != 4:
        return  # refused later, with everything that is missing
    wanted = {"pos_embed": patch.shape[0]}
    if "decoder_embed.weight" in draft.tensors:
        wanted["decoder_pos_embed"] = draft.tensors["decoder_embed.weight"].shape[0]
    absent = {name: width for name, width in wanted.items() if name not in draft.tensors}
    if "pos_embed" in absent and settings.image_size is None:
        settings.image_size = (IMAGE_SIZE, IMAGE_SIZE)
        draft.notes.append(
            f"the image size is not in the file: taken as {IMAGE_SIZE}, the layout's own; name another with image_size="
        )
    if settings.image_size is None:
        tokens = draft.tensors["pos_embed"].shape[1]
    else:
        tokens = (settings.image_size[0] // patch.shape[2]) * (settings.image_size[1] // patch.shape[3])
    if absent and tokens > MAX_TOKENS:
        raise ValueError(f"an image size of {settings.image_size} makes {tokens:,} patches; name another image_size=")
    for name, width in absent.items():
        draft.set(name, sincos_1d(width, (tokens, 1))[None], "made again: the layout computes it")
    if absent:
        draft.notes.append("position tables are not in the file: the 1-D sine-cosine ones are made again")


def write_parts(
    kind: str, architecture: Mapping[str, Any], tensors: Mapping[str, np.ndarray], notes: list[str]
) -> dict[str, np.ndarray]:
    """Return the tensors that the layout has names for, with separate biases.

    Raises:
        ValueError: what it has no place for.
    """
    refused = _refused(kind, architecture, tensors)
    if refused:
        raise ValueError(f"MAE-pytorch's layout can't hold this model: {'; '.join(refused)}")
    parts, dropped = dict(tensors), 0
    for name in [name for name in tensors if re.fullmatch(r".*\.attn\.qkv\.bias", name)]:
        query, key, value = np.split(parts.pop(name), 3)
        prefix = name.removesuffix("qkv.bias")
        parts |= {f"{prefix}q_bias": query, f"{prefix}v_bias": value}
        dropped += bool(key.any())
    if dropped:
        notes.append(
            f"the bias of keys is dropped in {dropped} blocks, for which the layout has no place: it adds the same to "
            "all of a query's scores, so attention stays what it was"
        )
    parts.pop("decoder_embed.bias", None)
    parts.pop("decoder_pos_embed", None)
    if architecture["positions"] == "sincos1d":
        del parts["pos_embed"]
    else:
        notes.append("the position table is written as a learned one; build the model with its learnable positions")
    return parts


def _refused(kind: str, architecture: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> list[str]:
    found = []
    if architecture["cls_token"]:
        found.append("it has a cls token")
    if kind == "encoder":
        found.append("it is an encoder alone")
    if kind == "classifier" and architecture["pool"] != "mean":
        found.append(f"it classifies by {architecture['pool']}, not by the mean")
    if kind != "mae":
        return found
    if tensors["decoder_embed.bias"].any():
        found.append("decoder_embed has a bias that is not zero")
    tables = ("pos_embed", "decoder_pos_embed")
    computed = [sincos_1d(tensors[name].shape[-1], (tensors[name].shape[1], 1)) for name in tables]
    if any(np.abs(tensors[name][0] - table).max() > 1e-4 for name, table in zip(tables, computed)):
        found.append("its positions are not the 1-D sine-cosine tables that the layout computes")
    return found
