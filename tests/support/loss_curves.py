"""Run short trainings on the embedded digits whose losses are compared with recorded ones."""

import os
from pathlib import Path

import pytest

from paddlemae.recipe import load_recipe
from paddlemae.runs.runlog import read_metrics
from paddlemae.tasks.finetune import finetune
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.training.run_start import Start
from tests.support.few_digits import use_few_digits

ALWAYS = ["threads=1", "workers=0", "seed=0", "log_every=1", "checkpoint_every=1000"]
PRETRAIN = ["steps=40", "batch_size=16", "warmup_epochs=0.05"]
FINETUNE = ["init=scratch", "labels=20", "steps=30", "batch_size=20", "warmup_epochs=2", "evaluate_every=1000"]
CURVES = {
    "mae": ("pretrain", PRETRAIN),
    "crossmae": ("pretrain", [*PRETRAIN, "decoder=cross", "decoder_depth=2", "prediction_ratio=0.25"]),
    "finetune": ("finetune", FINETUNE),
}


def curve(name: str, out: Path) -> list[float]:
    """Train as `CURVES` says and return the loss of each step."""
    task, settings = CURVES[name]
    recipe = load_recipe(task, "digits", [*settings, *ALWAYS])
    with pytest.MonkeyPatch.context() as patch:
        use_few_digits(patch)  # to test on
        (pretrain if task == "pretrain" else finetune)(recipe, Start(out, quiet=True))
    return [line["loss"] for line in read_metrics(out) if "loss" in line]


def processor() -> str:
    """Name what a float32 sum depends on: the processor's model and the code path of Paddle's matrix library."""
    fields = dict.fromkeys(("vendor_id", "cpu family", "model", "stepping"), "?")
    path = Path("/proc/cpuinfo")
    for line in path.read_text().partition("\n\n")[0].splitlines() if path.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() in fields:
            fields[key.strip()] = value.strip()
    names = [*fields.values(), f"MKL_DEBUG_CPU_TYPE={os.environ.get('MKL_DEBUG_CPU_TYPE', '')}"]
    return " ".join(names)
