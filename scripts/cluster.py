"""Estimate what 64 processes on 8 hosts add to a step of ViT-L, from measurements: docs/processes-measured.md.

python scripts/cluster.py --measure    # some minutes; needs 6 GB of memory
python scripts/cluster.py              # the tables again, from the kept figures

Measured here: adding up gradients between two processes on loopback, a round of messages, the spread of step times, the
copy and the writing of a checkpoint. Computed: bytes on links, and a simulation of the slowest of 64 processes. Cited:
how fast accelerators are (MAE, sec. 4.1), since there is none here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
KEPT, PAGE = ROOT / "docs/results/cluster.json", ROOT / "docs/processes-measured.md"
BEGIN, END = "<!-- made by scripts/cluster.py -->\n", "<!-- end -->\n"
PROCESSES, HOSTS, BATCH = 64, 8, 4096
LINKS_GBIT = (10, 25, 100, 200, 400)
MESSAGE_SECONDS = 20e-6  # a hop of a ring, an ordinary figure for Ethernet; assumed
# 1600 epochs of ImageNet's 1,281,167 images in 31 hours on 128 TPU-v3 cores (He et al., arXiv 2111.06377, sec. 4.1)
CITED_IMAGES_A_SECOND = 1600 * 1_281_167 / (31 * 3600) / 128
IMAGE_BYTES = 110e3  # ImageNet's mean
# one core, `make bench`: docs/speed.md, "input"
DECODED_A_SECOND, PACKED_A_SECOND = 462.0, 2378.0
STEPS, ROUNDS, REPEATS = 200, 500, 5


def rank(out: Path) -> None:
    """Run one of two processes: gradients of ViT-Base, then messages."""
    from paddlemae.engine import device

    device.prepare("cpu", 1)
    import paddle

    from paddlemae.train.parallel.ranks import join

    ranks = join()
    gradients = [paddle.ones([4_000_000]) for _ in range(28)]
    seconds = []
    for _ in range(REPEATS):
        ranks.wait()
        started = time.perf_counter()
        ranks.add_up(gradients)
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    for number in range(ROUNDS):
        ranks.mean(float(number))
    a_round = (time.perf_counter() - started) / ROUNDS
    if ranks.is_first:
        (out / "facts.json").write_text(json.dumps({"bytes": 4 * 28 * 4_000_000, "add_up": seconds, "round": a_round}))
    ranks.wait()
    ranks.leave()


def measure() -> dict[str, Any]:
    """Measure everything; return a dictionary for the JSON file."""
    with tempfile.TemporaryDirectory() as folder:
        launch = [sys.executable, "-W", "ignore", "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
        words = [*launch, "--log_dir", f"{folder}/logs", __file__, "--rank", folder]
        subprocess.run(words, check=True, env={**os.environ, "GLOG_minloglevel": "2"}, stdout=subprocess.DEVNULL)
        facts = json.loads((Path(folder) / "facts.json").read_text())
        facts["steps"] = step_seconds(Path(folder))
        facts |= checkpoint_seconds(Path(folder))
    return facts


def step_seconds(folder: Path) -> list[float]:
    """Return the seconds of each step of a small training on one core."""
    settings = [f"steps={STEPS}", "log_every=1", "threads=1", "checkpoint_every=1e9"]
    words = ["pretrain", "digits", "--quiet", "--out", str(folder / "run"), *settings]
    subprocess.run([sys.executable, "-m", "paddlemae", *words], check=True)
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    ends = [line["seconds"] for line in lines if "loss" in line]
    return [round(float(one), 4) for one in np.diff(ends)]


def checkpoint_seconds(folder: Path) -> dict[str, Any]:
    """Measure copying ViT-Base's state in the loop, and writing it in the background."""
    from paddlemae.engine import device

    device.prepare("cpu", 1)
    from paddlemae.recipe import load_recipe
    from paddlemae.tasks.training.pretraining_setup import prepare
    from paddlemae.train.checkpoint import TrainState, take_snapshot, write_snapshot
    from paddlemae.train.optim import adamw

    parts = prepare(load_recipe("pretrain", "base", ["data=digits", "channels=1", "mean=[0.5]", "std=[0.5]"]))
    state = TrainState(parts.model, adamw(parts.model))
    copied, written = [], []
    for _ in range(2):
        started = time.perf_counter()
        snapshot = take_snapshot(state, parts.description)
        copied.append(time.perf_counter() - started)
        assert snapshot is not None
        write_snapshot(folder / "checkpoint", snapshot)
        written.append(time.perf_counter() - started - copied[-1])
        size = sum(path.stat().st_size for path in (folder / "checkpoint").rglob("*.safetensors"))
        shutil.rmtree(folder / "checkpoint")
    return {"checkpoint_bytes": size, "copied": min(copied), "written": min(written)}


