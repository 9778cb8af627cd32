"""Commands of the first hour, and of the pages that continue with its runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pages import ALONE, PAGES, blocks, name
from tests.support.paths import ROOT

FIRST_HOUR = ROOT / "docs" / "first-hour.md"
CONTINUED = [page for page in PAGES if page not in ALONE and any(block.language == "bash" for block in blocks(page))]


@pytest.mark.parametrize("page", CONTINUED, ids=name)
def test_every_command_runs(page: Path, type_page: Callable[[Path], set[str]]) -> None:
    type_page(FIRST_HOUR)
    assert type_page(page)  # fails with the command that does


def test_the_first_hour_leaves_what_it_says(type_page: Callable[[Path], set[str]], desk) -> None:
    type_page(FIRST_HOUR)
    for path in ("reconstructions.png", "labelled-check/check.png"):
        assert (desk.folder / path).read_bytes().startswith(b"\x89PNG")
    assert (desk.folder / "runs/tuned/checkpoints/best").exists()
    assert (desk.folder / "runs/mine/report.html").stat().st_size > 10_000
