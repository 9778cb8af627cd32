"""Measure the memory of a training step: with a few images, each time in a process of its own.

`run_module.py paddlemae.tasks.training.memory_trial BATCH_SIZE < RECIPE` prints the peak memory of two steps, in bytes.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from paddlemae.data.batches import Batch
from paddlemae.engine.device import is_cpu
from paddlemae.recipe import FinetuneRecipe, PretrainRecipe, SegmentRecipe, build_recipe, dump_recipe
from paddlemae.system.limits import free_memory
from paddlemae.system.run_module import module_command
from paddlemae.tasks.training import (
    finetuning_loss,
    finetuning_setup,
    pretraining_loss,
    pretraining_setup,
    segmentation_loss,
    segmentation_setup,
)
from paddlemae.tasks.training.dry_run import memory_text
from paddlemae.tasks.training.run_training import share_cpu
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.loop import FitSettings, fit
from paddlemae.train.optim import adamw

TRIED = (4, 12)  # batch sizes; the line through both gives any other
STEPS = 2  # the optimizer's own memory is there from the second on
TIMEOUT_SECONDS = 300
STATUS = Path("/proc/self/status")
FREE_SHARE = 0.9  # of what is free, so that the machine keeps something
AnyRecipe = PretrainRecipe | FinetuneRecipe | SegmentRecipe
# task -> its set-up, its loss function
TASKS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "pretrain": (pretraining_setup.prepare, pretraining_loss.loss_function),
    "finetune": (finetuning_setup.prepare, finetuning_loss.loss_function),
    "segment": (segmentation_setup.prepare, segmentation_loss.loss_function),
}


@dataclass(frozen=True)
class Footprint:
    """Bytes that training takes on CPU: without images, and for each image of a batch."""

    fixed: float
    an_image: float

    def of(self, batch_size: int) -> float:
        return self.fixed + batch_size * self.an_image

    def fitting(self, num_bytes: float) -> int:
        """Return the largest batch that fits into `num_bytes`."""
        return max(0, math.floor((num_bytes - self.fixed) / self.an_image))


def measure(recipe: AnyRecipe) -> Footprint | None:
    """Measure on this machine's CPU, in half a minute for ViT-Base; None if that fails."""
    (few, low), (many, high) = ((tried, _peak_in_process(recipe, tried)) for tried in TRIED)
    if low is None or high is None:
        return None
    an_image = max(1.0, (high - low) / (many - few))
    return Footprint(low - few * an_image, an_image)


def memory_plan(recipe: AnyRecipe, estimate: int) -> dict[str, str]:
    """Return the memory for `--dry-run`: measured on CPU, else the estimate in bytes; name -> value, as text."""
    free = free_memory()
    if not (is_cpu() and STATUS.exists()) or free is None:
        return {"memory": memory_text(estimate)}
    batch_size = recipe.training.batch_size
    footprint = measure(recipe) if estimate < free else None
    if footprint is None:
        return {"memory": f"{memory_text(estimate)}; measuring it failed, or {free / 2**30:.1f} GiB won't hold it"}
    fitting = footprint.fitting(FREE_SHARE * free)
    few, many = TRIED
    return {
        "memory": f"{footprint.of(batch_size) / 2**30:.2f} GiB: {footprint.fixed / 2**30:.2f} and "
        f"{footprint.an_image / 2**20:.1f} MiB an image (measured with {few} and {many} images a step)",
        "batch size": f"up to about {fitting} in the {free / 2**30:.1f} GiB that are free"
        if fitting
        else f"none fits into the {free / 2**30:.1f} GiB that are free; recompute=true needs less",
    }


def _peak_in_process(recipe: AnyRecipe, batch_size: int) -> int | None:
    command = [*module_command("paddlemae.tasks.training.memory_trial"), str(batch_size)]
    try:
        done = subprocess.run(
            command, input=dump_recipe(recipe), capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return None
    return None if done.returncode else int(done.stdout.split()[-1])


def _peak(recipe: AnyRecipe, batch_size: int) -> int:
    """Return the largest memory of this process in bytes, after training steps on noise."""
    prepare, loss_function = TASKS[recipe.task]
    parts = prepare(recipe)
    shape = parts.description.architecture
    images = np.random.default_rng(0).integers(0, 256, (batch_size, shape["channels"], *shape["image_size"]), np.uint8)
    zeros = np.zeros(batch_size, np.int64)
    targets = np.zeros((batch_size, *shape["image_size"]), np.int16) if recipe.task == "segment" else zeros
    fit(
        TrainState(parts.model, adamw(parts.model)),
        itertools.repeat(Batch(images, targets, np.arange(batch_size), zeros)),
        loss_function(recipe, parts.description),
        lambda step: 0.0,
        share_cpu(
            FitSettings(STEPS, precision=recipe.training.precision),
            parts.model,
            recipe.training.model_copy(update={"batch_size": batch_size}),
        ),
    )
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    content = yaml.safe_load(sys.stdin)
    recipe = build_recipe(content["task"], content)
    print(_peak(recipe, int(sys.argv[1])))


if __name__ == "__main__":
    main()
