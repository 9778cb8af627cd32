"""Features of whole, unmasked images."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np

from paddlemae.data.batches import OnSkip, eval_batches
from paddlemae.data.sources import Source
from paddlemae.data.workers import workers_for
from paddlemae.engine.safe_import import nn
from paddlemae.tasks.models.inference import FeatureKind, Logits, forward_function
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.weights.model_folder import Description

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
    features_ND: np.ndarray | None = None
    indices, done = np.empty(len(source), np.int64), 0
    for batch_BD, batch_indices in embedded(
        model, description, source, kind=kind, batch_size=batch_size, workers=workers, threads=threads, on_skip=on_skip
    ):
        if features_ND is None:  # filled in place: joined batches would take the memory twice
            features_ND = np.empty((len(source), batch_BD.shape[1]), np.float32)
        features_ND[done : done + len(batch_BD)] = batch_BD
        indices[done : done + len(batch_BD)] = batch_indices
        done += len(batch_BD)
    assert features_ND is not None  # having no image at all is an error of `eval_batches`
    return features_ND[:done], indices[:done]


def embedded(
    model: nn.Layer,
    description: Description,
    source: Source,
    *,
    kind: FeatureKind | Logits = DEFAULT_KIND,
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
    images = len(source) if chosen is None else len(chosen) * batch_size
    processes = workers_for(images, None if workers == "auto" else int(workers), computing=True)
    forward = forward_function(model, description, kind, threads=threads)
    batches = eval_batches(
        source,
        evaluation_view(description),
        batch_size=batch_size,
        chosen=chosen,
        workers=processes,
        on_skip=on_skip or SkippedImages(source),
    )
    with closing(batches):
        for batch in batches:
            yield forward(batch.images), batch.indices


class Labelled(NamedTuple):
    """Features float32 [N, D] of images, their labels int64 [N], and their indices int64 [N] in the source."""

    features_ND: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


def labelled_features(
    model: nn.Layer,
    description: Description,
    source: Source,
    kind: FeatureKind,
    *,
    batch_size: int = 32,
    threads: int | str = "auto",
    on_skip: OnSkip | None = None,
) -> Labelled:
    """Return the features of a labelled source's readable images; see `embed`."""
    assert source.labels is not None
    features_ND, indices = embed(
        model, description, source, kind=kind, batch_size=batch_size, threads=threads, on_skip=on_skip
    )
    return Labelled(features_ND, source.labels[indices], indices)
