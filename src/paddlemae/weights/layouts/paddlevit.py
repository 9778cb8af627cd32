"""BR-IDL/PaddleViT's layout, of its MAE and of its ViT: names of its own, Linear weights [in, out]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from paddlemae.weights.layouts.settings import Settings
from paddlemae.weights.layouts.tensor_names import Draft, Pairs

LAYER = (
    ("norm1", "attn_norm"),
    ("attn.qkv", "attn.qkv"),
    ("attn.proj", "attn.out"),
    ("norm2", "mlp_norm"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
)
# MAE's names, which are written; then those of the ViT in image_classification, new and old.
NAMES: Pairs = (
    ("cls_token", "cls_token"),
    ("pos_embed", "encoder_position_embedding"),
    ("patch_embed.proj", "patch_embedding.patch_embedding"),
    *((f"blocks.{{}}.{ours}", f"encoder.layers.{{}}.{theirs}") for ours, theirs in LAYER),
    ("norm", "encoder.norm"),
    ("fc_norm", "encoder_norm"),
    ("head", "classifier"),
    ("mask_token", "mask_token"),
    ("decoder_embed", "linear_projection"),
    ("decoder_pos_embed", "decoder_position_embedding"),
    *((f"decoder_blocks.{{}}.{ours}", f"decoder.layers.{{}}.{theirs}") for ours, theirs in LAYER),
    ("decoder_norm", "decoder.norm"),
    ("decoder_pred", "decoder_pred"),
    ("pos_embed", "position_embedding"),
    ("norm", "encoder.encoder_norm"),
    ("cls_token", "patch_embedding.cls_token"),
    ("pos_embed", "patch_embedding.position_embeddings"),
)


def read_parts(draft: Draft, settings: Settings) -> None:
    """Allow layers without biases; refuse a head of two layers, which a ViT trained from scratch has.

    Raises:
        ValueError: it has such a head.
    """
    settings.biasless = True
    two = [name for name in draft.unknown if name.startswith("classifier.")]
    if two:
        raise ValueError(f"a head of more than one layer ({two[0]}), as PaddleViT trains from scratch; ours has one")


def write_parts(
    kind: str, architecture: Mapping[str, Any], tensors: Mapping[str, np.ndarray], notes: list[str]
) -> dict[str, np.ndarray]:
    """Return our tensors.

    Raises:
        ValueError: there is no cls token, which PaddleViT's models always have.
    """
    if not architecture["cls_token"]:
        raise ValueError("PaddleViT's layout can't hold this model: it has no cls token")
    return dict(tensors)
