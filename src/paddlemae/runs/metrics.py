"""Trainings and the metrics of their results: keys in files, names in text, and each kind's primary metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddlemae.runs.runlog import is_number

TASKS = {"pretrain": "pretraining", "finetune": "fine-tuning", "probe": "linear probing"}  # key in files -> name


@dataclass(frozen=True)
class Metrics:
    """Metrics of one kind of target: numbers in 0..1, of which more is better.

    Args:
        name: of the primary metric, as the heading of a table.
        titles: key in files and in Python -> name in text. The first is the primary metric, which chooses the best
            checkpoint and compares runs.
    """

    name: str
    titles: Mapping[str, str]

    @property
    def primary(self) -> str:
        """Return the key of the primary metric."""
        return next(iter(self.titles))

    @property
    def title(self) -> str:
        """Return the name of the primary metric in text."""
        return self.titles[self.primary]

    def text(self, result: Mapping[str, Any], digits: int = 2) -> str:
        """Return the metrics that a result has, in percent: "top-1 81.50%, top-5 99.00%"."""
        return ", ".join(f"{name} {result[key]:.{digits}%}" for key, name in self.titles.items() if key in result)


CLASSIFICATION = Metrics("top-1 accuracy", {"top1": "top-1", "top5": "top-5"})
ALL_METRICS = (CLASSIFICATION,)


def metrics_of(result: Mapping[str, Any]) -> Metrics | None:
    """Return the metrics of the first kind whose primary metric a result has; None if it has none."""
    return next((metrics for metrics in ALL_METRICS if is_number(result.get(metrics.primary))), None)


def metrics_named(primary: str) -> Metrics:
    """Return the kind of metrics with a primary metric; classification's if there is none."""
    return next((metrics for metrics in ALL_METRICS if metrics.primary == primary), CLASSIFICATION)
