"""Trials of a few steps."""

import pytest

from paddlemae.tasks.plan import measured, trial


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "TRIAL_SECONDS", 0.05)
    monkeypatch.setattr(measured, "READING_SECONDS", 0.05)
    monkeypatch.setattr(measured, "MOST_TRIALS", 1)
    monkeypatch.setattr(trial, "FEWEST_STEPS", 1)
