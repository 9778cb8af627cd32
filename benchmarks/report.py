"""Format results as tables: the requirements, all works side by side, and docs/speed.md."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import figures, limit
from benchmarks.measure import ROOT, Summary, summary, unavailable
from benchmarks.results import Results
from benchmarks.works import NOT_ON_PAGE, ON_REQUEST, SECTIONS, SIDES, TORCH, TORCH_EAGER, Target, Work, works

PAGE = ROOT / "docs" / "speed.md"
IMAGES = PAGE.parent / "images"
BARS, SWEEPS = IMAGES / "speed.png", IMAGES / "speed-sweeps.png"
REASON_LENGTH = 60  # of a table's cell; the results have the whole text
MORE_IS_BETTER = ("images/s", "GFLOP/s")


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured for it.

    Attributes:
        value: the ratio, or the side's own result where there is nothing to compare with; None where not measured.
        ours, theirs: the side's result and that of the best rival.
        rival: which one that is.
        apart: the two were not measured in turn.
    """

    work: Work
    target: Target
    value: float | None
    ours: Summary | None = None
    theirs: Summary | None = None
    rival: str | None = None
    apart: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if not measured."""
        if self.value is None:
            return None
        return self.value <= self.target.limit if self.at_most else self.value >= self.target.limit

    @property
    def at_most(self) -> bool:
        """Whether less is better: for memory, and for a time without a rival."""
        return self.work.quantity == "GB" or not self.target.against


def summaries(results: Results, work: Work) -> dict[str, Summary]:
    """Return what was measured of a work: side -> summary."""
    entries = results.works.get(work.name, {})
    found = {side: summary(work, entries[side].runs) for side in work.sides if side in entries}
    return {side: one for side, one in found.items() if one}


def best(found: dict[str, Summary], sides: Iterable[str], quantity: str) -> str | None:
    """Return the side with the best result, or None."""
    there = [side for side in sides if side in found]
    choose = max if quantity in MORE_IS_BETTER else min
    return choose(there, key=lambda side: found[side].value) if there else None


def verdict(results: Results, work: Work, target: Target) -> Verdict:
    """Compare what was measured with a target. A ratio of times is turned round, so that 2 is always twice as good."""
    found = summaries(results, work)
    ours, rival = found.get(target.side), best(found, target.against, work.quantity)
    if ours is None or (target.against and rival is None):
        return Verdict(work, target, None)
    if rival is None:
        return Verdict(work, target, ours.value, ours)
    theirs = found[rival]
    entries = results.works[work.name]
    apart = entries[target.side].session != entries[rival].session
    return Verdict(work, target, gain(work, ours, theirs), ours, theirs, rival, apart)


def gain(work: Work, ours: Summary, theirs: Summary) -> float:
    """Return how many times better our result is; for memory, our share of theirs."""
    return theirs.value / ours.value if work.quantity in ("s", "ms") else ours.value / theirs.value


def tables_text(results: Results) -> str:
    """Return the page's tables, for the terminal."""
    everything = works(results.machine.cores)
    return f"{targets_table(results, everything)}\n\n{speed_tables(results, everything)}"


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


def shown_path(path: Path) -> Path:
    """Return a path relative to the repository where it is inside."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table; columns after the first are aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(one: Summary | None, quantity: str = "") -> str:
    """Format median and spread with three digits, as "24.1 (23.5–24.6)"; a dash without a result."""
    if one is None:
        return "–"
    unit = f" {quantity}" if quantity else ""
    if one.runs == 1:
        return digits(one.value) + unit
    return f"{digits(one.value)} ({digits(one.low)}–{digits(one.high)}){unit}"


def digits(value: float) -> str:
    """Format three significant digits, never in scientific notation."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def targets_table(results: Results, everything: dict[str, Work]) -> str:
    """Return the table of targets with what was measured."""
    demanded = [work for work in everything.values() if work.job.model not in ON_REQUEST or summaries(results, work)]
    verdicts = [verdict(results, work, target) for work in demanded for target in work.targets]
    rows = [
        [
            f"{one.work.section}: {one.work.title}",
            SIDES[one.target.side].title,
            SIDES[one.rival].title if one.rival else _rivals(one.target),
            _ratio(one),
            _required(one),
            {True: "met", False: "**not met**", None: "not measured"}[one.met],
        ]
        for one in verdicts
    ]
    table = markdown(["work", "side", "against", "measured", "must be (aim)", ""], rows)
    return table + ("\n\n\\* the two sides were not measured in turn." if any(one.apart for one in verdicts) else "")


def _rivals(target: Target) -> str:
    """Name the rivals of a target, for rows in which none of them was measured."""
    if not target.against:
        return "–"
    return "fastest transformers" if set(target.against) <= set(TORCH) else SIDES[target.against[0]].title


