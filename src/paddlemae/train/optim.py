"""The optimizer: AdamW, its parameter groups, layer-wise lr decay and the lr schedule."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from paddlemae.engine.safe_import import nn, paddle
from paddlemae.model.shape import RELATIVE_POSITIONS
from paddlemae.train.adamw import EPSILON, CpuAdamW, flat_view
from paddlemae.weights.transfer import official_parameters

NORM_PIECE = 1 << 13  # numbers: float32 sums of so few stay exact, and NumPy's BLAS stays in this thread
POSITIONS = ("pos_embed", RELATIVE_POSITIONS)
LR_REFERENCE_BATCH = 256  # base_lr is stated for this effective batch size (Goyal et al.; MAE, appendix A)


def peak_lr(base_lr: float, effective_batch_size: int) -> float:
    """Return `base_lr x effective_batch_size / 256` (MAE, appendix A.1)."""
    return base_lr * effective_batch_size / LR_REFERENCE_BATCH


def lr_at(
    step: float,
    *,
    peak: float,
    total_steps: int,
    warmup_steps: float,
    min_lr: float = 0.0,
    schedule: Literal["cosine", "linear"] = "cosine",
) -> float:
    """Return the lr of an optimizer step: linear warmup from 0, then a half-cosine to `min_lr` (MAE, appendix A.1).

    Args:
        step: steps taken before this one, from 0.
        peak: lr at the end of the warmup.
        total_steps, warmup_steps: in optimizer steps; the warmup may be fractional.
        min_lr: lr that the schedule ends on.
        schedule: "linear" falls evenly instead (MAE, appendix A.4, by way of BEiT).
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule == "linear":
        return min_lr + (peak - min_lr) * (1 - min(1.0, progress))
    return min_lr + (peak - min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def has_decay(name: str, shape: Sequence[int], *, tokens: bool = False) -> bool:
    """Return whether a parameter decays: matrices do, tokens if `tokens` is true, biases, norms and positions never.

    The official pretraining lets everything of two or more dimensions decay, so its cls and mask tokens too; the
    official fine-tuning lets neither tokens nor positions.
    """
    last = name.split(".")[-1]
    return tokens if last in ("cls_token", "mask_token") else len(shape) >= 2 and last not in POSITIONS


def layer_number(name: str, depth: int) -> int:
    """Return 0 for tokens, positions and patch embedding, 1..depth for the blocks, depth + 1 for what follows."""
    if name.split(".")[0] in ("cls_token", "pos_embed", "patch_embed"):
        return 0
    block = re.match(r"blocks\.(\d+)\.", name)
    return int(block.group(1)) + 1 if block else depth + 1


def adamw(
    model: nn.Layer,
    *,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.95),
    layer_decay: float = 1.0,
    decay_tokens: bool = False,
    grouped: bool = True,
) -> Any:
    """Create an AdamW for the model's trainable parameters: Paddle's, on CPU our own (`CpuAdamW`).

    The loop sets its lr before every step.

    Args:
        weight_decay: for matrices, with `decay_tokens` for tokens too, see `has_decay`.
        betas: (0.9, 0.95) in pretraining, (0.9, 0.999) in fine-tuning (MAE, appendix A).
        layer_decay: layer l of depth + 2 gets lr x layer_decay ** (depth + 1 - l) (Clark et al., ELECTRA).
        grouped: False is Paddle's without parameter groups, as Paddle's group sharding takes it; without layer_decay.
    """
    create = partial(paddle.optimizer.AdamW, learning_rate=0.0, beta1=betas[0], beta2=betas[1], epsilon=EPSILON)
    trained = {name: weight for name, weight in official_parameters(model) if not weight.stop_gradient}
    decayed = {weight.name for name, weight in trained.items() if has_decay(name, weight.shape, tokens=decay_tokens)}
    if not grouped:
        parameters = list(trained.values())
        return create(
            parameters=parameters, weight_decay=weight_decay, apply_decay_param_fun=lambda name: name in decayed
        )
    depth = len(model.encoder.blocks)
    groups: dict[tuple[float, float], list[paddle.Tensor]] = defaultdict(list)
    for name, weight in trained.items():
        lr_scale = layer_decay ** (depth + 1 - layer_number(name, depth))
        groups[lr_scale, weight_decay if weight.name in decayed else 0.0].append(weight)
    if all(weight.place.is_cpu_place() for weight in trained.values()):
        return CpuAdamW([(members, *settings) for settings, members in groups.items()], betas)
    configs: list[Any] = [
        {"params": members, "learning_rate": lr_scale, "weight_decay": decay}
        for (lr_scale, decay), members in groups.items()
    ]
    return create(parameters=configs)


@paddle.no_grad()
def clip_gradients(model: nn.Layer, largest_norm: float | None) -> float:
    """Scale all gradients so that their norm, taken over all of them together, is at most `largest_norm`.

    AdamW's own `grad_clip` takes the norm over each parameter group by itself, so it is not used.

    Args:
        largest_norm: None leaves gradients as they are, and so does a norm that is not finite.
    Returns:
        the norm as it was.
    """
    gradients = [parameter.grad for _, parameter in official_parameters(model) if parameter.grad is not None]
    if not gradients:
        return 0.0
    norm = math.sqrt(sum_of_squares(gradients))
    scale_down(gradients, norm, largest_norm)
    return norm


def scale_down(gradients: Sequence[paddle.Tensor], norm: float, largest_norm: float | None) -> None:
    """Scale gradients of a norm that is above the largest, in place; None leaves them, and so does one not finite."""
    if largest_norm and math.isfinite(norm) and norm > largest_norm:
        for gradient in gradients:
            gradient.scale_(largest_norm / norm)


def sum_of_squares(gradients: Sequence[paddle.Tensor]) -> float:
    """Return the sum of squares of all numbers in some gradients (at least one gradient)."""
    if not all(gradient.place.is_cpu_place() and gradient.dtype == paddle.float32 for gradient in gradients):
        squares = [gradient.astype("float32").square().sum() for gradient in gradients]
        return float(paddle.stack(squares).sum().numpy())
    total = 0.0
    for gradient in gradients:  # a product of each piece with itself takes a tenth of the time, and no memory
        numbers = flat_view(gradient, gradient.size)
        for start in range(0, numbers.size, NORM_PIECE):
            piece = numbers[start : start + NORM_PIECE]
            total += float(np.dot(piece, piece))
    return total
