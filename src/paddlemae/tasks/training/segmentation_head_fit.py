"""Train a segmenter's head alone on the features of its pretrained encoder, before anything else is trained.

Training then begins with a head that knows the classes, so that its first steps do not distort the encoder for a head
that knows nothing (Kumar et al., "Fine-Tuning can Distort Pretrained Features", arXiv 2202.10054).

Shapes: B windows of a step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from paddlemae.data.batches import Batch
from paddlemae.data.random_streams import HEAD_STREAM
from paddlemae.data.sources import subset
from paddlemae.data.views.scenes import SceneView
from paddlemae.engine.safe_import import paddle
from paddlemae.model.segmenter import Segmenter
from paddlemae.recipe import SegmentRecipe
from paddlemae.tasks.training.patch_cache import PatchTable, cached_loss, compute_patches
from paddlemae.tasks.training.run_start import Start
from paddlemae.tasks.training.run_training import share_cpu
from paddlemae.tasks.training.segmentation_setup import freeze_encoder
from paddlemae.tasks.training.supervised import Parts
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.loop import FitSettings, fit
from paddlemae.train.optim import adamw, lr_at, peak_lr

FIT_STEPS, WARMUP_STEPS = 400, 40
MOST_BYTES = 1 << 30  # of features and masks; further images are left out


def fit_segmentation_head(parts: Parts, recipe: SegmentRecipe, start: Start) -> None:
    """Train the head with the recipe's loss, batch size and learning rate; it is the same in every process.

    Windows cover the images without augmentation; where they are many, those of some images are taken.
    """
    begun, head = time.perf_counter(), parts.model.head
    # exchanged as JSON, whose numbers float32 turns into and back exactly
    found = start.ranks.from_first(lambda: {name: value.tolist() for name, value in _fitted(parts, recipe).items()})
    head.set_state_dict({name: paddle.to_tensor(np.array(value, np.float32)) for name, value in found.items()})
    start.say(f"fitted the head to the encoder's features in {time.perf_counter() - begun:.0f} s")


def _fitted(parts: Parts, recipe: SegmentRecipe) -> dict[str, np.ndarray]:
    """Train the head of this process, and return its weights."""
    assert isinstance(parts.view, SceneView)
    model, train, training = parts.model, parts.splits.train, recipe.training
    generator = np.random.default_rng((training.seed, HEAD_STREAM))
    mixed = subset(train, generator.permutation(len(train)))
    table = compute_patches(model, parts.description, mixed, parts.view, training.batch_size, None, MOST_BYTES)
    peak = peak_lr(training.base_lr, training.batch_size)
    lr = partial(lr_at, peak=peak, total_steps=FIT_STEPS, warmup_steps=WARMUP_STEPS)
    settings = FitSettings(FIT_STEPS, precision=training.precision, clip_grad=training.clip_grad)
    with _frozen(model):
        state = TrainState(model, adamw(model, weight_decay=training.weight_decay, betas=recipe.betas))
        batches = iter(lambda: _draw(table, training.batch_size, generator), None)
        fit(state, batches, cached_loss(recipe, parts.class_weights), lr, share_cpu(settings, model, training))
    return {name: value.numpy() for name, value in model.head.state_dict().items()}


@contextmanager
def _frozen(model: Segmenter) -> Iterator[None]:
    """Leave the encoder out of training for a while."""
    trained = [parameter for parameter in model.encoder.parameters() if not parameter.stop_gradient]
    freeze_encoder(model)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.stop_gradient = False


def _draw(table: PatchTable, windows: int, generator: np.random.Generator) -> Batch:
    """Draw windows, each image as likely as another."""
    images = generator.integers(table.images, size=windows)
    rows = generator.integers(table.borders[images], table.borders[images + 1])
    features: Any = table.features_NhwD[rows]
    return Batch(features, table.masks_NHW[rows], images, np.zeros_like(images))
