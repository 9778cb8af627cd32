"""The `paddlemae weights` commands on a tiny model."""

from __future__ import annotations

import sys
from pathlib import Path

from paddlemae.cli import app
from paddlemae.tasks.models.read_model import Reading
from tests.support.layout_cases import Case

TOLERANCE = 1e-4
MAE, CLASSIFIER = "official: pretrained", "official: fine-tuned, mean"


def reading(case: Case, **more) -> Reading:
    return Reading(**{**case.arguments, **more})


def command(monkeypatch, capsys, *words: str | Path) -> tuple[int, str, str]:
    """Run a command line; return (exit status, standard output, standard error)."""
    monkeypatch.setattr(sys, "argv", ["paddlemae", *map(str, words)])
    status = 0
    try:
        app.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return status, *capsys.readouterr()
