"""Interrupt and resume trainings, and compare them with an uninterrupted one."""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from paddlemae.runs.runlog import read_metrics
from paddlemae.system.signals import CTRL_C
from paddlemae.tasks.training import run_training
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint_folders import find_checkpoint

REPEATABLE = ["threads=1", "log_every=1", "warmup_epochs=0.5", "epochs=4", "base_lr=0.05"]


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Press Ctrl-C in the middle of step `steps` of the next training, counted from where it starts."""

    class Interrupted:
        reason = CTRL_C

        def __init__(self) -> None:
            self.asked = itertools.count()

        def is_set(self) -> bool:
            return next(self.asked) >= steps

    monkeypatch.setattr(run_training, "stop_on_signals", lambda seconds: nullcontext(Interrupted()))


def stopped_and_resumed(task: Callable, recipe, out: Path, steps: list[int], monkeypatch) -> None:
    for number, count in enumerate(steps):
        interrupt_after(monkeypatch, count)
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {sum(steps[: number + 1])} of .*--resume"):
            task(recipe, Start(out, resume=number > 0, quiet=True))
    monkeypatch.undo()
    task(recipe, Start(out, resume=True, quiet=True))


def assert_same_run(one: Path, other: Path, least: int = 16) -> None:
    """Assert equal weights, averages, slots and metrics; each file must have at least `least` tensors."""
    first, second = find_checkpoint(one), find_checkpoint(other)
    assert first.name == second.name
    names = [path.name for path in sorted(first.glob("*.safetensors"))]
    assert names == [path.name for path in sorted(second.glob("*.safetensors"))] and "optimizer.safetensors" in names
    for name in names:
        tensors, others = load_file(first / name), load_file(second / name)
        assert set(tensors) == set(others) and len(tensors) >= least
        for key, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, others[key], err_msg=f"{name}: {key}")
    clock = ("seconds", "images_per_second", "waiting", "memory_gb")
    lines = [
        [{key: value for key, value in line.items() if key not in clock} for line in read_metrics(run)]
        for run in (one, other)
    ]
    assert lines[0] == lines[1] and len(lines[0]) >= 3