def _ratio(one: Verdict) -> str:
    if one.value is None or one.ours is None:
        return "–"
    if one.theirs is None:
        return shown(one.ours, one.work.quantity)
    numbers = f"{digits(one.ours.value)} / {digits(one.theirs.value)} {one.work.quantity}"
    return f"{one.value:.2f} ({numbers}){' *' if one.apart else ''}"


def _required(one: Verdict) -> str:
    sign = "≤" if one.at_most else "≥"
    unit = "" if one.target.against else f" {one.work.quantity}"
    return f"{sign} {one.target.limit:g}{unit}" + (f" ({one.target.aim:g})" if one.target.aim else "")


YARDSTICKS: dict[str, tuple[str, ...]] = {
    "features": TORCH_EAGER,
    "segment": TORCH_EAGER,
    "memory": TORCH_EAGER,
    "processes": ("ours-one",),
    "input": ("input-pillow",),
    "startup": (),
}
FASTEST = "\n\n*Behind the dot: speed over that of the fastest transformers.*"
EAGER = "\n\n*Behind the dot: {} over that of transformers' eager execution.*"
YARDSTICK_NOTES = {
    "pretrain": FASTEST,
    "classify": FASTEST,
    "features": EAGER.format("speed"),
    "segment": EAGER.format("speed"),
    "memory": EAGER.format("memory"),
    "processes": "\n\n*Behind the dot: speed over that of one process.*",
    "input": "\n\n*Behind the dot: speed over that of the Pillow chain.*",
    "startup": "",
}
SECTION_TITLES = {
    "pretrain": "Pretraining step",
    "processes": "Several processes",
    "classify": "Classifier training step",
    "features": "Features",
    "segment": "Segmentation",
    "memory": "Peak memory",
    "input": "Input pipeline",
    "startup": "Start-up",
}


def speed_tables(results: Results, everything: dict[str, Work]) -> str:
    """Format one table per section: one row per work, with its best rivals next to PaddleMAE."""
    parts = []
    for section, title in SECTION_TITLES.items():
        listed = [work for work in everything.values() if work.section == section and summaries(results, work)]
        if listed:
            parts.append(f"### {title}\n\n{section_table(results, listed)}{YARDSTICK_NOTES[section]}")
            parts += [quality_text(results, work) for work in listed if work.section == "input"]
    return "\n\n".join(part for part in parts if part)


def quality_text(results: Results, work: Work) -> str:
    """Describe how far the pixels of input pipelines are from Pillow's; "" where that was not measured."""
    texts = []
    for side, entry in results.works[work.name].items():
        for run in entry.runs[:1]:  # the same photos and crops each time
            if "difference" in run:
                mean, worst = run["difference"]
                texts.append(f"{SIDES[side].title} {mean:.2f} (the worst of {run['compared']} views {worst:.2f})")
    if not texts:
        return ""
    return f"Mean absolute difference, of 255, from the same crops decoded and resized by Pillow: {'; '.join(texts)}."


def section_table(results: Results, listed: Sequence[Work]) -> str:
    """Format one row per side and one column per work: the result, and its ratio to the work's yardstick."""
    found = [summaries(results, work) for work in listed]
    rivals = [best(one, _yardstick(work), work.quantity) for one, work in zip(found, listed)]
    rows = []
    for side in dict.fromkeys(side for work in listed for side in work.sides):
        cells = []
        for work, one, rival in zip(listed, found, rivals):
            reason = _why_not(results, work, side)
            ratio = f" · {gain(work, one[side], one[rival]):.2f}" if side in one and rival else ""
            cells.append(shown(one[side]) + ratio if side in one else reason)
        rows.append([SIDES[side].title, *cells])
    bounds = [step_limit(results, work) for work in listed]
    if any(bounds):
        cells = [_bound(work, one, bound) for work, one, bound in zip(listed, found, bounds)]
        scope = " of one thread" if {work.job.threads for work in listed} == {1} else ""
        rows.append([f"arithmetic limit{scope} (PaddleMAE's share of it)", *cells])
    return markdown(["", *(f"{work.title}, {work.quantity}" for work in listed)], rows)


def _why_not(results: Results, work: Work, side: str) -> str:
    entry = results.works[work.name].get(side)
    if entry is None:
        return "–"
    reason = re.sub(r"^exit status \d+: ", "", unavailable(entry.runs) or "")
    return textwrap.shorten(f"not available: {reason}", REASON_LENGTH, placeholder=" …")


def _bound(work: Work, found: dict[str, Summary], bound: float | None) -> str:
    if bound is None:
        return "–"
    limit_summary = Summary(work.job.batch * 1000 / bound if work.quantity == "ms" else bound, 0, 0, 1)
    part = f" ({gain(work, found['ours'], limit_summary):.0%})" if "ours" in found else ""
    return shown(limit_summary) + part


def _yardstick(work: Work) -> tuple[str, ...]:
    """Return the sides that the others are compared with in a table."""
    return YARDSTICKS.get(work.section, TORCH)


