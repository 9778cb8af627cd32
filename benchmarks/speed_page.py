"""Write docs/speed.md and its figures from complete results."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from benchmarks import figures
from benchmarks.calibration import ATTEMPTS, QUIET_SHARE, SIZE
from benchmarks.measure import ROOT
from benchmarks.report import (
    SECTION_TITLES,
    best,
    digits,
    disturbed_note,
    gain,
    limits_table,
    machine_table,
    rates_table,
    shown_path,
    speed_tables,
    step_limit,
    summaries,
    targets_table,
    yardstick,
)
from benchmarks.results import Results
from benchmarks.works import NOT_ON_PAGE, SECTIONS, TORCH_EAGER, Work, works

PAGE = ROOT / "docs" / "speed.md"
IMAGES = PAGE.parent / "images"
BARS, SWEEPS = IMAGES / "speed.png", IMAGES / "speed-sweeps.png"


def write_page(results: Results, path: Path) -> None:
    """Write docs/speed.md and its figures.

    Args:
        path: the file of the results, which the page links to.
    Raises:
        ValueError: a section was not measured; other pages link to each of them.
    """
    everything = works(results.machine.cores)
    measured = {work.section for work in everything.values() if summaries(results, work)}
    missing = [name for name in SECTIONS if name not in measured and name not in NOT_ON_PAGE]
    if missing:
        raise ValueError(
            f"the page needs every section, and {shown_path(path)} has no results of {', '.join(missing)}; "
            f"measure them first: python -m benchmarks.run {' '.join(missing)} --out {shown_path(path.parent)}"
        )
    sweeps = {setting: sweep(results, everything, setting) for setting in figures.PANELS}
    figures.draw_bars(BARS, [bar for work in everything.values() if (bar := relative_bar(results, work))])
    figures.draw_sweeps(SWEEPS, {setting: points for setting, points in sweeps.items() if points})
    PAGE.write_text(page(results, path, everything))


def relative_bar(results: Results, work: Work) -> figures.Bar | None:
    """Return a row of the figure: each side's speed relative to the fastest transformers."""
    if work.section not in ("pretrain", "classify", "features"):
        return None
    found = summaries(results, work)
    rival = best(found, yardstick(work), work.quantity)
    if rival is None or "ours" not in found:
        return None
    factors = {side: gain(work, one, found[rival]) for side, one in found.items()}
    bound = step_limit(results, work)
    theirs = work.job.batch * 1000 / found[rival].value if work.quantity == "ms" else found[rival].value
    return figures.Bar(
        section=SECTION_TITLES[work.section],
        title=work.title,
        sides={side: factors[side] for side in ("ours", "ours-cross", "plain", "plain-tuned") if side in factors},
        limit=bound / theirs if bound else None,
        label=f"{digits(found['ours'].value)} against {digits(found[rival].value)} {work.quantity}",
    )


def sweep(results: Results, everything: dict[str, Work], setting: str) -> list[figures.Point]:
    """Return the measured points of a sweep over one of a job's fields."""
    points = []
    for name, work in everything.items():
        if name != "sweep-base" and not name.startswith(f"sweep-{setting}-"):
            continue
        found = summaries(results, work)
        rival = best(found, TORCH_EAGER, work.quantity)
        if "ours" in found and rival:
            value = asdict(work.job)[setting]
            points.append(figures.Point(value, found["ours"].value, found[rival].value, step_limit(results, work)))
    return sorted(points, key=lambda point: point.value)


def page(results: Results, path: Path, everything: dict[str, Work]) -> str:
    """Return the text of docs/speed.md."""
    return PAGE_TEXT.format(
        results=shown_path(path),
        machine=machine_table(results),
        targets=targets_table(results, everything),
        bars=BARS.name,
        tables=speed_tables(results, everything),
        disturbed=f"\n\n{note}" if (note := disturbed_note(results, everything)) else "",
        limits=limits_table(results, everything),
        rates=rates_table(results, everything),
        sweeps=SWEEPS.name,
        size=SIZE,
        share=QUIET_SHARE,
        attempts=ATTEMPTS,
    )


