"""The memory of a step: every task's is measured, by the program that a dry run starts."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from paddlemae.recipe import dump_recipe, load_recipe
from paddlemae.tasks.training import memory_trial
from tests.support.coloured_scenes import write_scenes


@pytest.mark.parametrize("task", ["pretrain", "finetune", "segment"])
def test_two_steps_are_taken_on_noise(
    task: str, encoder: list[str], colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    write_scenes(tmp_path / "land", train=4, test=2)
    data = tmp_path / "land" if task == "segment" else colours
    start = [] if task == "pretrain" else ["init=scratch"]
    recipe = load_recipe(task, None, [*encoder, *start, f"data={data}", "threads=1", "steps=3"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(dump_recipe(recipe)))
    monkeypatch.setattr(sys, "argv", ["memory_trial", "4"])
    memory_trial.main()
    assert int(capsys.readouterr().out.split()[-1]) > 2**20