def machine_rate(results: Results, threads: int) -> float | None:
    """Return the floating-point operations per second of the fastest large product, in either framework."""
    entries = results.works.get(f"limit-square-{threads}", {})
    rates = [limit.rate(run["products"]) for entry in entries.values() for run in entry.runs if "products" in run]
    return max(rates, default=None)


def step_limit(results: Results, work: Work) -> float | None:
    """Return images/s of a step that only multiplies, at the machine's best rate; None if that is not known."""
    rate = machine_rate(results, work.job.threads)
    if rate is None or work.job.task not in ("pretrain", "classify", "features"):
        return None
    return work.job.batch * rate / limit.operations(limit.step_products(work.job))


def shaped_limit(results: Results, work: Work) -> float | None:
    """Return images/s of a step whose products run at the best speed measured for their shape; None if not known."""
    entries = results.works.get(f"limit-{work.job.model}-{work.job.batch}", {})
    measured = [run["products"] for entry in entries.values() for run in entry.runs if "products" in run]
    return work.job.batch / limit.shaped_seconds(work.job, measured) if measured else None


def relative_bar(results: Results, work: Work) -> figures.Bar | None:
    """Return a row of the figure: each side's speed relative to the fastest transformers."""
    if work.section not in ("pretrain", "classify", "features"):
        return None
    found = summaries(results, work)
    rival = best(found, _yardstick(work), work.quantity)
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


def limits_table(results: Results, everything: dict[str, Work]) -> str:
    """Format what a step multiplies, how fast the machine multiplies, and how far both sides are from that."""
    rows = []
    for work in everything.values():
        if work.section != "pretrain" or "ours" not in (found := summaries(results, work)):
            continue
        rival, bound, shaped = best(found, TORCH, work.quantity), step_limit(results, work), shaped_limit(results, work)
        operations = limit.operations(limit.step_products(work.job)) / work.job.batch
        rows.append(
            [
                work.title,
                digits(operations / 1e9),
                digits(found["ours"].value),
                digits(found[rival].value) if rival else "–",
                digits(shaped) if shaped else "–",
                digits(bound) if bound else "–",
                f"{found['ours'].value / bound:.0%}" if bound else "–",
            ]
        )
    header = [
        "images/s",
        "GFLOP an image",
        "PaddleMAE",
        "transformers",
        "limit, own shapes",
        "limit",
        "PaddleMAE of it",
    ]
    return markdown(header, rows)


def rates_table(results: Results, everything: dict[str, Work]) -> str:
    """Format the GFLOP/s of large products by threads and framework."""
    rows = [
        [str(work.job.threads), *(shown(summaries(results, work).get(side)) for side in work.sides)]
        for work in everything.values()
        if work.section == "limit" and work.job.model == "square" and summaries(results, work)
    ]
    return markdown(["threads", "PyTorch, GFLOP/s", "Paddle, GFLOP/s"], rows)


def page(results: Results, path: Path, everything: dict[str, Work]) -> str:
    """Return the text of docs/speed.md."""
    entries = [entry for sides in results.works.values() for entry in sides.values()]
    machine = results.machine
    used: dict[str, str] = {}
    for entry in entries:
        for run in entry.runs:
            used |= run.get("versions", {})
    versions = ", ".join(f"{name} {used[name]}" for name in sorted(used))
    commits = ", ".join(sorted({entry.commit for entry in entries}))
    sessions = sorted({entry.session for entry in entries})
    return PAGE_TEXT.format(
        results=shown_path(path),
        machine=f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB, {machine.system}",
        versions=f"Python {machine.python}, {versions}",
        commits=commits,
        sessions=sessions[0] + (f" to {sessions[-1]}" if len(sessions) > 1 else ""),
        targets=targets_table(results, everything),
        bars=BARS.name,
        tables=speed_tables(results, everything),
        limits=limits_table(results, everything),
        rates=rates_table(results, everything),
        sweeps=SWEEPS.name,
    )


PAGE_TEXT = """# Speed and memory

Written by `python -m benchmarks.run page --out benchmarks/results` from [{results}](../{results}).
`make bench` measures this machine, prints the same tables and leaves this page as it is.

| | |
|---|---|
| machine | {machine} |
| versions | {versions} |
| commit ("+": with uncommitted changes) | {commits} |
| measured | {sessions} |

![Speed relative to transformers](images/{bars})

## Requirements

{targets}

## Side by side

{tables}

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
- A step is timed from the end of the previous step, so it includes everything. Every program gets the same uint8
  images in memory and does all work in float32: conversion, normalisation, masks, forward, loss, backward, AdamW, and
  reading the loss. Pretraining has mask ratio 0.75 and normalised pixel targets. The decoder is 512 wide with 8
  blocks; for ViT-Tiny it is 192 wide with 4 blocks, for the 32 px model 96 wide with 2 blocks. `--models tiny-512`
  measures ViT-Tiny with the paper's decoder. Weights are random.
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
- Training from files over a whole run: the steps above read images from memory, and the pipeline is measured alone.
- Accuracy. `make parity` checks that PaddleMAE and transformers compute the same.
"""
