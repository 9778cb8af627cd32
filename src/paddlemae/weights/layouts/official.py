"""facebookresearch/mae's layout, whose names are ours: pretraining, encoders, fine-tuned and linearly probed models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from paddlemae.weights.layouts.settings import Settings
from paddlemae.weights.layouts.tensor_names import CLASSIFIER, DECODER, ENCODER, Draft, same_names

PROBE = ("head.0", "head.1")
NAMES = same_names(*ENCODER, *CLASSIFIER, *DECODER, *PROBE)
PROBE_EPSILON = 1e-6  # of batch norm in MAE's published linear probing
# PyTorch's and Paddle's names of what batch norm remembers.
MEANS, VARIANCES = ("running_mean", "_mean"), ("running_var", "_variance")


def fold_probe(draft: Draft, settings: Settings) -> None:
    """Fold a probe's batch norm into its linear layer, exactly: W ((x - m) / s) + b = (W / s) x + (b - (W / s) m).

    Raises:
        ValueError: a part of the probe is missing.
    """
    held = {name: draft.tensors.pop(name) for name in list(draft.tensors) if name.startswith(("head.0.", "head.1."))}
    if not held:
        return

    def part(*names: str) -> np.ndarray:
        for name in names:
            if name in held:
                return held.pop(name).astype(np.float64)
        raise ValueError(f"the linear probe in these weights has no {names[0]}; head.0 (batch norm) and head.1 are it")

    mean = part(*(f"head.0.{name}" for name in MEANS))
    scale = 1 / np.sqrt(part(*(f"head.0.{name}" for name in VARIANCES)) + PROBE_EPSILON)
    weight, bias = part("head.1.weight"), part("head.1.bias")
    if weight.shape != (len(bias), len(mean)) or mean.shape != scale.shape:
        raise ValueError(f"the linear probe's parts don't fit: head.1.weight {list(weight.shape)}, head.0 {len(mean)}")
    if "head.0.weight" in held:
        scale = scale * held.pop("head.0.weight")
    folded = weight * scale
    shift = held.pop("head.0.bias", 0.0)
    how = "the probe's batch norm (head.0) folded into its linear layer (head.1)"
    draft.set("head.weight", folded.astype(np.float32), how)
    draft.set("head.bias", (bias - folded @ mean + weight @ np.broadcast_to(shift, mean.shape)).astype(np.float32), how)
    draft.unknown.extend(held)
    draft.notes.append("a linear probe: its batch norm is folded into the head, which gives the same logits")


def write_parts(
    kind: str, architecture: Mapping[str, Any], tensors: Mapping[str, np.ndarray], notes: list[str]
) -> dict[str, np.ndarray]:
    """Return our tensors; note what the names can express and the official code cannot build."""
    if not architecture["cls_token"]:
        notes.append("there is no cls token: the official code, whose models have one, can't load it; timm can")
    return dict(tensors)
