"""A classifier's result: its metrics with intervals, each class's, and what naming the commonest class would give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from paddlemae.runs.bootstrap import LISTED_CLASSES, Intervals, bootstrap, listed
from paddlemae.runs.class_metrics import Answers, class_scores, left_out, majority_of, metrics_of_answers
from paddlemae.runs.confusion import Confusion
from paddlemae.runs.metrics import CLASSIFICATION, metrics_of, primary_of
from paddlemae.system.display_names import display_name

SHOWN_CLASSES = 20  # in text; of more, those of the lowest recall
SHOWN_OF_MANY = 10
NAME_COLUMNS = 32

Json = dict[str, Any]


def class_result(answers: Answers, classes: Sequence[str], primary: str, intervals: Intervals | None = None) -> Json:
    """Return the part of `result.json` that tells how good a classifier's answers are.

    Args:
        answers: on at least one image.
        classes: names of the classes.
        primary: the key of the primary metric; accuracy takes its place where it is not defined.
        intervals: of the answers, if they are known already.
    Returns:
        the metrics in 0..1, and `primary`; `intervals`, metric -> [low, high] of 95%; `majority`, what naming the
        commonest class of these images for all of them gives; `left_out`, metric -> reason, if there are any;
        `only`, the class that all images were taken for, if there is one;
        `per_class`, name -> images, precision, recall and their intervals, for up to `LISTED_CLASSES` classes.
    """
    metrics = metrics_of_answers(answers)
    found = intervals or bootstrap(answers, metrics)
    result: Json = {**metrics, "primary": primary if primary in metrics else CLASSIFICATION.primary}
    result["intervals"] = {name: list(ends) for name, ends in found.metrics.items()}
    result["majority"] = majority_of(answers.labels, classes)
    if (answers.predicted == answers.predicted[0]).all():
        result["only"] = classes[int(answers.predicted[0])]
    if reasons := left_out(answers):
        result["left_out"] = reasons
    if answers.classes <= LISTED_CLASSES and found.precision is not None and found.recall is not None:
        scores = class_scores(Confusion.of(answers.labels, answers.predicted, answers.classes))
        columns = zip(classes, scores.images.tolist(), scores.precision, scores.recall, found.precision, found.recall)
        result["per_class"] = {
            name: {
                "images": images,
                "precision": _known(precision),
                "recall": _known(recall),
                "intervals": {"precision": listed(precision_ends), "recall": listed(recall_ends)},
            }
            for name, images, precision, recall, precision_ends, recall_ends in columns
        }
    return result


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def result_table(result: Mapping[str, Any]) -> str:
    """Return a result's metrics as a table of text: value, interval, and what naming the commonest class gives."""
    majority, intervals, primary = result["majority"], result.get("intervals", {}), primary_of(result)
    naive = "chance" if majority["class"] is None else f"always '{display_name(majority['class'], NAME_COLUMNS)}'"
    head, titles = ("", "value", "95% interval", naive), (metrics_of(result) or CLASSIFICATION).titles
    rows = [
        (
            title + (" (primary)" if key == primary else ""),
            f"{result[key]:.2%}",
            interval_text(intervals.get(key)),
            f"{majority[key]:.2%}" if key in majority else "",
        )
        for key, title in titles.items()
        if key in result
    ]
    lines = list(_aligned([head, *rows]))
    for key, reason in result.get("left_out", {}).items():
        lines.append(f"{CLASSIFICATION.titles.get(key, key)}: left out, since {reason}")
    return "\n".join(lines)


def class_table(result: Mapping[str, Any]) -> str:
    """Return precision and recall of each class as a table of text; of many classes those of the lowest recall."""
    classes: Mapping[str, Json] = result.get("per_class", {})
    listed = list(classes.items())
    if listed and "threshold" in listed[0][1]:
        return _multi_label_table(listed)
    if listed and "iou" in listed[0][1]:
        return _segmentation_table(listed)
    listed = _lowest(listed, "recall")
    head = ("class", "images", "recall", "95% interval", "precision", "95% interval")
    rows = [
        (
            display_name(name, NAME_COLUMNS),
            f"{one['images']:,}",
            *(
                text
                for key in ("recall", "precision")
                for text in (_percent(one[key]), interval_text(one["intervals"][key]))
            ),
        )
        for name, one in listed
    ]
    lines = list(_aligned([head, *rows])) if rows else []
    if len(classes) > len(listed):
        lines.append(f"... and {len(classes) - len(listed)} classes of higher recall")
    return "\n".join(lines)


def _lowest(listed: Sequence[tuple[str, Json]], key: str) -> list[tuple[str, Json]]:
    """Return all classes with their values, or of many classes those of the lowest value of `key`."""
    if len(listed) <= SHOWN_CLASSES:
        return list(listed)
    known = [item for item in listed if item[1][key] is not None]
    return sorted(known, key=lambda item: float(item[1][key]))[:SHOWN_OF_MANY]


def _multi_label_table(listed: Sequence[tuple[str, Json]]) -> str:
    """Return the same of images of several classes, with each class's average precision and threshold."""
    shown = _lowest(listed, "average_precision")
    head = ("class", "images", "average precision", "threshold", "recall", "precision")
    rows = [
        (
            display_name(name, NAME_COLUMNS),
            f"{one['images']:,}",
            _percent(one["average_precision"]),
            f"{one['threshold']:.3f}",
            _percent(one["recall"]),
            _percent(one["precision"]),
        )
        for name, one in shown
    ]
    more = (
        [f"... and {len(listed) - len(shown)} classes of higher average precision"] if len(shown) < len(listed) else []
    )
    return "\n".join([*_aligned([head, *rows]), *more])


def _segmentation_table(listed: Sequence[tuple[str, Json]]) -> str:
    """Return the same of predicted label maps, with the share of the pixels that each class has."""
    shown, pixels = _lowest(listed, "iou"), max(1, sum(one["pixels"] for _, one in listed))
    head = ("class", "pixels", "IoU", "95% interval", "Dice", "boundary F1", "recall", "precision")
    rows = [
        (
            display_name(name, NAME_COLUMNS),
            f"{one['pixels'] / pixels:.2%}",
            _percent(one["iou"]),
            interval_text(one["intervals"]["iou"]),
            *(_percent(one[key]) for key in ("dice", "boundary_f1", "recall", "precision")),
        )
        for name, one in shown
    ]
    more = [f"... and {len(listed) - len(shown)} classes of higher IoU, or in no image"]
    return "\n".join([*_aligned([head, *rows]), *(more if len(shown) < len(listed) else [])])


def majority_text(result: Mapping[str, Any]) -> str:
    """Return "always the commonest class ('a'): accuracy 56.35%, balanced accuracy 16.67%"."""
    majority = result["majority"]
    name = display_name(majority["class"], NAME_COLUMNS)
    return f"always the commonest class ('{name}'): {CLASSIFICATION.text(majority)}"


def interval_text(ends: Sequence[float] | None) -> str:
    """Return "49.2 to 63.1%", or nothing without an interval."""
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}%" if ends else ""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
        yield "  ".join(cells).rstrip()