def parameters_of_large() -> int:
    from paddlemae.engine.safe_import import paddle
    from paddlemae.model.mae import MaskedAutoencoder
    from paddlemae.recipe import load_recipe
    from paddlemae.tasks.models.build import autoencoder_arguments, parameter_count

    with paddle.LazyGuard():
        return parameter_count(MaskedAutoencoder(**autoencoder_arguments(load_recipe("pretrain", "large").model)))


def slowest_of(steps: list[float], processes: int) -> float:
    """Simulate how much longer the slowest of several processes takes than a usual one: the mean ratio."""
    shares = np.array(steps) / median(steps)
    drawn = np.random.default_rng(0).choice(shares, (10_000, processes))
    return float(drawn.max(axis=1).mean())


def tables(facts: dict[str, Any]) -> str:
    parameters = parameters_of_large()
    gradient_bytes = 4 * parameters
    on_link = 2 * (PROCESSES - 1) / PROCESSES * gradient_bytes
    compute = BATCH / PROCESSES / CITED_IMAGES_A_SECOND
    slowest = slowest_of(facts["steps"], PROCESSES)
    tenth, *_, ninetieth = quantiles(facts["steps"], n=10)
    usual = median(facts["steps"])
    images_a_second = BATCH / compute
    state_gb = 12 * parameters / 1e9
    measured_gb = facts["checkpoint_bytes"] / 1e9
    copy, write = facts["copied"] / measured_gb * state_gb, facts["written"] / measured_gb * state_gb
    rate = 2 * facts["bytes"] / 2 / min(facts["add_up"]) / 1e9
    lines = [
        f"ViT-L/16 with its decoder has {parameters:,} parameters. A step of {BATCH} images on {PROCESSES} processes "
        f"({HOSTS} hosts of {PROCESSES // HOSTS}): {BATCH // PROCESSES} images each, {compute:.2f} s at the "
        f"{CITED_IMAGES_A_SECOND:.0f} images/s of a TPU-v3 core (*cited*: MAE, sec. 4.1).",
        "",
        f"**Gradients** are {gradient_bytes / 1e9:.2f} GB of float32. A ring sends {on_link / 1e9:.2f} GB through each "
        "host's link, in each direction. `DataParallel` overlaps this with the backward pass, at best with two "
        "thirds of the step:",
        "",
        "| link | all-reduce | step, no overlap | step, best overlap |",
        "|---:|---:|---:|---:|",
    ]
    for gbit in LINKS_GBIT:
        ring = on_link / (gbit * 1e9 / 8) + 2 * (PROCESSES - 1) * MESSAGE_SECONDS
        hidden = compute * slowest + max(0.0, ring - 2 / 3 * compute)
        lines.append(f"| {gbit} Gbit/s | {ring:.2f} s | {compute * slowest + ring:.2f} s | {hidden:.2f} s |")
    a_round, messages = 1e6 * facts["round"], 1e3 * facts["round"] * (PROCESSES - 1) * 4
    a_host = images_a_second / HOSTS
    minutes = 20 * 1_281_167 / BATCH * compute / 60
    lines += [
        "",
        f"Each step takes as long as the slowest of {PROCESSES} processes: {slowest:.2f} times the median, in a "
        f"simulation that draws from *measured* step times (digits on one core: median {1e3 * usual:.0f} ms, a tenth "
        f"below {1e3 * tenth:.0f}, a tenth above {1e3 * ninetieth:.0f} ms). The table "
        "includes this; step times on a dedicated machine vary less.",
        "",
        f"Two processes on one host all-reduce {facts['bytes'] / 1e9:.2f} GB in {min(facts['add_up']):.2f} s "
        f"({rate:.1f} GB/s each way, *measured*). A round of messages takes {a_round:.0f} us between two processes "
        "(*measured*), and there are three or four of them a step; the first process reads and answers "
        f"{PROCESSES - 1}, so about {messages:.0f} ms a step at most.",
        "",
        f"**Data**: {images_a_second:,.0f} images/s in all, {a_host:,.0f} a host; at {IMAGE_BYTES / 1e3:.0f} KB an "
        f"image {a_host * IMAGE_BYTES / 1e6:.0f} MB/s from disk or network a host, and "
        f"{a_host / DECODED_A_SECOND:.1f} cores to decode ({DECODED_A_SECOND:.0f} images/s a core, *measured*), or "
        f"{a_host / PACKED_A_SECOND:.1f} with `cache=FOLDER` ({PACKED_A_SECOND:.0f} images/s, *measured*).",
        "",
        f"**Checkpoints** are {state_gb:.2f} GB. The copy that training waits for takes {copy:.1f} s, and writing, "
        f"checksums and flushing to disk {write:.0f} s in the background (ViT-Base's {measured_gb:.2f} GB took "
        f"{facts['copied']:.1f} and {facts['written']:.1f} s, *measured*). Every 20 epochs, as in `pretrain large`, "
        f"that is one in {minutes:.0f} minutes, which is the most that a kill can cost.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.rank:
        rank(wanted.rank)
        return
    if wanted.measure:
        KEPT.write_text(json.dumps(measure(), indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + tables(json.loads(KEPT.read_text())) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
