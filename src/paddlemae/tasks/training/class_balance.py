"""Balance unequal classes of a fine-tuning: by weights in the loss, or by more views of the rarer ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.sources import Source
from paddlemae.recipe import FinetuneRecipe
from paddlemae.recipe.label_defaults import UNEQUAL

SAMPLING_STREAM = 8  # of the seed, see `data.batches`


def balanced_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return indices of which every class has as many as the largest: all images, those of other classes repeated.

    Which images come once more than the others of their class is drawn from `seed`. int64 [views], ascending.
    """
    rng = np.random.default_rng((seed, SAMPLING_STREAM))
    counts = np.bincount(labels)
    parts = []
    for label in np.flatnonzero(counts):
        images = np.flatnonzero(labels == label)
        times, rest = divmod(int(counts.max()), len(images))
        parts += [np.repeat(images, times), rng.permutation(images)[:rest]]
    return np.sort(np.concatenate(parts))


def unequal_views(labels: NDArray[np.int64]) -> int | None:
    """Return the views of a balanced epoch where classes are `UNEQUAL`; None where they are not."""
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return int(counts.max()) * len(counts) if counts.max() >= UNEQUAL * counts.min() else None


def epoch_of(recipe: FinetuneRecipe, source: Source) -> NDArray[np.int64] | None:
    """Return the indices of an epoch's views; None where each image comes once."""
    if recipe.sampling is None:
        return None
    if source.labels is None:
        raise ValueError("sampling=balanced needs one class per image; leave it out for images of several classes")
    return balanced_order(source.labels, recipe.training.seed)


def class_weights(recipe: FinetuneRecipe, source: Source) -> NDArray[np.float32] | None:
    """Return each class's weight in the loss, with a mean of 1 over an epoch's views: float32 [classes].

    Raises:
        ValueError: not as many weights as classes.
    """
    if recipe.class_weights is None:
        return None
    if source.labels is None:
        raise ValueError("class_weights needs one class per image; leave it out for images of several classes")
    order = epoch_of(recipe, source)
    labels = source.labels if order is None else source.labels[order]
    counts = np.bincount(labels, minlength=len(source.classes))
    return scale_weights(recipe.class_weights, counts, source.classes)


def scale_weights(
    given: Literal["balanced"] | Sequence[float], counts: NDArray[np.int64], classes: Sequence[str]
) -> NDArray[np.float32]:
    """Return weights of classes with a mean of 1 over what is counted, such as views or pixels: float32 [classes].

    Args:
        given: of each class, or "balanced", which is inversely proportional to its count.
    Raises:
        ValueError: not as many weights as classes.
    """
    if given == "balanced":
        weights = 1 / np.maximum(counts, 1)
    else:
        weights = np.asarray(given, np.float64)
        if len(weights) != len(classes):
            raise ValueError(
                f"class_weights needs a weight for each of the {len(classes)} classes, in the order "
                f"{', '.join(classes[:10])}{' ...' * (len(classes) > 10)}; got {len(weights)}"
            )
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)
