"""Run two ranks, for tests/journeys: add up gradients, take steps, drop steps.

Run by Paddle's launcher, as each of its processes: `two_ranks.py FOLDER` leaves FOLDER/RANK.json.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.engine import device

device.prepare("cpu", threads=1)
import paddle  # noqa: E402
from paddle import nn  # noqa: E402

from paddlemae.train.adamw import CpuAdamW  # noqa: E402
from paddlemae.train.checkpoint import TrainState  # noqa: E402
from paddlemae.train.loop import FitSettings, StepResult, fit  # noqa: E402
from paddlemae.train.parallel.ranks import ALONE, SMALL, Ranks, join  # noqa: E402

STEPS, ACCUMULATION, BATCH = 6, 2, 8
BROKEN = (5, 8)  # micro-batches, of steps 2 and 4: the last one of its step, and the first
LONGER_THAN_GLOO_WAITS = 35.0  # seconds


@dataclasses.dataclass
class Numbers:
    """A micro-batch: float32 [B, 3], and float32 [B] that is not 0 where the gradient will be infinite."""

    images: np.ndarray
    marks: np.ndarray


def micro_batches(trouble: str) -> Iterator[Numbers]:
    """Yield the same micro-batches on each rank; the faulty image is the last, so in the second half."""
    dice = np.random.default_rng(0)
    for number in range(STEPS * ACCUMULATION):
        batch = Numbers(dice.random((BATCH, 3), np.float32), np.zeros(BATCH, np.float32))
        if number in BROKEN and trouble == "loss":
            batch.images[-1] = np.nan
        if number in BROKEN and trouble == "gradient":
            batch.marks[-1] = 1
        yield batch


def half(batch: Numbers, ranks: Ranks) -> Numbers:
    share = BATCH // ranks.world
    rows = slice(ranks.rank * share, (ranks.rank + 1) * share)
    return Numbers(batch.images[rows], batch.marks[rows])


def loss_fn(model: nn.Layer, batch: Numbers) -> paddle.Tensor:
    loss = (model(paddle.to_tensor(batch.images)) - 1).square().mean()
    if batch.marks.any():
        loss = loss + (model[0].weight * 0).sqrt().sum()  # nothing, whose gradient is infinite
    return loss


def new_state(path: str) -> TrainState:
    paddle.seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))
    if path != "shards":
        return TrainState(model, paddle.optimizer.AdamW(learning_rate=0.0, parameters=model.parameters()))
    return TrainState(model, CpuAdamW([(model.parameters(), 1.0, 0.01)], (0.9, 0.999)))


def train(path: str, trouble: str, ranks: Ranks) -> dict[str, Any]:
    """Train, and return the weights, and the steps' losses and ends."""
    state, results = new_state(path), []

    def note(state: TrainState, result: StepResult) -> None:
        results.append(result)

    fit(
        state,
        (half(batch, ranks) for batch in micro_batches(trouble)),
        loss_fn,
        lambda step: 0.05,
        FitSettings(
            total_steps=STEPS,
            accumulation_steps=ACCUMULATION,
            threads=1 if path == "shards" else None,
            overlap=path == "whole",
            clip_grad=1e9,  # never reached: else one process alone would update weights while gradients arrive
            ranks=ranks,
            after_step=[note],
        ),
    )
    return {
        "weights": [parameter.numpy().ravel().tolist() for parameter in state.model.parameters()],
        "losses": [result.loss for result in results],
        "norms": [result.grad_norm for result in results],
        "images": [result.images for result in results],
        "dropped": [result.dropped for result in results],
    }


def check_sums(ranks: Ranks) -> list[bool]:
    """Return whether gradients of many sizes were exactly the sum of both ranks'."""
    shapes = [[3], [1], [513, 512], [2, 3, 4], [SMALL], [SMALL - 1], [1, 1]]
    gradients = [
        paddle.to_tensor(np.arange(math.prod(shape), dtype=np.float32).reshape(shape) * (1 + 2 * ranks.rank) + number)
        for number, shape in enumerate(shapes)
    ]
    ranks.add_up(gradients)
    expected = [
        np.arange(math.prod(shape), dtype=np.float32).reshape(shape) * 4 + 2 * number
        for number, shape in enumerate(shapes)
    ]
    return [bool(np.array_equal(one.numpy(), other)) for one, other in zip(gradients, expected, strict=True)]


def timed(call: Callable[[], Any]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def main(folder: Path) -> None:
    ranks = join()
    facts: dict[str, Any] = {"rank": [ranks.rank, ranks.world, ranks.local_rank]}
    facts["added up"] = check_sums(ranks)
    for path in ("whole", "afterwards", "shards"):
        for trouble in ("none", "loss", "gradient"):
            facts[f"{path} {trouble}"] = train(path, trouble, ranks)
            facts[f"{path} {trouble} alone"] = train(path, trouble, ALONE)
    if ranks.is_first:
        time.sleep(LONGER_THAN_GLOO_WAITS)
    facts["waited"] = timed(ranks.wait)
    facts["added up later"] = check_sums(ranks)
    (folder / f"{ranks.rank}.json").write_text(json.dumps(facts))
    ranks.wait()
    ranks.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
