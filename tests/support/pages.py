"""Parse README.md and docs/*.md for tests: blocks of code, commands, links, tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
# use no run of others
ALONE_NAMES = ("data.md", "plan.md", "reading-fast.md", "recipes.md", "segmentation-data.md")
ALONE = [page for page in PAGES if page.name in ALONE_NAMES]
FENCE = re.compile(r"(?:^<!-- not run: (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block."""

    language: str
    text: str
    reason: str  # why it is not run; empty where none is given

    def commands(self) -> list[str]:
        """Return its lines without comments, and join those continued by a backslash."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def name(page: Path) -> str:
    """Identify the block for pytest."""
    return page.name


def blocks(page: Path) -> list[Block]:
    return [Block(language, text, reason) for reason, language, text in FENCE.findall(page.read_text())]


def prose(page: Path) -> str:
    """Return the page without its blocks."""
    return FENCE.sub("", page.read_text())


def links(page: Path) -> list[str]:
    """Return the targets of its links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def rows(page: Path, *head: str) -> list[list[str]]:
    """Return the cells of every table that begins with these columns."""
    found, inside = [], False
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            inside = False
        elif tuple(cells[: len(head)]) == head:
            inside = True
        elif inside and not set(cells[0]) <= set(":-"):
            found.append(cells)
    return found


def yaml_name(text: str) -> str:
    """Return the name that a block of YAML states in its first line."""
    named = re.match(r"# (\w+\.yaml)\n", text)
    assert named, f"begin it with the name that a command can give it, '# NAME.yaml': {text[:80]!r}"
    return named[1]
