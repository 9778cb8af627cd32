"""The whole journey on the embedded digits: pretrain, look, compare, fine-tune."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

from paddlemae.engine import device
from paddlemae.recipe import load_recipe
from paddlemae.report.write_report import write_report
from paddlemae.runs.runlog import RECIPE_FILE, open_run
from paddlemae.system.atomic import replace_text
from paddlemae.system.locks import lock_folder
from paddlemae.tasks.finetune import finetune
from paddlemae.tasks.knn import knn
from paddlemae.tasks.models.inference import FeatureKind
from paddlemae.tasks.models.mask_choice import MaskChoice
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.reconstruct import reconstruct_images
from paddlemae.tasks.study import Study, spread, study
from paddlemae.tasks.training.run_start import Start

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
    with lock_folder(out):
        return _demo(out, overwrite)


def _demo(out: Path, overwrite: bool) -> dict[str, Any]:
    started = time.perf_counter()
    open_run(out, overwrite=overwrite, marker=f"pretrain/{RECIPE_FILE}", entries=ENTRIES)
    recipe = load_recipe("pretrain", "digits")
    device.prepare(recipe.training.device, recipe.training.threads)
    run = pretrain(recipe, Start(out / "pretrain"))
    pretrain_seconds = time.perf_counter() - started

    picture = out / "reconstruction.png"
    choice = MaskChoice("random", SHOWN_MASK_RATIO, seed=0)
    reconstruct_images(run, ["digits"], picture, choice=choice, limit=10)
    result: dict[str, Any] = {"pretrain_seconds": pretrain_seconds, "knn": compare_features(str(run))}
    result["finetune"] = {labels: fine_tuned(out, str(run), labels) for labels in FINETUNE_STEPS}
    result["seconds"] = time.perf_counter() - started
    replace_text(out / RESULT_FILE, json.dumps(result, indent=2) + "\n")
    print_table(result)
    print(f"what the model makes of digits that it never saw, half of each removed: {picture}")
    print(f"the report, a page to open in a browser: {write_report([run]).page.resolve()}")
    return result


def compare_features(run: str) -> dict[str, float]:
    """Measure kNN accuracy of an untrained encoder's and the pretrained one's features on the 1,000 test digits."""
    accuracy = {}
    for random in (True, False):
        found = knn(run, "digits", kind=FeatureKind("mean"), neighbours=[NEIGHBOURS], random=random)
        weighted = next(one for one in found if one["protocol"]["votes"] == "weighted")
        accuracy[weighted["start"]] = weighted["top1"]
    return accuracy


def fine_tuned(out: Path, run: str, labels: int) -> dict[str, list[float]]:
    """Return the accuracy on the 1,000 test digits for each seed, from scratch and pretrained."""
    steps = {"steps": FINETUNE_STEPS[labels]}
    plan = Study("digits", steps, "labels", {str(labels): labels}, SEEDS, run, scratch=True)
    found = study(plan, out / f"finetune-{labels}", finetune)["top1"]
    return {name: by_value[str(labels)] for name, by_value in found.items()}


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
