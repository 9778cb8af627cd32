"""Write the report to disk: the page, its figures as JSON, and the results as a Markdown table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddlemae.report.collect import collect
from paddlemae.report.page import render
from paddlemae.report.results import summary_markdown
from paddlemae.runs.runlog import REPORT_FILES
from paddlemae.system.atomic import name_in_errors, replace_text


@dataclass(frozen=True)
class Written:
    """The report's files."""

    page: Path
    figures: Path
    table: Path


def write_report(runs: Sequence[Path], out: Path | None = None, summary: Mapping[str, Any] | None = None) -> Written:
    """Write the report of one run, or of several compared.

    Args:
        runs: run folders.
        out: the folder to write to, that of the first run unless given; reports that are there are replaced.
        summary: the outcome of an `auto` run, which the page begins with: `verdict`, `helped`, `remarks`, `columns` and
            `rows`, see `tasks.auto.outcome`.
    Raises:
        ValueError, FileNotFoundError: a folder without a run.
    """
    report = {**collect(runs), "summary": summary}
    if summary:
        report["markdown"] = f"{summary_markdown(summary)}\n{report['markdown']}"
    figures = json.dumps(_finite(report), indent=1, allow_nan=False) + "\n"
    texts = render(report, runs), figures, report["markdown"]
    folder = out or runs[0]
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; --out needs a folder for the report")
    with name_in_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = Written(*(folder / name for name in REPORT_FILES))
    for path, text in zip((written.page, written.figures, written.table), texts):
        replace_text(path, text)
    return written


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON lacks, by null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
