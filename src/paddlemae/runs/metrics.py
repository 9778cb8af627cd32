"""Trainings and the metrics of their results: keys in files, names in text, and each kind's primary metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paddlemae.runs.runlog import is_number

TASKS = {  # key in files -> name
    "pretrain": "pretraining",
    "finetune": "fine-tuning",
    "probe": "linear probing",
    "segment": "segmentation",
}
# tokens of an image that features are of: key in files -> name
TOKEN_NAMES = {
    "cls": "cls token",
    "mean": "mean of the patch tokens",
    "mean+std": "mean and deviation of the patch tokens",
}


@dataclass(frozen=True)
class Metrics:
    """Metrics of one kind of target: numbers in 0..1, of which more is better except for those in `errors`.

    Args:
        name: of the first metric, as the heading of a table.
        titles: key in files and in Python -> name in text. Every result of this kind has the first metric. It is the
            primary one, which chooses the best checkpoint and compares runs, unless a result names another.
        errors: keys of metrics of which less is better; they are never primary.
        of_pixels: whether they count pixels, of which a few images have many, rather than images.
    """

    name: str
    titles: Mapping[str, str]
    errors: tuple[str, ...] = ()
    of_pixels: bool = False

    @property
    def primary(self) -> str:
        """Return the key of the metric that is primary where a result names none."""
        return next(iter(self.titles))

    @property
    def title(self) -> str:
        """Return the name of that metric in text."""
        return self.titles[self.primary]

    def text(self, result: Mapping[str, Any], digits: int = 2) -> str:
        """Return the metrics that a result has, in percent: "accuracy 81.50%, top-5 99.00%"."""
        return ", ".join(f"{name} {result[key]:.{digits}%}" for key, name in self.titles.items() if key in result)

    def standard_error(self, value: float, images: int) -> float:
        """Return how far a metric of some images may be off, as if it were a share of them; 0, unknown, of pixels."""
        return 0.0 if self.of_pixels else math.sqrt(max(0.0, value * (1 - value)) / images)


CLASSIFICATION = Metrics(
    "accuracy",
    {
        "top1": "accuracy",
        "top5": "top-5 accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro F1",
        "auroc": "AUROC",
        "average_precision": "average precision",
        "ece": "calibration error",
    },
    errors=("ece",),
)
MULTI_LABEL = Metrics(
    "mean average precision",
    {
        "mean_average_precision": "mean average precision",
        "auroc": "AUROC",
        "macro_f1": "macro F1",
        "micro_f1": "micro F1",
        "exact_match": "exact match",
    },
)
SEGMENTATION = Metrics(
    "mean IoU",
    {
        "miou": "mean IoU",
        "dice": "mean Dice",
        "boundary_f1": "boundary F1",
        "pixel_accuracy": "pixel accuracy",
        "image_miou": "mean IoU of an image",
    },
    of_pixels=True,
)
ALL_METRICS = (CLASSIFICATION, MULTI_LABEL, SEGMENTATION)
MOST_UNBALANCED = 1.5  # largest class / smallest class, up to which accuracy is the primary metric


def primary_metric(image_counts: Sequence[int]) -> str:
    """Return the primary metric for classes of these sizes: accuracy where they are balanced, else its mean over
    classes. Classes without images do not count.
    """
    counts = [count for count in image_counts if count]
    is_balanced = not counts or max(counts) <= MOST_UNBALANCED * min(counts)
    return "top1" if is_balanced else "balanced_accuracy"


def primary_of(result: Mapping[str, Any]) -> str:
    """Return the key of a result's primary metric: the one that it names and has, else that of its kind."""
    metrics = metrics_of(result) or CLASSIFICATION
    named = result.get("primary")
    is_usable = isinstance(named, str) and named in metrics.titles and is_number(result.get(named))
    return str(named) if is_usable else metrics.primary


def metrics_of(result: Mapping[str, Any]) -> Metrics | None:
    """Return the metrics of the first kind whose first metric a result has; None if it has none."""
    return next((metrics for metrics in ALL_METRICS if is_number(result.get(metrics.primary))), None)


def metrics_named(key: str) -> Metrics:
    """Return the kind of metrics that a metric is of; classification's if there is none."""
    return next((metrics for metrics in ALL_METRICS if key in metrics.titles), CLASSIFICATION)


def title_of(key: str) -> str:
    """Return the name of a metric in text."""
    return metrics_named(key).titles.get(key, key)
