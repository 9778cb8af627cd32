"""Features of whole, unmasked images."""

from __future__ import annotations

import numpy as np
import paddle

from paddlemae.data.batches import OnSkip, eval_batches
from paddlemae.data.sources import Source
from paddlemae.model.vit import evaluating, features
from paddlemae.tasks.models import evaluation_view, to_input
from paddlemae.weights.store import Description


@paddle.no_grad()
def embed(
    model,
    description: Description,
    source: Source,
    *,
    pool: str = "cls",
    batch_size: int = 100,
    workers: int = 0,
    on_skip: OnSkip | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Run the encoder over a source.

    Args:
        pool: "cls" or "mean" (of the patch tokens).
    Returns:
        (features float32 [N, D], indices int64 [N] in the source); unreadable images are left out.
    """
    view = evaluation_view(description)
    parts, indices = [], []
    with evaluating(model):
        for batch in eval_batches(source, view, batch_size=batch_size, workers=workers, on_skip=on_skip):
            parts.append(features(model, to_input(batch.images, description), pool).numpy())
            indices.append(batch.indices)
    return np.concatenate(parts), np.concatenate(indices)
