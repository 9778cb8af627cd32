"""Evaluate a classifier on labelled images."""

from __future__ import annotations

import numpy as np

from paddlemae.data.batches import Batch, eval_batches, labels_of
from paddlemae.data.sources import Source
from paddlemae.model.classifier import VisionTransformer
from paddlemae.tasks.models.inference import Logits, forward_function
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.training.classification import Evaluation, evaluation_of
from paddlemae.tasks.training.multi_label import MultiLabelEvaluation, multi_label_evaluation_of
from paddlemae.tasks.training.skipped_images import SkippedImages
from paddlemae.train.parallel.ranks import ALONE, Ranks
from paddlemae.weights.model_folder import Description


def evaluate_classifier(
    model: VisionTransformer,
    description: Description,
    source: Source,
    *,
    batch_size: int,
    workers: int = 0,
    on_skip: SkippedImages | None = None,
    threads: int | str = "auto",
    precision: str = "float32",
    ranks: Ranks = ALONE,
) -> Evaluation | MultiLabelEvaluation:
    """Evaluate on labelled images, each counted once; unreadable ones are left out.

    Args:
        description: says how the model sees images.
        workers: processes that decode the images to come; 0 decodes here.
        on_skip: called with each image that can't be read; by default they are named, and as many as usual allowed.
        threads, precision: as in `device.prepare`.
        ranks: processes that share the images.
    """
    forward = forward_function(model, description, Logits(precision), threads=threads)
    view, on_skip = evaluation_view(description), on_skip or SkippedImages(source)
    batches = eval_batches(
        source, view, batch_size=batch_size, rank=ranks.rank, world=ranks.world, workers=workers, on_skip=on_skip
    )
    evaluation: Evaluation | MultiLabelEvaluation
    if description.thresholds is not None:
        several = ((batch.indices, _targets(batch), forward(batch.images)) for batch in batches)
        evaluation = multi_label_evaluation_of(several, description.thresholds, ranks)
    else:
        predictions = ((batch.indices, labels_of(batch), forward(batch.images)) for batch in batches)
        evaluation = evaluation_of(predictions, len(source.classes), ranks)
    on_skip.share()
    return evaluation


def _targets(batch: Batch) -> np.ndarray:
    assert batch.targets is not None
    return batch.targets
