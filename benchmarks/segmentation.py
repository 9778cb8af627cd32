"""Compare pretrained segmenters with others trained from scratch and with a U-Net, on images with masks.

    python -m benchmarks.segmentation --data nuclei=DIR camvid=DIR tiles=DIR --out runs/segmentation
    python -m benchmarks.segmentation --data camvid=DIR --out runs/segmentation --masks 5% --arms pretrained scratch
    python -m benchmarks.segmentation --out runs/segmentation --table

For each set: one pretraining on its training images, whose masks are not read; then, for each share of the masks and
each seed, five trainings:
    pretrained, scratch             from it and from random weights, with the same schedule
    pretrained-long, scratch-long   the same with `LONGER` times as many steps
    unet                            a U-Net in PyTorch, for as long as pretraining and fine-tuning took together
`OUT/rows.jsonl` gets a line after each of them; the same command resumes, and trains what is missing. Results are of
the test part, with the weights after the last step.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from paddlemae.engine import device
from paddlemae.recipe import SCRATCH, load_recipe
from paddlemae.runs.runlog import RESULT_FILE
from paddlemae.system.atomic import append_text, replace_text
from paddlemae.system.documents import read_object
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.segment import segment
from paddlemae.tasks.training.run_start import Start

ROWS_FILE = "rows.jsonl"
SECONDS_FILE = "seconds.json"
LONGER = 3
PRETRAINED, FROM_SCRATCH = ("pretrained", "pretrained-long"), ("scratch", "scratch-long")
ARMS = (*PRETRAINED, *FROM_SCRATCH, "unet")
SHARES = ("5%", "100%")


@dataclass(frozen=True)
class Plan:
    """How a set is trained on.

    Args:
        size: height and width of crops and windows, pixels.
        patch_size: of the encoder, pixels.
        pretrain_steps, batch_size: of the pretraining.
        steps: of a segmentation with 5% and with all masks; their batch is `segment_batch`.
        turned: the scenes have no up and down.
        settings: others of the segmentation.
        crops: `crop_scale` of the pretraining, chosen so that most crops show as much as those of the segmentation.
        cache_size: short side of the images in its cache; None is the usual one.
    """

    size: int = 128
    patch_size: int = 8
    pretrain_steps: int = 3200
    batch_size: int = 64
    steps: tuple[int, int] = (450, 1500)
    segment_batch: int = 8
    turned: bool = False
    settings: tuple[tuple[str, Any], ...] = ()
    crops: tuple[float, float] = (0.2, 1.0)
    cache_size: int | None = None


RARE = (("sampling", "balanced"), ("rare_crops", 1.0))
# of the pretraining: what `paddlemae plan` chooses for half an hour on two cores
PRETRAINING = {
    "decoder_embed_dim": 96,
    "decoder_depth": 1,
    "decoder_num_heads": 4,
    "base_lr": 2.8e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 20,
    "mean": "auto",
    "std": "auto",
}
PLANS = {
    "nuclei": Plan(turned=True, settings=(("dice", 1.0),), crops=(0.06, 0.35), cache_size=512),
    # 360 pixels high: at 240, a crop holds half of the height
    "camvid": Plan(settings=(("short_side", 240),)),
    # defects are on 40% of the tiles, and fill 2% of these
    "tiles": Plan(turned=True, settings=(("dice", 1.0), *RARE), crops=(0.1, 0.5), cache_size=288),
}


@dataclass(frozen=True)
class Bench:
    """A comparison on disk.

    Args:
        steps_factor: a factor on all numbers of steps, for a trial.
        model: settings of the model for all trainings of ours.
    """

    out: Path
    steps_factor: float = 1.0
    model: tuple[tuple[str, Any], ...] = (("size", "mini"),)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows that are there."""
        path = self.out / ROWS_FILE
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def scaled(self, steps: int) -> int:
        """Return a number of steps, at least 2."""
        return max(2, round(steps * self.steps_factor))

    def pretrained(self, name: str, data: str, plan: Plan) -> tuple[Path, float]:
        """Pretrain on a set, or find that done; return (run, seconds that it took)."""
        run = self.out / name / "pretrain"
        note = self.out / name / SECONDS_FILE
        if note.exists():
            return run, float(read_object(note)["seconds"])
        settings: dict[str, Any] = {"data": data, "image_size": plan.size, "patch_size": plan.patch_size}
        settings |= {"batch_size": plan.batch_size, "steps": self.scaled(plan.pretrain_steps), **dict(self.model)}
        settings |= PRETRAINING | {"rotate": plan.turned, "flip_vertical": plan.turned}
        settings |= {"cache": str(self.out / name / "cache"), "cache_size": plan.cache_size}
        settings["crop_scale"] = list(plan.crops)
        started = time.perf_counter()
        pretrain(load_recipe("pretrain", None, settings), Start(run, quiet=True))
        seconds = time.perf_counter() - started
        replace_text(note, json.dumps({"seconds": seconds}))
        return run, seconds

    def segmented(self, name: str, data: str, plan: Plan, arm: str, share: str, seed: int) -> dict[str, Any]:
        """Train one segmenter, or find that done; return its result and how long it took."""
        folder = self.out / name / f"{arm}-{share.rstrip('%')}-{seed}"
        steps = self.scaled(plan.steps[share == SHARES[1]] * (LONGER if arm.endswith("-long") else 1))
        init = str(self.out / name / "pretrain") if arm in PRETRAINED else SCRATCH
        settings: dict[str, Any] = {"data": data, "init": init, "seed": seed, "validation": 0, "steps": steps}
        settings |= {"batch_size": plan.segment_batch, "image_size": plan.size, **dict(plan.settings)}
        settings |= {"rotate": plan.turned, "flip_vertical": plan.turned}
        if share != "100%":
            settings["labels"] = share
        if init == SCRATCH:
            settings |= {"patch_size": plan.patch_size, "drop_path": 0.0, "layer_decay": 1.0, **dict(self.model)}
            settings |= {"mean": "auto", "std": "auto"}
        note = folder.with_suffix(".json")
        if not note.exists():
            started = time.perf_counter()
            segment(load_recipe("segment", None, settings), Start(folder, quiet=True))
            replace_text(note, json.dumps({"seconds": time.perf_counter() - started}))
        return {**read_object(folder / RESULT_FILE), **read_object(note), "steps": steps}

    def row(self, name: str, data: str, plan: Plan, arm: str, share: str, seed: int) -> dict[str, Any]:
        """Train one model and return its row."""
        about = {"set": name, "masks": share, "arm": arm, "seed": seed}
        _, before = self.pretrained(name, data, plan)
        if arm == "unet":
            from benchmarks import unet  # needs PyTorch

            kin = [
                row for row in self.rows() if (row["set"], row["masks"]) == (name, share) and row["arm"] in PRETRAINED
            ]
            spent = [row["seconds"] for row in kin]
            seconds = before + max(spent, default=60.0) if self.steps_factor == 1 else 20 * self.steps_factor
            labels = None if share == "100%" else share
            found = unet.run(
                data,
                labels=labels,
                size=plan.size,
                batch_size=plan.segment_batch,
                seed=seed,
                seconds=seconds,
                turned=plan.turned,
                short_side=dict(plan.settings).get("short_side"),
            )
            return {**found, **about}
        found = self.segmented(name, data, plan, arm, share, seed)
        kept = {key: value for key, value in found.items() if isinstance(value, int | float)}
        return {**kept, "per_class": found["per_class"], "pretraining_seconds": before, **about}

    def run(
        self,
        sets: dict[str, str],
        seeds: Sequence[int],
        shares: Sequence[str] = SHARES,
        arms: Sequence[str] = ARMS,
    ) -> None:
        """Train what is missing."""
        device.prepare("cpu", "auto")
        for name, share, seed, arm in product(sets, shares, seeds, arms):
            done = {(row["set"], row["masks"], row["seed"], row["arm"]) for row in self.rows()}
            if (name, share, seed, arm) not in done:
                row = self.row(name, sets[name], PLANS[name], arm, share, seed)
                append_text(self.out / ROWS_FILE, json.dumps(row) + "\n")
                print(name, share, arm, seed, f"mIoU {row['miou']:.4f}, {row['seconds']:.0f} s", flush=True)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return mean IoU of each set, share and arm, in percent with its deviation over the seeds, as Markdown."""
    lines = [f"| set, masks | {' | '.join(ARMS)} | best pretrained - best scratch |", "|---" * (len(ARMS) + 2) + "|"]
    for name, share in dict.fromkeys((row["set"], row["masks"]) for row in rows):
        cells, means = [], {}
        for arm in ARMS:
            found = [100 * row["miou"] for row in rows if (row["set"], row["masks"], row["arm"]) == (name, share, arm)]
            if found:
                means[arm] = mean(found)
            spread = f" ± {stdev(found):.1f}" if len(found) > 1 else ""
            cells.append(f"{mean(found):.1f}{spread}" if found else "")
        ours, scratch = ([means[arm] for arm in arms if arm in means] for arms in (PRETRAINED, FROM_SCRATCH))
        gain = f"{max(ours) - max(scratch):+.1f}" if ours and scratch else ""
        lines.append(f"| {name}, {share} | {' | '.join(cells)} | {gain} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run or resume the comparison, or print its table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.segmentation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", nargs="*", default=[], help=f"NAME=PATH of {', '.join(PLANS)}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--masks", nargs="*", choices=SHARES, default=SHARES)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=ARMS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps-factor", type=float, default=1.0, help="on all numbers of steps, for a trial")
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    given = parser.parse_args(arguments)
    sets = dict(one.split("=", 1) for one in given.data)
    if unknown := set(sets) - set(PLANS):
        parser.error(f"unknown sets {', '.join(sorted(unknown))}; expected {', '.join(PLANS)}")
    bench = Bench(given.out, given.steps_factor)
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.table:
        bench.run(sets, range(given.seeds), given.masks, given.arms)
    print(table(bench.rows()))


if __name__ == "__main__":
    main()
