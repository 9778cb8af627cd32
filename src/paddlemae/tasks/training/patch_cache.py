"""Train a segmenter's head on patch features that are computed once, from windows that cover each image.

Shapes: N windows, C channels, H x W pixels, h x w patches, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.batches import Batch, OnSkip, Scene, due_in_training, whole_scenes
from paddlemae.data.decode.images import Picture
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.random_streams import VIEW_STREAM, generator_of, state_words
from paddlemae.data.sources import Source
from paddlemae.data.views.scenes import SceneDraw, SceneView, make_scene
from paddlemae.engine.safe_import import nn, paddle
from paddlemae.engine.tensors import tensor_of
from paddlemae.model.encoder import evaluating
from paddlemae.model.segmenter import Segmenter
from paddlemae.recipe import SegmentRecipe
from paddlemae.system.limits import free_memory
from paddlemae.tasks.models.preprocess import to_input
from paddlemae.tasks.models.windows import place_windows
from paddlemae.tasks.training.segmentation_loss import masks_of, segmentation_loss
from paddlemae.tasks.training.supervised import Batches
from paddlemae.tasks.training.training_batches import count_remaining
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.parallel.loss_layer import LossFn
from paddlemae.train.parallel.ranks import Ranks
from paddlemae.weights.model_folder import Description


@dataclass(frozen=True, eq=False)
class PatchTable:
    """The features and masks of windows that cover some images.

    Attributes:
        features_NhwD: float32.
        masks_NHW: int16.
        borders: int64 [images + 1], where the windows of each image begin.
    """

    features_NhwD: NDArray[np.float32]
    masks_NHW: NDArray[np.int16]
    borders: NDArray[np.int64]

    @property
    def images(self) -> int:
        return len(self.borders) - 1


def compute_patches(
    model: Segmenter,
    description: Description,
    source: Source,
    view: SceneView,
    batch_size: int,
    on_skip: OnSkip | None,
) -> PatchTable:
    """Compute the features of every readable image.

    Args:
        view: of the training, of which the size and the short side are taken.
        on_skip: called with each image that can't be read.
    Raises:
        DataFault: no image can be read.
        ValueError: the features do not fit into memory.
    """
    features: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    counts = [0]
    for scene in whole_scenes(source, view.channels, view.depth, on_skip=on_skip):
        windows = list(scene_windows(scene, view))
        images = np.stack([image for image, _ in windows])
        with evaluating(model), paddle.no_grad():
            for start in range(0, len(images), batch_size):
                part = to_input(images[start : start + batch_size], description)
                features.append(model.patch_features(part).numpy())
        masks.append(np.stack([mask for _, mask in windows]))
        counts.append(len(windows))
        if len(counts) == 2:
            _check_memory(features[-1][0].nbytes + masks[-1][0].nbytes, len(windows) * len(source))
    if not features:
        raise DataFault(f"no image of {source.name} can be read; fix or replace them; first: {source.describe(0)}")
    return PatchTable(np.concatenate(features), np.concatenate(masks), np.cumsum(counts))


def _check_memory(window_bytes: int, windows: int) -> None:
    needed, free = 2 * window_bytes * windows, free_memory()
    if free is not None and needed > free:
        raise ValueError(
            f"the features of about {windows:,} windows take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are "
            "free; leave cached out, or take fewer images with labels="
        )


def scene_windows(scene: Scene, view: SceneView) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield views, [C, H, W], with their masks, [H, W], that cover an image in rows from its top left corner."""
    size = scene.mask.shape
    factor = (view.short_side or min(size)) / min(size)
    scaled = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    tops, lefts = (
        place_windows(side, span, 0.0, "mean").starts.tolist() for side, span in zip(scaled, view.image_size)
    )
    picture = Picture(scene.image.transpose(1, 2, 0), (size[0], size[1]))
    for top in tops:
        for left in lefts:
            draw = SceneDraw(left, top, view.image_size, scaled, 0, False, False, None)
            yield make_scene(picture, scene.mask, view, draw)


def cached_batches(table: PatchTable, recipe: SegmentRecipe, state: TrainState, ranks: Ranks) -> Batches:
    """Yield this rank's share of the micro-batches that `state` has not taken yet: of each image one of its windows."""
    training = recipe.training
    share = training.batch_size // ranks.world
    own = slice(ranks.rank * share, (ranks.rank + 1) * share)
    for indices, epochs in due_in_training(table.images, **count_remaining(training, table.images, state)):
        indices, epochs = indices[own], epochs[own]
        borders = zip(table.borders[indices], table.borders[indices + 1])
        states = state_words(training.seed, VIEW_STREAM, epochs, indices)
        rows = np.array([generator_of(state).integers(*ends) for state, ends in zip(states, borders)])
        yield Batch(table.features_NhwD[rows], table.masks_NHW[rows], indices, epochs)


def cached_loss(recipe: SegmentRecipe, class_weights: NDArray[np.float32] | None) -> LossFn:
    """Return (model, batch of features with masks) -> mean loss of the head."""

    def loss_fn(model: nn.Layer, batch: Batch) -> paddle.Tensor:
        masks = masks_of(batch)
        logits = model.logits_of(tensor_of(batch.images), masks.shape[1:])
        return segmentation_loss(logits, masks, class_weights, dice=recipe.dice, focal=recipe.focal)

    return loss_fn
