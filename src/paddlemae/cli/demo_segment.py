"""Segmentation on the embedded scenes: pretrain without masks, segment with few masks, and look."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from paddlemae.engine import device
from paddlemae.recipe import SCRATCH, load_recipe
from paddlemae.report.write_report import write_report
from paddlemae.runs.contact_sheet import Block, draw_sheet
from paddlemae.runs.runlog import RECIPE_FILE, open_run
from paddlemae.system.atomic import replace_text
from paddlemae.system.locks import lock_folder
from paddlemae.tasks.models.build import load_segmenter
from paddlemae.tasks.models.open_images import open_images
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.models.segment_image import segment_function
from paddlemae.tasks.predictions.mask_files import blend
from paddlemae.tasks.predictions.window_choice import WindowChoice, palette_of
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.segment import segment
from paddlemae.tasks.training.run_start import Start

DATA = "digit-scenes"
# strokes are 3 to 6 pixels wide, so patches of 4 in crops of half a scene
MODEL = dict(size="mini", image_size=32, patch_size=4, channels=3)
PRETRAINING = dict(data=DATA, **MODEL, decoder_embed_dim=64, decoder_depth=1, decoder_num_heads=4, mask_ratio=0.6)
PRETRAINING |= dict(crop_scale=[0.2, 0.5], flip=False, batch_size=32, epochs=24, warmup_epochs=2.4, base_lr=8e-3)
SEGMENTATION = dict(data=f"{DATA}::select=background,digit=*", **MODEL, drop_path=0.0, validation=0, layer_decay=0.9)
SEGMENTATION |= dict(scale=[0.8, 1.25], max_class_share=1.0, flip=False, batch_size=16, epochs=400, warmup_epochs=50)
SEGMENTATION |= dict(base_lr=3e-2, log_every=50)
LABELS = (8,)  # scenes with masks, of 2,000
SEEDS = (0,)
SHOWN = 8  # scenes in the picture
TILE = 160
PRETRAINED = "pretrained"
RESULT_FILE = "demo.json"
PICTURE_FILE = "scenes.png"
ENTRIES = ("pretrain", "segment-*", PICTURE_FILE, RESULT_FILE)  # all that the demo's folder holds


def demo_segment(out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Pretrain on 2,000 scenes without masks, and measure on 500 others what that is worth.

    Args:
        out: folder for the runs, the picture and `demo.json`.
        overwrite: replace an earlier demo there.
    Returns:
        the figures of the printed table: mean IoU in [0, 1] and seconds.
    """
    with lock_folder(out):
        started = time.perf_counter()
        open_run(out, overwrite=overwrite, marker=f"pretrain/{RECIPE_FILE}", entries=ENTRIES)
        recipe = load_recipe("pretrain", None, PRETRAINING)
        device.prepare(recipe.training.device, recipe.training.threads)
        run = pretrain(recipe, Start(out / "pretrain"))
        result: dict[str, Any] = {"pretrain_seconds": time.perf_counter() - started}
        result["miou"] = {labels: _segmented(out, run, labels) for labels in LABELS}
        last = {start: out / f"segment-{LABELS[-1]}-{start}-{SEEDS[-1]}" for start in (SCRATCH, PRETRAINED)}
        _draw(out / PICTURE_FILE, last)
        result["seconds"] = time.perf_counter() - started
        replace_text(out / RESULT_FILE, json.dumps(result, indent=2) + "\n")
        _print_table(result)
        print(f"scenes that no model was trained on, with the masks of each model: {out / PICTURE_FILE}")
        print(f"the report, a page to open in a browser: {write_report([run]).page.resolve()}")
        return result


def _segmented(out: Path, run: Path, labels: int) -> dict[str, list[float]]:
    """Return the mean IoU on the 500 test scenes for each seed, from scratch and pretrained."""
    found: dict[str, list[float]] = {SCRATCH: [], PRETRAINED: []}
    for start, init in ((SCRATCH, SCRATCH), (PRETRAINED, str(run))):
        for seed in SEEDS:
            chosen = {**SEGMENTATION, "init": init, "labels": labels, "seed": seed}
            recipe = load_recipe("segment", None, chosen)
            result = segment(recipe, Start(out / f"segment-{labels}-{start}-{seed}"), str(run))
            found[start].append(result["miou"])
    return found


def _draw(path: Path, runs: dict[str, Path]) -> None:
    """Draw some test scenes: the image, and the classes of each run over it."""
    source = open_images([DATA], "test")
    pictures: dict[str, list[np.ndarray]] = {}
    scenes = [source.read(i, 3) for i in range(SHOWN)]
    for name, run in runs.items():
        checkpoint = read_checkpoint(run)
        description = checkpoint.description
        predict = segment_function(load_segmenter(checkpoint), description, WindowChoice().of(description))
        pictures[name] = [
            blend(scene, predict(scene.transpose(2, 0, 1)).argmax(axis=0), palette_of(description)) for scene in scenes
        ]
    blocks = [Block("", [scene, *(pictures[name][i] for name in runs)]) for i, scene in enumerate(scenes)]
    draw_sheet(path, [(f"scene, {', '.join(runs)}", blocks)], TILE)


def _print_table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Mean IoU of digits and background on 500 held-out scenes, measured in this run")
    for column in ("", "from scratch", "pretrained", "points gained"):
        table.add_column(column, justify="left" if not column else "right")
    for labels, found in result["miou"].items():
        scratch, pretrained = mean(found[SCRATCH]), mean(found[PRETRAINED])
        gain = 100 * (pretrained - scratch)
        table.add_row(f"{labels} scenes with masks", f"{scratch:.1%}", f"{pretrained:.1%}", f"{gain:+.1f}")
    Console().print(table)
    print(f"pretraining took {result['pretrain_seconds']:.0f} s, the whole demo {result['seconds']:.0f} s")
