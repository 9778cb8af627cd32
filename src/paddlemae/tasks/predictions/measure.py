"""Measure predictions of images that have a label, as `paddlemae evaluate` measures them.

Shapes: N images, K classes, k of them that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paddlemae.data.sources import MultiLabelTargets, Source, unknown_classes, with_classes
from paddlemae.data.sources.splits import list_names, note
from paddlemae.runs.class_metrics import MOST_PROBABILITIES, TOP, Answers
from paddlemae.runs.class_results import class_result
from paddlemae.runs.metrics import primary_metric
from paddlemae.runs.multi_label_metrics import MultiLabelAnswers
from paddlemae.runs.multi_label_results import multi_label_result
from paddlemae.tasks.models.parts import Parts
from paddlemae.tasks.predictions.rows import CLASSES, PROBABILITIES
from paddlemae.weights.model_folder import Description


def classes_needed(source: Source, classes: int) -> int:
    """Return how many classes of each image must be kept for `measure`: all, if these are not too many numbers."""
    few = source.labels is not None and len(source) * classes <= MOST_PROBABILITIES
    return classes if few else min(TOP, classes)


def measure(parts: Parts, description: Description) -> dict[str, Any] | None:
    """Return the metrics of the images that have a label, as in `class_result`, and their number as `eval_images`.

    Returns:
        None where there is no such image, or one of a class that the classifier does not know, which a warning names.
    """
    classes = description.classes
    if parts.source.targets is None:
        return None
    if unknown := unknown_classes(parts.source, classes):
        note(f"no accuracy is computed: the classifier does not know the labels {list_names(unknown)}")
        return None
    if isinstance(parts.source.targets, MultiLabelTargets):
        return _measure_several(parts, description)
    answers = _answers(parts, classes)
    if not len(answers.labels):
        return None
    named = description.provenance.get("primary")
    primary = named if isinstance(named, str) else primary_metric(np.bincount(answers.labels).tolist())
    return {**class_result(answers, classes, primary), "eval_images": len(answers.labels)}


def _measure_several(parts: Parts, description: Description) -> dict[str, Any] | None:
    """Return the same of images of several classes, as in `multi_label_result`."""
    targets = with_classes(parts.source, description.classes).targets
    assert isinstance(targets, MultiLabelTargets) and description.thresholds is not None
    found = [part for part in parts if len(part.indices)]
    indices = np.concatenate([part.indices for part in found])
    classes_NK, scores_NK = (np.concatenate([part.arrays[name] for part in found]) for name in (CLASSES, PROBABILITIES))
    probabilities_NK = np.empty(scores_NK.shape)
    np.put_along_axis(probabilities_NK, classes_NK, scores_NK, axis=1)
    known = targets.known[indices]
    if not known.any():
        return None
    thresholds = np.array(description.thresholds)
    answers = MultiLabelAnswers(targets.labels[indices][known], probabilities_NK[known], thresholds)
    primary = str(description.provenance.get("primary"))
    return {**multi_label_result(answers, description.classes, primary), "eval_images": int(known.sum())}


def _answers(parts: Parts, classes: Sequence[str]) -> Answers:
    labels = with_classes(parts.source, classes).labels
    assert labels is not None
    rows = [
        (labels[part.indices], part.arrays[CLASSES], part.arrays[PROBABILITIES]) for part in parts if len(part.indices)
    ]
    labels_N, classes_Nk, probabilities_Nk = (np.concatenate(column) for column in zip(*rows))
    known = labels_N >= 0
    labels_N, classes_Nk, probabilities_Nk = labels_N[known], classes_Nk[known], probabilities_Nk[known]
    in_top = (classes_Nk[:, :TOP] == labels_N[:, None]).any(axis=1)
    probabilities_NK = None
    if classes_Nk.shape[1] == len(classes):
        probabilities_NK = np.empty_like(probabilities_Nk)
        np.put_along_axis(probabilities_NK, classes_Nk, probabilities_Nk, axis=1)
    confidence = probabilities_Nk[:, 0].astype(np.float64)
    return Answers(len(classes), labels_N, classes_Nk[:, 0].astype(np.int64), confidence, in_top, probabilities_NK)
