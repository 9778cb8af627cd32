"""What a run says of its data: the share of time spent waiting, and the cache it trains on."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddlemae.data import cache
from paddlemae.recipe import Training, load_recipe
from paddlemae.runs.runlog import read_metrics
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.training.run_start import Start
from paddlemae.tasks.training.step_log import Spent, _rate, waiting_text
from paddlemae.train import loop
from paddlemae.train.checkpoint import TrainState


@dataclass
class Clock:
    """Time that passes only when told to."""

    now: float = 0.0
    results: list = field(default_factory=list)

    def perf_counter(self) -> float:
        return self.now


def test_a_step_knows_how_long_it_waited(monkeypatch) -> None:
    clock, model = Clock(), paddle.nn.Linear(1, 1)
    optimizer = paddle.optimizer.SGD(parameters=model.parameters())
    monkeypatch.setattr(loop, "time", clock)

    def batches():
        for seconds in (3.0, 1.0, 0.0, 0.5):
            clock.now += seconds
            yield SimpleNamespace(images=np.zeros((5, 1), np.float32))

    def loss(network, batch):
        clock.now += 2.0
        return network(paddle.to_tensor(batch.images)).mean()

    spent = Spent()
    loop.fit(
        TrainState(model, optimizer),
        batches(),
        loss,
        lambda step: 0.1,
        loop.FitSettings(
            total_steps=2,
            accumulation_steps=2,
            after_step=[spent, lambda state, result: clock.results.append((result.seconds, result.waiting))],
        ),
    )
    assert clock.results == [(8.0, 4.0), (4.5, 0.5)]
    assert (spent.seconds, spent.waiting) == (12.5, 4.5)


def test_a_slow_data_pipeline_is_reported_with_advice() -> None:
    training = Training(workers=2)
    assert waiting_text(Spent(200, 6), training) == "waited for data 3.0% of 200 s"
    text = waiting_text(Spent(200, 30), training)
    assert text == "waited for data 15.0% of 200 s; a longer run gains by workers=3 or more, cache=FOLDER"
    assert "cache" not in waiting_text(Spent(200, 30), Training(cache="packs"))


@pytest.mark.parametrize(("speed", "said"), [(0.021349, "0.0213"), (3.14159, "3.14"), (99.96, "100"), (1234.5, "1234")])
def test_slow_trainings_have_a_speed_too(speed: float, said: str) -> None:
    assert _rate(speed) == said


def test_waiting_is_logged_and_shown(tmp_path, paddlemae, tiny, photos) -> None:
    out = tmp_path / "run"
    done = paddlemae("pretrain", *tiny, "--data", photos, "--out", out)
    assert done.status == 0 and "waited for data " in done.out and "% waiting" in done.err
    logged = [line["waiting"] for line in read_metrics(out) if "waiting" in line]
    assert len(logged) == 3 and all(0 < share < 1 for share in logged)


def test_a_run_trains_on_its_cache_and_the_next_finds_it(tmp_path, paddlemae, tiny, photos) -> None:
    command = ["pretrain", *tiny, f"cache={tmp_path / 'packs'}", "--data", photos, "--out"]
    first = paddlemae(*command, tmp_path / "first")
    assert first.status == 0, first.err
    assert "packing 12 images into" in first.out and "training on the images packed in" in first.out
    second = paddlemae(*command, tmp_path / "second")
    assert "packing" not in second.out and "training on the images packed in" in second.out
    resized = paddlemae(*command, tmp_path / "third", "cache_size=10")
    assert "packing 12 images into" in resized.out and "other packs there take 0.00 GB" in resized.out
    losses = [[line["loss"] for line in read_metrics(tmp_path / run)] for run in ("first", "second", "third")]
    assert losses[0] == losses[1] != losses[2]


def test_a_cache_without_room_is_one_line(tmp_path, paddlemae, tiny, photos, monkeypatch) -> None:
    def full(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "flush_file", full)
    done = paddlemae("pretrain", *tiny, f"cache={tmp_path / 'packs'}", "--data", photos, "--out", tmp_path / "run")
    assert done.status == 2 and "could not make the cache (No space left on device); make room" in done.err
    assert "Traceback" not in done.err


def test_settings_of_the_input_that_make_no_sense_are_refused() -> None:
    for task, (overrides, message) in product(
        ["pretrain", "finetune"],
        [
            (["repeats=3", "batch_size=64"], r"batch_size \(64\) must be a multiple of repeats \(3\)"),
            (["cache_size=256"], "cache_size has no effect without a cache"),
            (["decode=quick"], "augment.decode: .*'fast' or 'exact'"),
            (["repeats=0"], "augment.repeats: "),
        ],
    ):
        with pytest.raises(ValueError, match=message):
            load_recipe(task, None, overrides)


def test_repeats_change_neither_steps_nor_epochs(tmp_path, tiny, photos, monkeypatch) -> None:
    from paddlemae.tasks.training import pretraining_loss as task

    masks, epochs = [], []
    batch_mask = task.batch_mask

    def recorded(kind, ratio, grid, seed, batch):
        mask = batch_mask(kind, ratio, grid, seed, batch)
        if len(batch.images) == 12:  # not the figure's
            masks.append({tuple(row) for row in mask.keep.tolist()})
            epochs.append((batch.indices.tolist(), batch.epochs.tolist()))
        return mask

    monkeypatch.setattr(task, "batch_mask", recorded)
    few = ["image_size=16", "batch_size=12", "repeats=4", f"data={photos}"]
    out = pretrain(load_recipe("pretrain", None, [*tiny, *few]), Start(tmp_path / "run", quiet=True))
    assert [line["epoch"] for line in read_metrics(out)] == [1, 2, 3]
    assert all(len(mask) == 12 for mask in masks) and len(masks) == 3
    assert [len(set(indices)) for indices, _ in epochs] == [3, 3, 3] and epochs[0][1] == [0, 1, 2, 3] * 3


def test_a_resume_may_not_change_what_the_images_look_like(tmp_path, paddlemae, tiny, photos) -> None:
    out = tmp_path / "run"
    assert paddlemae("pretrain", *tiny, "--data", photos, "--out", out).status == 0
    for change in ("decode=exact", "repeats=2", f"cache={tmp_path / 'packs'}"):
        done = paddlemae("pretrain", "--resume", "--out", out, change)
        assert done.status == 2 and "a resume can't change" in done.err
    assert not Path(tmp_path / "packs").exists()
