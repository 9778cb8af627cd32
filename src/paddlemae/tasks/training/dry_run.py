"""Count steps, lr and memory of a training beforehand, for `--dry-run`."""

from __future__ import annotations

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


def step_bytes(parameters: int, activations: int) -> int:
    """Return the bytes that a training step holds: each weight with its gradient and two moments, and activations."""
    return FLOAT_BYTES * (4 * parameters + activations)


def memory_text(num_bytes: int) -> str:
    return f"about {num_bytes / 2**30:.2f} GiB (estimated: weights, gradients, optimizer and activations)"
