"""Count steps, lr and memory of a training beforehand, for `--dry-run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddlemae.model.shape import pair
from paddlemae.recipe import Training
from paddlemae.train.optim import peak_lr

FLOAT_BYTES = 4


def schedule_plan(training: Training, num_images: int) -> dict[str, str]:
    """Return steps, warmup and lr with `num_images` images per epoch: name -> value, as text."""
    steps, images = training.total_steps(num_images), training.effective_batch_size
    return {
        "steps": f"{steps:,} of {images} images ({steps * images / num_images:.1f} epochs)",
        "warmup": f"{training.warmup_steps(num_images):.0f} steps",
        "peak lr": f"{peak_lr(training.base_lr, images):.3g}",
    }


def model_text(shape: Mapping[str, Any]) -> str:
    """Return an encoder's shape as text: blocks, width, images and patches."""
    (height, width), (patch_height, patch_width) = pair(shape["image_size"]), pair(shape["patch_size"])
    return (
        f"{shape['depth']} blocks x {shape['embed_dim']}, images of {height} x {width} x {shape['channels']}, "
        f"patches of {patch_height} x {patch_width}"
    )


def step_bytes(parameters: int, activations: int) -> int:
    """Return the bytes that a training step holds: each weight with its gradient and two moments, and activations."""
    return FLOAT_BYTES * (4 * parameters + activations)


def memory_text(num_bytes: int) -> str:
    return f"about {num_bytes / 2**30:.2f} GiB (estimated: weights, gradients, optimizer and activations)"
