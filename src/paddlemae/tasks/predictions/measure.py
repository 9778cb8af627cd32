"""Measure predictions of images that have a label, as `paddlemae evaluate` measures them.

Shapes: N images, K classes, k of them that are kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.sources import MaskTargets, Source, unknown_classes, with_classes
from paddlemae.data.sources.splits import list_names, note
from paddlemae.runs.class_metrics import MOST_PROBABILITIES, TOP, Answers
from paddlemae.runs.class_results import class_result
from paddlemae.runs.metrics import MULTI_LABEL, primary_metric
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
    """Return the metrics of the images that have a label, as `evaluate` does, and their number as `eval_images`.

    Returns:
        None where there is no such image, or one of a class that the classifier does not know, which a warning names.
    """
    source, classes, thresholds = parts.source, description.classes, description.thresholds
    if source.targets is None:
        return None
    if unknown := unknown_classes(source, classes):
        note(f"no accuracy is computed: the classifier does not know the labels {list_names(unknown)}")
        return None
    targets = with_classes(source, classes).targets
    assert targets is not None and not isinstance(targets, MaskTargets)
    images_N, classes_Nk, probabilities_Nk = _labelled_rows(parts, targets.known)
    if not len(images_N):
        return None
    named, result = description.provenance.get("primary"), dict[str, Any]()
    if thresholds is None:
        answers = _answers(targets.labels[images_N], classes_Nk, probabilities_Nk, len(classes))
        primary = named if isinstance(named, str) else primary_metric(np.bincount(answers.labels).tolist())
        result = class_result(answers, classes, primary)
    else:
        probabilities_NK = _by_class(classes_Nk, probabilities_Nk).astype(np.float64)
        several = MultiLabelAnswers(targets.labels[images_N].astype(bool), probabilities_NK, np.array(thresholds))
        result = multi_label_result(several, classes, named if isinstance(named, str) else MULTI_LABEL.primary)
    return {**result, "eval_images": len(images_N)}


def _labelled_rows(parts: Parts, known: NDArray[np.bool_]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (indices [N], classes [N, k], probabilities [N, k]) of the readable images that have a label."""
    rows = [(part.indices, part.arrays[CLASSES], part.arrays[PROBABILITIES]) for part in parts if len(part.indices)]
    indices, classes, probabilities = (np.concatenate(column) for column in zip(*rows))
    chosen = known[indices]
    return indices[chosen], classes[chosen], probabilities[chosen]


def _answers(labels_N: np.ndarray, classes_Nk: np.ndarray, probabilities_Nk: np.ndarray, classes: int) -> Answers:
    predicted, confidence = classes_Nk[:, 0].astype(np.int64), probabilities_Nk[:, 0].astype(np.float64)
    in_top = (classes_Nk[:, :TOP] == labels_N[:, None]).any(axis=1)
    probabilities_NK = _by_class(classes_Nk, probabilities_Nk) if classes_Nk.shape[1] == classes else None
    return Answers(classes, labels_N, predicted, confidence, in_top, probabilities_NK)


def _by_class(classes_NK: np.ndarray, probabilities_NK: np.ndarray) -> np.ndarray:
    """Return probabilities in the order of the classes."""
    ordered_NK = np.empty_like(probabilities_NK)
    np.put_along_axis(ordered_NK, classes_NK, probabilities_NK, axis=1)
    return ordered_NK
