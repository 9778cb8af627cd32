"""From uint8 images to a model's features or logits, without gradients, by all CPU threads.

Each thread takes its part of a batch, as in training: only matrix products use several threads by themselves. Paddle's
inference engine with oneDNN was measured against this (`benchmarks/`; two cores without AVX-512): 5 to 14% slower with
ViT-Small and Base, 2 to 6% faster with ViT-Tiny, seconds of compilation aside.

Shapes: B images, C channels, H x W pixels, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle

from paddlemae import device
from paddlemae.model.vit import evaluating, features, pool_tokens
from paddlemae.tasks.models import to_input
from paddlemae.train.shards import worthwhile_replicas
from paddlemae.weights.store import Description

LOGITS = "logits"

Forward = Callable[[np.ndarray], np.ndarray]


def forward_function(model, description: Description, output: str, *, threads: int | str = "auto") -> Forward:
    """What computes features or logits of batches, in eval mode.

    Args:
        output: "cls" or "mean" (features by that pooling), or "logits" of a classifier.
        threads: as in `device.prepare`; without effect on an accelerator.
    Returns:
        a function from uint8 [B, C, H, W] to float32 [B, D] (or [B, classes]), for any B. How B is shared among the
        threads changes the last bits.
    Raises:
        ValueError: an output that the model does not have.
    """
    pool_tokens(paddle.zeros([1, 2, 1]), _pool(model, output), model.has_cls)  # refuses a pool that it can't do

    @paddle.no_grad()
    def part(images_u8: np.ndarray) -> np.ndarray:
        images = to_input(images_u8, description)
        return (model(images) if output == LOGITS else features(model, images, output)).numpy()

    if not device.is_cpu():
        return _evaluating(model, part)
    count = device.threads_of(threads)
    pool = ThreadPoolExecutor(count, "forward", paddle.set_device, (paddle.get_device(),))
    operations = 2 * sum(parameter.size for parameter in model.parameters()) / math.prod(model.patch_size)  # a pixel

    def shared(images_u8: np.ndarray) -> np.ndarray:
        worthwhile = worthwhile_replicas(count, operations * math.prod(images_u8[:, 0].shape))
        parts = np.array_split(images_u8, min(worthwhile, len(images_u8)))
        with device.product_threads(count // len(parts)):
            return np.concatenate(list(pool.map(part, parts)))

    return _evaluating(model, shared)


def _evaluating(model, forward: Forward) -> Forward:
    def in_eval_mode(images_u8: np.ndarray) -> np.ndarray:
        with evaluating(model):
            return forward(images_u8)

    return in_eval_mode


def _pool(model, output: str) -> str:
    if output != LOGITS:
        return output
    if not hasattr(model, "head"):
        raise ValueError("logits need a classifier, and this model has no head; ask for 'cls' or 'mean' features")
    return model.pool
