"""The whole journey on the embedded digits: pretrain, look, compare, fine-tune."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

from paddlemae import device
from paddlemae.data.sources import open_source
from paddlemae.recipe import FinetuneRecipe, load_recipe
from paddlemae.report.runlog import RECIPE_FILE, open_run
from paddlemae.tasks.embed import labelled_features
from paddlemae.tasks.finetune import SCRATCH, finetune
from paddlemae.tasks.inference import FeatureKind
from paddlemae.tasks.knn import knn_predict
from paddlemae.tasks.models import build_autoencoder, load_autoencoder, read_checkpoint
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.reconstruct import MaskChoice, reconstruct_images
from paddlemae.tasks.start import Start
from paddlemae.tasks.study import spread

FINETUNE_STEPS = {100: 80, 500: 160}  # labels -> steps, the same with and without pretraining
SEEDS = (0, 1, 2)
SHOWN_MASK_RATIO = 0.5  # milder than in training, so that a person too can tell what is missing
NEIGHBOURS = 20
RESULT_FILE = "demo.json"
ENTRIES = ("pretrain", "finetune-*", "reconstruction.png", RESULT_FILE)  # all that the demo's folder holds


def demo(out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Pretrain on 4,000 digits without labels, and measure on 1,000 others what that is worth.

    Args:
        out: folder for the runs, the pictures and `demo.json`.
        overwrite: replace an earlier demo there.
    Returns:
        the figures of the printed table: accuracies in [0, 1] and seconds.
    """
    started = time.perf_counter()
    open_run(out, overwrite=overwrite, marker=f"pretrain/{RECIPE_FILE}", entries=ENTRIES)
    recipe = load_recipe("pretrain", "digits")
    device.prepare(recipe.training.device, recipe.training.threads)
    run = pretrain(recipe, Start(out / "pretrain"))
    pretrain_seconds = time.perf_counter() - started

    picture = out / "reconstruction.png"
    choice = MaskChoice("random", SHOWN_MASK_RATIO, seed=0)
    reconstruct_images(run, ["digits"], picture, choice=choice, limit=10)
    result: dict[str, Any] = {"pretrain_seconds": pretrain_seconds, "knn": compare_features(recipe, run)}
    result["finetune"] = {
        labels: {
            name: [fine_tuned(out, name, init, labels, seed) for seed in SEEDS]
            for name, init in (("scratch", SCRATCH), ("pretrained", str(run)))
        }
        for labels in FINETUNE_STEPS
    }
    result["seconds"] = time.perf_counter() - started
    (out / RESULT_FILE).write_text(json.dumps(result, indent=2) + "\n")
    print_table(result)
    print(f"what the model makes of digits that it never saw, half of each removed: {picture}")
    return result


def compare_features(recipe, run: Path) -> dict[str, float]:
    """kNN accuracy of an untrained encoder's features and of the pretrained one's, on the 1,000 test digits."""
    checkpoint = read_checkpoint(run)
    models = {
        "random": build_autoencoder(recipe.model, recipe.training.seed),
        "pretrained": load_autoencoder(checkpoint),
    }
    bank, queries = open_source("digits", "train"), open_source("digits", "test")
    accuracy = {}
    for name, model in models.items():
        # digits are in memory: there is nothing to decode
        (known, labels), (asked, answers) = (
            labelled_features(model, checkpoint.description, source, FeatureKind("mean"), workers=0)
            for source in (bank, queries)
        )
        accuracy[name] = float((knn_predict(known, labels, asked, NEIGHBOURS) == answers).mean())
    return accuracy


def fine_tuned(out: Path, name: str, init: str, labels: int, seed: int) -> float:
    """Top-1 on the 1,000 test digits after the last step of one fine-tuning."""
    overrides = [f"init={json.dumps(init)}", f"labels={labels}", f"seed={seed}", f"steps={FINETUNE_STEPS[labels]}"]
    recipe: FinetuneRecipe = load_recipe("finetune", "digits", overrides)
    top1 = finetune(recipe, Start(out / f"finetune-{labels}-{name}-{seed}", quiet=True))["top1"]
    print(f"fine-tuned with {labels} labels, {name}, seed {seed}: {top1:.1%}", flush=True)
    return top1


def print_table(result: dict[str, Any]) -> None:
    """Print accuracies with their spread over seeds."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Accuracy on 1,000 held-out digits, measured in this run")
    for column in ("", "from scratch", "pretrained", "points gained"):
        table.add_column(column, justify="left" if not column else "right")
    knn = result["knn"]
    gain = 100 * (knn["pretrained"] - knn["random"])
    table.add_row(
        f"kNN of features, k={NEIGHBOURS}", f"{knn['random']:.1%}", f"{knn['pretrained']:.1%}", f"{gain:+.1f}"
    )
    for labels, tops in result["finetune"].items():
        gain = 100 * (mean(tops["pretrained"]) - mean(tops["scratch"]))
        cells = [spread(tops[name]) for name in ("scratch", "pretrained")]
        table.add_row(f"fine-tuned, {labels} labels", *cells, f"{gain:+.1f}")
    Console().print(table)
    print(
        f"{len(SEEDS)} seeds each, mean ± standard deviation; pretraining took {result['pretrain_seconds']:.0f} s, "
        f"the whole demo {result['seconds']:.0f} s"
    )
