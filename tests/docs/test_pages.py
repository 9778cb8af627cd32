"""The README and the pages of docs/: every block is run or says why not, and links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.command_line import commands
from tests.support.pages import PAGES, README, blocks, links, name, prose, rows, yaml_name
from tests.support.paths import ROOT

# of each command, those below it
COMMANDS = {one: set(getattr(what, "commands", ())) for one, what in commands().items()}
PROGRAMS = ("paddlemae", "make", "pip", "python", "python3", "bash", "sh", "srun", "ssh", "git", "apt-get")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        looks_typed = any(re.match(rf"[$ ]*({'|'.join(PROGRAMS)})\b", line) for line in block.text.splitlines())
        if block.language == "python":
            assert page.name == "python.md", "tests/docs/test_python_page.py runs that page alone"
        elif block.language == "yaml":
            assert yaml_name(block.text)
        elif block.language != "bash":
            assert bool(block.reason) == looks_typed, f"fence it with 'bash', or say why not above it:\n{block.text}"
        assert not (block.reason and block.language), f"it is run, so no reason is needed why not:\n{block.text}"
    assert not re.search("```|~~~", prose(page)), "a fence that is indented or never ends, or of another kind"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_what_is_there(page: Path) -> None:
    local = [link for link in links(page) if not re.match(r"https?:", link)]
    assert all((page.parent / link.split("#")[0]).exists() for link in local if not link.startswith("#")), local
    for link in local:
        path, _, anchor = link.partition("#")
        if anchor:
            assert anchor in anchors(page.parent / path if path else page), link


def anchors(page: Path) -> set[str]:
    """GitHub's names of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_named_by_the_readme() -> None:
    named = {ROOT / link.split("#")[0] for link in links(README)}
    assert {page for page in PAGES if page.name not in ("README.md", "index.md")} <= named


def test_every_page_is_in_the_contents_of_the_site() -> None:
    assigned = [node for node in ast.parse((ROOT / "docs/conf.py").read_text()).body if isinstance(node, ast.Assign)]
    pages = next(node.value for node in assigned if ast.unparse(node.targets[0]) == "PAGES")
    listed = [page for group in ast.literal_eval(pages).values() for page in group]
    there = {page.stem for page in PAGES if page.name not in ("README.md", "index.md")}
    assert sorted(listed) == sorted(there)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_has_the_targets_that_are_named(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {target for target in re.findall(r"`make\s+([a-z]+)", page.read_text())} <= targets


def test_the_readme_lists_every_command() -> None:
    listed = [command for command, *_ in rows(README, "command", "purpose")]
    for command, below in COMMANDS.items():
        said = " ".join(row for row in listed if re.match(rf"`paddlemae {command}\b", row))
        assert said and below <= set(re.findall(r"\w+", said)), command


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_that_are_named_exist(page: Path) -> None:
    for command, below in re.findall(r"`paddlemae (\w+)(?: ([a-z]+)\b)?", page.read_text()):
        assert command in COMMANDS, command
        assert below in COMMANDS[command] or not (below and COMMANDS[command]), (command, below)
