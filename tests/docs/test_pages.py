"""The README and the pages of docs/: every command is run as it stands there, and links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import typer

from paddlemae.cli import app
from tests.support.pages import PAGES, README, blocks, links, name, prose, rows
from tests.support.paths import ROOT
from tests.support.pictures import write_noise

FIRST_HOUR = ROOT / "docs" / "first-hour.md"
SMALL = ["steps=2", "batch_size=4", "embed_dim=16", "depth=1", "num_heads=2", "threads=1"]
SHORT = {"pretrain": SMALL, "finetune": SMALL, "study": SMALL, "probe": ["steps=2", "batch_size=4", "threads=1"]}
FINDINGS = ("data", "check")  # a status of 1 says that something was found
# of each command, those below it
COMMANDS = {one: set(getattr(what, "commands", ())) for one, what in typer.main.get_command(app.app).commands.items()}
PROGRAMS = ("paddlemae", "make", "pip", "python", "python3", "bash", "sh", "srun", "ssh", "git", "apt-get")


@dataclass
class Desk:
    """Where a reader types: a folder of pictures, and what was typed there."""

    folder: Path
    typed: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "scenes").mkdir()
    for number in range(8):
        write_noise(folder / f"imagenet1000/{number}.png", number)
        write_noise(folder / f"photos/{number}.png", number)
        bands = np.random.default_rng(number).integers(0, 10_000, (13, 16, 16), dtype=np.uint16)
        np.save(folder / f"scenes/{number}.npy", bands)
        for part in ("train", "test"):
            for place, label in enumerate(("cat", "dog")):
                for labelled in ("cifar10", "labelled"):
                    write_noise(folder / f"{labelled}/{part}/{label}/{number}.png", 100 + 10 * number + place)
    return Desk(folder)


@pytest.fixture
def type_page(desk: Desk, paddlemae: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Type a page's commands, but for those that were typed before; a later page may use what the first hour made."""
    monkeypatch.chdir(desk.folder)

    def type_command(command: str) -> None:
        program, *arguments = shlex.split(command)
        if program == "make":  # minutes, and a network: only that make knows how
            done = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, (command, done.stderr)
            return
        assert program == "paddlemae", f"{command!r} can't be run here: fence it without 'bash' and say why"
        fewer = ["10" if word == "5000" else word for word in arguments]
        # a later setting wins: the commands stay as typed, only their trainings are cut short
        done = paddlemae(*fewer, *SHORT.get(arguments[0], []))
        assert done.status in ((0, 1) if tuple(arguments[:2]) == FINDINGS else (0,)), (command, done.err)

    def type_all(page: Path) -> None:
        for block in blocks(page):
            if block.language == "yaml":
                Path(yaml_name(block.text)).write_text(block.text)
            if block.language == "bash":
                for command in block.commands():
                    if command not in desk.typed:
                        desk.typed.add(command)
                        type_command(command)

    type_all(FIRST_HOUR)
    return type_all


def yaml_name(text: str) -> str:
    """What a block of YAML calls itself in its first line."""
    named = re.match(r"# (\w+\.yaml)\n", text)
    assert named, f"begin it with the name that a command can give it, '# NAME.yaml': {text[:80]!r}"
    return named[1]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(one.language == "bash" for one in blocks(page))], ids=name
)
def test_every_command_runs(page: Path, type_page: Callable) -> None:
    type_page(page)  # fails with the command that does


def test_the_first_hour_leaves_what_it_says(type_page: Callable, desk: Desk) -> None:
    for path in ("photos.png", "cifar10-check/check.png"):
        assert (desk.folder / path).read_bytes().startswith(b"\x89PNG")
    assert (desk.folder / "runs/cifar10-tuned/checkpoints/best").exists()
    assert (desk.folder / "runs/cifar10/report.html").stat().st_size > 10_000


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
