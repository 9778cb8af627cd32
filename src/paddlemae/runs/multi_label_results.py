"""A multi-label classifier's result: its metrics with intervals, and each class's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from paddlemae.runs.metrics import MULTI_LABEL
from paddlemae.runs.multi_label_metrics import (
    MultiLabelAnswers,
    chance_of,
    class_rankings,
    class_scores,
    intervals_of,
    multi_label_metrics,
)


def multi_label_result(answers: MultiLabelAnswers, classes: Sequence[str], primary: str) -> dict[str, Any]:
    """Return the part of `result.json` about a multi-label classifier's answers.

    Returns:
        the metrics in 0..1, and `primary`; `intervals`, metric -> [low, high] of 95%; `majority`, what scores that say
        nothing would give; `per_class`, name -> images, average precision, and at its threshold precision and recall.
    """
    metrics = multi_label_metrics(answers)
    columns = (*class_rankings(answers)[:1], *class_scores(answers)[:2])
    return {
        **metrics,
        "primary": primary if primary in metrics else MULTI_LABEL.primary,
        "intervals": intervals_of(answers, metrics),
        "majority": chance_of(answers),
        "per_class": {
            name: {
                "images": int(answers.labels[:, k].sum()),
                **{
                    key: float(column[k]) if math.isfinite(column[k]) else None
                    for key, column in zip(("average_precision", "precision", "recall"), columns)
                },
                "threshold": float(answers.thresholds[k]),
            }
            for k, name in enumerate(classes)
        },
    }
