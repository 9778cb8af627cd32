"""Features of whole, unmasked images."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any, Literal, NamedTuple

import numpy as np

from paddlemae.data.batches import OnSkip, eval_batches
from paddlemae.data.sources import Source
from paddlemae.engine.cpus import threads_of
from paddlemae.engine.safe_import import nn
from paddlemae.tasks.models.inference import FeatureKind, forward_function
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.weights.model_folder import Description

IMAGES_FOR_WORKERS = 1000  # below, processes take longer to start than they save
MOST_WORKERS = 8
DEFAULT_KIND = FeatureKind()


def embed(
    model: nn.Layer,
    description: Description,
    source: Source,
    *,
    kind: FeatureKind = DEFAULT_KIND,
    batch_size: int = 32,
    workers: int | str = "auto",
    threads: int | str = "auto",
    on_skip: OnSkip | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Run the encoder over a source, while other processes decode the images to come.

    Args:
        kind: which features.
        workers: processes that decode; 0 decodes here, "auto" starts some if there are many images.
        threads: as in `device.prepare`.
        on_skip: called with each image that can't be read; by default they are named, and as many as usual allowed.
    Returns:
        (features float32 [N, D], indices int64 [N] in the source); unreadable images are left out.
    Raises:
        ValueError: features that the model does not have.
        DataFault: no image that can be read, or more unreadable ones than `on_skip` allows.
    """
    settings: dict[str, Any] = dict(batch_size=batch_size, workers=workers, threads=threads, on_skip=on_skip)
    found_ND: np.ndarray | None = None
    indices, done = np.empty(len(source), np.int64), 0
    for part_BD, part_indices in embedded(model, description, source, kind=kind, **settings):
        if found_ND is None:  # filled in place: joined parts would take the memory twice
            found_ND = np.empty((len(source), part_BD.shape[1]), np.float32)
        found_ND[done : done + len(part_BD)] = part_BD
        indices[done : done + len(part_BD)] = part_indices
        done += len(part_BD)
    assert found_ND is not None  # having no image at all is an error of `eval_batches`
    return found_ND[:done], indices[:done]


def embedded(
    model: nn.Layer,
    description: Description,
    source: Source,
    *,
    kind: FeatureKind | Literal["logits"] = DEFAULT_KIND,
    batch_size: int = 32,
    chosen: Sequence[int] | None = None,
    workers: int | str = "auto",
    threads: int | str = "auto",
    on_skip: OnSkip | None = None,
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Yield `embed`'s features, or a classifier's logits, and indices batch by batch.

    Args:
        chosen: the numbers of the batches to compute; None is all.
        others, and errors: those of `embed`.
    """
    if workers == "auto":
        workers = decoding_workers(len(source) if chosen is None else len(chosen) * batch_size)
    forward = forward_function(model, description, kind, threads=threads)
    settings: dict[str, Any] = dict(batch_size=batch_size, chosen=chosen, workers=int(workers))
    view = evaluation_view(description)
    with closing(eval_batches(source, view, **settings, on_skip=on_skip or SkippedImages(source))) as batches:
        for batch in batches:
            yield forward(batch.images), batch.indices


class Labelled(NamedTuple):
    """Features float32 [N, D] of images, their labels int64 [N], and their indices int64 [N] in the source."""

    features_ND: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


def labelled_features(
    model: nn.Layer, description: Description, source: Source, kind: FeatureKind, **settings: Any
) -> Labelled:
    """The features of a labelled source's readable images; see `embed`."""
    assert source.labels is not None
    found_ND, indices = embed(model, description, source, kind=kind, **settings)
    return Labelled(found_ND, source.labels[indices], indices)


def decoding_workers(num_images: int) -> int:
    """Processes that decode files while the model computes, on its share of the CPUs."""
    return min(max(1, threads_of("auto") // 2), MOST_WORKERS) if num_images >= IMAGES_FOR_WORKERS else 0
