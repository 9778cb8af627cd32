"""What a training would take, counted beforehand: steps, lr and memory, for `--dry-run`."""

from __future__ import annotations

from paddlemae.recipe import Training
from paddlemae.train.optim import peak_lr

FLOAT_BYTES = 4


def schedule_plan(training: Training, num_images: int) -> dict[str, str]:
    """Steps, warmup and lr over `num_images` images an epoch: name -> value, for people."""
    steps, images = training.total_steps(num_images), training.effective_batch_size
    return {
        "steps": f"{steps:,} of {images} images ({steps * images / num_images:.1f} epochs)",
        "warmup": f"{training.warmup_steps(num_images):.0f} steps",
        "peak lr": f"{peak_lr(training.base_lr, images):.3g}",
    }


def block_numbers(tokens: int, width: int, heads: int) -> int:
    """Numbers that a block keeps of one image for its gradients.

    About 24 a token and width (inputs, norms, qkv twice, hidden layer twice, residuals), and two attention maps.
    """
    return 24 * tokens * width + 2 * heads * tokens**2


def cross_block_numbers(queries: int, width: int, heads: int, memory: int, memory_width: int) -> int:
    """Numbers that a cross-attention block keeps of one image for its gradients.

    About 20 a query and width (as in `block_numbers`, without keys and values), 4 a memory token and the encoder's
    width (its map, the weighted sum, the normalised sum), 4 a memory token and width (keys and values twice), and
    two attention maps.
    """
    return 20 * queries * width + memory * 4 * (memory_width + width) + 2 * heads * queries * memory


def step_bytes(parameters: int, activations: int) -> int:
    """Bytes that a training step holds: every weight with its gradient and two moments, and the activations."""
    return FLOAT_BYTES * (4 * parameters + activations)


def memory_text(num_bytes: int) -> str:
    return f"about {num_bytes / 2**30:.2f} GiB (estimated: weights, gradients, optimizer and activations)"
