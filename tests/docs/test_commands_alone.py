"""Commands of pages that need no other page's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pages import ALONE, name


@pytest.mark.parametrize("page", ALONE, ids=name)
def test_every_command_runs(page: Path, type_page: Callable[[Path], set[str]]) -> None:
    assert type_page(page)  # fails with the command that does
