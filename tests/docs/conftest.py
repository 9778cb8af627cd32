"""A desk at which the commands of pages are typed."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from paddlemae.tasks.plan import measured, trial
from tests.support.coloured_scenes import write_scenes
from tests.support.few_digits import use_few_digits
from tests.support.pages import blocks, yaml_name
from tests.support.paths import ROOT
from tests.support.pictures import write_noise

SMALL = ["steps=2", "batch_size=4", "embed_dim=16", "depth=1", "num_heads=2", "threads=1"]
SHORT = {
    "pretrain": SMALL,
    "finetune": SMALL,
    "study": SMALL,
    "segment": SMALL,
    "probe": ["steps=2", "batch_size=4", "threads=1"],
}
FINDINGS = ("data", "check")  # a status of 1 says that something was found


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
    write_scenes(folder / "land", train=6, test=2)
    return Desk(folder)


@pytest.fixture
def type_page(desk: Desk, paddlemae: Callable, monkeypatch: pytest.MonkeyPatch, untried) -> Callable[[Path], set[str]]:
    """Type a page's commands, except those that were typed before."""
    monkeypatch.chdir(desk.folder)
    monkeypatch.setattr(measured, "TRIAL_SECONDS", 0.05)
    monkeypatch.setattr(measured, "READING_SECONDS", 0.05)
    monkeypatch.setattr(trial, "FEWEST_STEPS", 1)
    use_few_digits(monkeypatch)

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

    def type_all(page: Path) -> set[str]:
        commands = set()
        for block in blocks(page):
            if block.language == "yaml":
                Path(yaml_name(block.text)).write_text(block.text)
            if block.language == "bash":
                for command in block.commands():
                    commands.add(command)
                    if command not in desk.typed:
                        desk.typed.add(command)
                        type_command(command)
        return commands

    return type_all
