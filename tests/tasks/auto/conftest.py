"""A tiny plan, and the real commands that carry it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paddlemae.tasks.auto import within_time
from paddlemae.tasks.auto.commands import Commands, Request
from paddlemae.tasks.data import check, split_lists
from paddlemae.tasks.finetune import finetune
from paddlemae.tasks.knn import classify_by_neighbours
from paddlemae.tasks.plan.data_survey import survey_data
from paddlemae.tasks.plan.plan import Choice, Plan
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.segment import segment

MODEL = {"size": "mini", "image_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
DECODER = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
TRAINING = {"epochs": 2, "warmup_epochs": 0, "batch_size": 8, "log_every": 1, "threads": 1}


def tiny_plan(data: str, minutes: float, *, device: str, seed: int, cache: str, quiet: bool) -> Plan:
    """Plan trainings of some steps, whatever the images and the time are."""
    found, *_ = survey_data(data)
    training = {f"training.{key}": value for key, value in (TRAINING | {"seed": seed}).items()}
    model = {f"model.{key}": value for key, value in (MODEL | DECODER | {"channels": found.channels}).items()}
    contents: dict[str, dict[str, Any]] = {"pretrain": {"data": data, **model, **training}}
    if found.classes:
        contents["finetune"] = {"data": data, **training, "model.drop_path": 0.0}
        if found.test_images is None:
            contents["finetune"]["val_fraction"] = 0.25
    if found.masked:
        contents["segment"] = {"data": data, **training}
        if found.masked.test_images is None:
            contents["segment"]["val_fraction"] = 0.25
    settings = {
        task: {key: Choice(value, "tiny") for key, value in content.items()} for task, content in contents.items()
    }
    seconds = 60 * minutes
    after = {task: 0.2 * seconds for task in contents if task != "pretrain"}
    times = {"plan": 0.1, "pretrain": 0.5 * seconds, **after, "reserve": 0.0}
    return Plan(data, minutes, "cpu", found, settings, times)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The commands of `auto` with `tiny_plan`; trainings take the planned epochs."""
    monkeypatch.setattr(within_time, "FEWEST_PROBED", 1e9)
    monkeypatch.setattr("paddlemae.tasks.auto.stages.scaled", lambda recipe, factor: recipe)
    return Commands(
        check=check.check,
        summarize=check.summarize,
        write_check=check.write_check,
        split_images=split_lists.split_images,
        write_list=split_lists.write_list,
        make_plan=tiny_plan,
        pretrain=pretrain,
        finetune=finetune,
        segment=segment,
        classify_by_neighbours=classify_by_neighbours,
    )


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[..., Request]:
    """Return a request for images with a time that the tiny plan does not need."""

    def make(data: Path, **changes: Any) -> Request:
        return replace(Request(str(data), 10.0, tmp_path / "run", quiet=True), **changes)

    return make