PAGE_TEXT = """# Speed and memory

Written by `python -m benchmarks.run page --out benchmarks/results` from [{results}](../{results}).
`make bench` measures this machine, prints the same tables and leaves this page as it is.

{machine}

![Speed relative to transformers](images/{bars})

## Requirements

{targets}

## Side by side

{tables}{disturbed}

## The arithmetic limit

The limit is the rate of a step that computes its matrix products only, forward and backward in float32, at the fastest
rate that one large product reached in either framework. In the column "limit, own shapes" each product instead has the
fastest rate that was measured for its shape, repeated in a warm cache. Both are estimates for this machine and these
libraries: a library with faster products would raise them. The rest of a step's time goes to softmax, norms, GELU,
additions, the optimizer and memory traffic. CrossMAE's decoder has fewer products; its limit is not shown.

{limits}

{rates}

## Against batch size, image size, mask ratio and threads

![Images a second against batch, image size, mask ratio and threads](images/{sweeps})

*ViT-Tiny/16 pretraining with batch 16, 224 px, mask ratio 0.75 and all cores, except for the setting that varies; each
point is one process.*

## How it was measured

- Each measurement is a separate process. The programs that are compared take turns, so that a slow minute of the
  machine affects all of them. Each process runs warm-up steps (compilation included), then steps for some seconds, and
  reports the median step. Tables show the median over one to three processes, and in brackets the smallest and the
  largest; results without brackets come from one process. A variant of transformers that was over 5% slower than the
  fastest one in the first turn is not repeated. Plain Paddle is measured in one process: a warm-up and two steps.
- NumPy's product of two {size} x {size} matrices is timed for half a second before and after each measurement, on all
  cores. A measurement is repeated, {attempts} attempts in all, if the product was more than {share:.0%} slower than
  usual (the upper quartile of the same results: the clock may be higher for seconds); if all attempts were disturbed,
  the least disturbed one is shown and marked with †.
  Results whose calibration product was "not timed" are older than this check.
- `make bench BENCH="--isa avx2"` keeps the products of all sides to AVX2 (`ONEDNN_MAX_CPU_ISA`,
  `MKL_ENABLE_INSTRUCTIONS`, `ATEN_CPU_CAPABILITY`, and `-march=x86-64-v3` for `torch.compile`), and writes a results
  file of its own.
- A step is timed from the end of the previous step, so it includes everything. Every program gets the same uint8
  images in memory and does all work in float32: conversion, normalisation, masks, forward, loss, backward, AdamW, and
  reading the loss. Pretraining has mask ratio 0.75 and normalised pixel targets. The decoder is 512 wide with 8
  blocks; for ViT-Tiny it is 192 wide with 4 blocks, for the 32 px model 96 wide with 2 blocks. `--models tiny-512`
  measures ViT-Tiny with the paper's decoder. Weights are random.
- Sides named bfloat16 are `precision=bfloat16` and PyTorch's autocast. A processor without such instructions skips
  them.
- PaddleMAE runs its own training loop (`train.loop.fit`) with the command's default settings, and computes features as
  `embed` does (`tasks.models.inference`). Paddle's inference engine is compiled, and its features are checked, outside
  of the measured time. It was measured a day later than the rest, so small differences mean nothing; [Exported
  models](export-measured.md#speed) compares it with PaddleMAE in turns.
- transformers runs `ViTMAEForPreTraining`, `ViTForImageClassification` and `ViTModel` on all cores, with "sdpa" and
  "eager" attention and with `torch.compile` in its default mode, with the faster of AdamW's `fused` and `foreach`. The
  fastest of these variants is the one that PaddleMAE is compared with. Features are compared with eager execution; the
  table has the compiled model too.
- Plain Paddle is MAE from the paper with `nn.Linear`, `nn.LayerNorm`, `nn.GELU`, `take_along_axis` and
  `paddle.optimizer.AdamW` (`benchmarks/plain_paddle.py`), as a first version would be written. "As installed" has no
  environment settings; Paddle then multiplies on one core and, on AMD processors, on a slow path. "Environment set"
  has `OMP_NUM_THREADS` set to the number of cores and `MKL_DEBUG_CPU_TYPE=5`.
- CrossMAE's decoder (arXiv 2401.14391) predicts a quarter of the patches and has 1.5 times as many blocks, as in its
  paper. It is another method with the same purpose, compared with transformers' MAE.
- Memory is the largest resident memory of the process, libraries included. The input pipeline runs in one process on
  one core, with training crops of 20 to 100% of a photo's area. The Pillow chain returns normalised floats, PaddleMAE
  uint8, because it normalises in the step. The cache is made outside of the measured time.

## Not measured

- Table cells with –.
- Accelerators, other machines and other precisions.
- Training from files: the steps above read images from memory, and the pipeline is measured alone. `make bench
  BENCH=end-to-end` measures both together: 5,000 JPEG files of 32 px that it writes first, or those of `--photos`, are
  read, decoded, cropped, flipped and trained on with the small model and batches of 128. PaddleMAE has one worker
  process, as in the recipe cifar10; transformers has a DataLoader with two, which use Pillow. The result is all images
  over the whole time after 20 steps, by which the workers' queues are used up.
- Accuracy. `make parity` checks that PaddleMAE and transformers compute the same.
"""
