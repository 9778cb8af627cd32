"""What an `auto` run found: a table of methods, and in one line whether pretraining helped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paddlemae.runs.class_results import interval_text
from paddlemae.runs.metrics import CLASSIFICATION, MULTI_LABEL, SEGMENTATION, title_of

Json = dict[str, Any]

FINETUNED, SCRATCH, KNN, KNN_UNTRAINED, MAJORITY = "finetuned", "scratch", "knn", "knn_untrained", "majority"
TITLES = {
    KNN_UNTRAINED: "kNN of untrained features",
    KNN: "kNN of pretrained features",
    SCRATCH: "trained from scratch for the same time",
    FINETUNED: "pretrained and fine-tuned",
}
KEPT = (
    *CLASSIFICATION.titles,
    *MULTI_LABEL.titles,
    *SEGMENTATION.titles,
    "primary",
    "intervals",
    "train_images",
    "eval_images",
    "seconds",
    "detail",
)
SHOWN = ("top1", "balanced_accuracy", "macro_f1", "auroc", "miou", "dice", "boundary_f1", "pixel_accuracy")


def method_row(key: str, result: Mapping[str, Any], **more: Any) -> Json:
    """Return a method's row of the table: its key, title, and of its result what the table needs."""
    kept = {name: result[name] for name in KEPT if name in result}
    return {"key": key, "title": TITLES.get(key, ""), "detail": "", "seconds": 0.0, "intervals": {}, **kept, **more}


def outcome(rows: Sequence[Json], primary: str) -> Json:
    """Return what the report shows of a run's methods.

    Args:
        rows: as `method_row` gives them; none without labels.
    Returns:
        `verdict`, a sentence that says whether pretraining helped, `helped` (None where that was not measured or is
        within the uncertainty), `remarks` (further sentences), `primary`, `columns` (key -> title of the metrics, the
        primary one first), and `rows`: the commonest class first, then the others from the worst to the best.
    """
    by_key = {row["key"]: row for row in rows}
    helped, verdict = _pretraining(by_key, primary)
    keys = [primary, *(key for key in SHOWN if key != primary and any(key in row for row in rows))]
    return {
        "verdict": verdict,
        "helped": helped,
        "remarks": _against_baselines(by_key, primary),
        "primary": primary,
        "columns": {key: title_of(key) for key in keys},
        "rows": sorted(rows, key=lambda row: (row["key"] != MAJORITY, row[primary])),
    }


def _pretraining(rows: Mapping[str, Json], primary: str) -> tuple[bool | None, str]:
    """Return whether pretraining helped, and that in words: fine-tuned against from scratch, else kNN of features."""
    pairs = (
        (FINETUNED, SCRATCH, "the fine-tuned model has {}, the one from scratch {}"),
        (KNN, KNN_UNTRAINED, "kNN of its features has {}, of untrained ones {}"),
    )
    for ours, other, words in pairs:
        if ours in rows and other in rows:
            helped = compare(rows[ours], rows[other], primary)
            text = {
                True: "Pretraining helped",
                False: "Pretraining did not help",
                None: "Pretraining made no clear difference",
            }
            values = words.format(*(f"{rows[key][primary]:.1%}" for key in (ours, other)))
            return helped, f"{text[helped]}: {values} ({title_of(primary)})."
    if FINETUNED in rows:
        found = f"The model has {rows[FINETUNED][primary]:.1%} ({title_of(primary)})"
        return None, f"{found}; whether pretraining helped is measured by --compare, which trains from scratch too."
    return None, "Whether pretraining helped can't be measured without labels or masks; look at the reconstructions."


def _against_baselines(rows: Mapping[str, Json], primary: str) -> list[str]:
    """Return a sentence on the fine-tuned model, or else the features, against the best baseline without a network."""
    ours = rows.get(FINETUNED) or rows.get(KNN)
    baselines = [row for key, row in rows.items() if key not in TITLES]
    if not ours or not baselines:
        return []
    best = max(baselines, key=lambda row: float(row[primary]))
    better = compare(ours, best, primary)
    name = "The fine-tuned model" if ours["key"] == FINETUNED else "kNN of pretrained features"
    words = {True: "is better than", False: "is not better than", None: "is not clearly different from"}[better]
    return [f"{name} {words} the best baseline ({best['title']}): {ours[primary]:.1%} and {best[primary]:.1%}."]


def compare(ours: Mapping[str, Any], other: Mapping[str, Any], primary: str) -> bool | None:
    """Return whether a result is better than another; None if one of them is in the other's interval."""
    gain = ours[primary] - other[primary]
    ends = [row.get("intervals", {}).get(primary) for row in (ours, other)]
    values = other[primary], ours[primary]
    if any(interval and interval[0] <= value <= interval[1] for interval, value in zip(ends, values)):
        return None
    return bool(gain > 0)


def table(found: Json) -> str:
    """Return the rows of an outcome as a table of text."""
    (primary, title), *others = found["columns"].items()
    lines = [["", title, "95% interval", *(other for _, other in others), "seconds"]]
    for row in found["rows"]:
        values = [f"{row[key]:.1%}" if key in row else "" for key in (primary, *(key for key, _ in others))]
        interval = interval_text(row.get("intervals", {}).get(primary))
        lines.append([row["title"], values[0], interval, *values[1:], f"{row.get('seconds', 0):.0f}"])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]
        ).rstrip()
        for line in lines
    )
