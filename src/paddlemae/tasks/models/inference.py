"""Compute features or logits of uint8 images, without gradients, with all CPU threads.

Each thread takes its part of a batch, as in training: only matrix products use several threads by themselves. Paddle's
inference engine, which needs a program built first, is hardly faster for ViT-Base (docs/export-measured.md, "Speed").

Shapes: B images, C channels, H x W pixels, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddlemae.engine.cpus import threads_of
from paddlemae.engine.device import is_cpu
from paddlemae.engine.precision import autocast, bfloat16_products, weights_for
from paddlemae.engine.safe_import import nn, paddle
from paddlemae.engine.threads import product_threads
from paddlemae.model.encoder import POOLS, check_norm, check_pool, evaluating, features
from paddlemae.model.segmenter import Segmenter
from paddlemae.runs.metrics import TOKEN_NAMES
from paddlemae.tasks.models.preprocess import to_input
from paddlemae.train.parallel.threads import worthwhile_replicas
from paddlemae.weights.model_folder import Description

Forward = Callable[[np.ndarray], np.ndarray]
NORMS = ("layer", "batch", "whiten", "none")


@dataclass(frozen=True)
class FeatureKind:
    """Which features of an encoder.

    Args:
        token: "cls", or "mean" or "mean+std" (mean and standard deviation, twice the width) of the patch tokens.
        layer: the block that they are taken after, counted from 1; None is the last.
        norm: "layer": the encoder's last norm, as it was trained behind the last block; "none": as they come out;
            "batch": as they come out, each feature brought to mean 0 and deviation 1 over the images that are
            compared with; "whiten": as they come out, made uncorrelated and of deviation 1 over these images. Both are
            left to whoever has all of these.
        precision: in which they are computed, see `engine.precision`.
    Raises:
        ValueError: an unknown token or norm.
    """

    token: str = "mean"
    layer: int | None = None
    norm: str = "layer"
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, value, choices in (("token", self.token, POOLS), ("norm", self.norm, NORMS)):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")

    def __str__(self) -> str:
        layer = "the last block" if self.layer is None else f"block {self.layer}"
        precision = "" if self.precision == "float32" else f", {self.precision}"
        return f"{TOKEN_NAMES[self.token]} after {layer}, norm: {self.norm}{precision}"

    def settings(self) -> dict[str, Any]:
        """Return what features depend on, as results and files of features have it."""
        return {"token": self.token, "layer": self.layer, "norm": self.norm, **unusual_precision(self.precision)}


@dataclass(frozen=True)
class Logits:
    """The logits of a classifier or a segmenter, computed in a precision."""

    precision: str = "float32"


LOGITS = Logits()


def unusual_precision(precision: str) -> dict[str, str]:
    """Return the precision as a setting of a result; nothing for float32, which results without one have."""
    return {} if precision == "float32" else {"precision": precision}


def forward_function(
    model: nn.Layer, description: Description, output: FeatureKind | Logits, *, threads: int | str = "auto"
) -> Forward:
    """Return a function that computes features or logits of batches, in eval mode.

    Args:
        output: which features, or the logits of a classifier or a segmenter.
        threads: as in `device.prepare`; without effect on an accelerator.
    Returns:
        a function from uint8 or uint16 [B, C, H, W] to float32 [B, D] (or [B, classes], of a segmenter [B, classes, H,
        W]), for any B. How B is shared among the threads changes the last bits.
    Raises:
        ValueError: an output that the model does not have, or a precision that the device can't compute in.
        FloatingPointError: by the function, for outputs that are not finite.
    """
    _check_output(model, output)
    rounded = weights_for(output.precision)

    @paddle.no_grad()
    def part(images_u8: np.ndarray) -> np.ndarray:
        images = to_input(images_u8, description)
        with autocast(output.precision), bfloat16_products(rounded):
            if isinstance(output, FeatureKind):
                normalises = output.norm == "layer"
                found = features(model, images, output.token, depth=output.layer, normalise=normalises)
            else:
                found = model(images)
        return found.astype("float32").numpy()

    if not is_cpu():
        return _evaluating(model, part)
    count = threads_of(threads)
    pool = ThreadPoolExecutor(count, "forward", paddle.set_device, (paddle.get_device(),))
    operations = (
        2 * sum(parameter.size for parameter in model.parameters()) / math.prod(model.encoder.patch_size)
    )  # a pixel

    def shared(images_u8: np.ndarray) -> np.ndarray:
        worthwhile = worthwhile_replicas(count, operations * math.prod(images_u8[:, 0].shape))
        parts = np.array_split(images_u8, min(worthwhile, len(images_u8)))
        with product_threads(count // len(parts)):
            return np.concatenate(list(pool.map(part, parts)))

    return _evaluating(model, shared)


def _evaluating(model: nn.Layer, forward: Forward) -> Forward:
    def in_eval_mode(images_u8: np.ndarray) -> np.ndarray:
        with evaluating(model):
            outputs = forward(images_u8)
        finite = np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)
        if bad := int((~finite).sum()):  # comparisons would take them for the first class
            raise FloatingPointError(
                f"the model gives outputs that are not finite for {bad} of {len(outputs)} images: its weights, or its "
                "mean and std, are damaged or have grown too large; use an earlier checkpoint"
            )
        return outputs

    return in_eval_mode


def _check_output(model: nn.Layer, output: FeatureKind | Logits) -> None:
    if not isinstance(output, FeatureKind):
        if not model.has_head and not isinstance(model, Segmenter):
            raise ValueError("logits need a classifier, and this model has no head; ask for features")
        return
    check_pool(output.token, model.encoder.has_cls)
    if output.norm == "layer":
        check_norm(model.encoder, output.token)
    depth = len(model.encoder.blocks)
    if output.layer is not None and not 1 <= output.layer <= depth:
        raise ValueError(f"layer must be one of the encoder's {depth} blocks, 1..{depth}, got {output.layer}")
