"""Format results as tables: the machine, the requirements, and all works side by side."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import limit
from benchmarks.calibration import QUIET_SHARE, usual_rate
from benchmarks.measure import ROOT, Summary, summary, unavailable
from benchmarks.results import Results
from benchmarks.works import BFLOAT16, ON_REQUEST, SIDES, TORCH, TORCH_BFLOAT16, TORCH_EAGER, Target, Work, works

REASON_LENGTH = 60  # of a table's cell; the results have the whole text
MORE_IS_BETTER = ("images/s", "GFLOP/s")
DISTURBED = "†"
DISTURBED_NOTE = (
    f"{DISTURBED} The machine was not quiet in any of the attempts: before or after the measurement its calibration "
    f"product was more than {QUIET_SHARE:.0%} slower than usual."
)


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
    rate = usual_rate(results.rates())
    found = {side: summary(work, entries[side].runs, rate) for side in work.sides if side in entries}
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
    parts = [
        machine_table(results),
        targets_table(results, everything),
        speed_tables(results, everything),
        disturbed_note(results, everything),
    ]
    return "\n\n".join(part for part in parts if part)


def machine_table(results: Results) -> str:
    """Format what the numbers depend on: the machine, its instruction sets, the libraries and what they use of it."""
    machine, entries = results.machine, [entry for sides in results.works.values() for entry in sides.values()]
    sets, rate = machine.instruction_sets, usual_rate(results.rates())
    sessions = sorted({entry.session for entry in entries})
    rows = {
        "machine": f"{machine.named()}, {machine.memory_gb:g} GB, {machine.system}",
        "instruction sets": "not recorded" if sets is None else ", ".join(sets) or "none of those that matter",
        "products": "; ".join(sorted({f"{name}: {used}" for name, used in _pairs(results, "kernels")})),
        "calibration product": f"{digits(rate)} GFLOP/s" if rate else "not timed",
        "versions": ", ".join([f"Python {machine.python}", *_versions(results)]),
        'commit ("+": with uncommitted changes)': ", ".join(sorted({entry.commit for entry in entries})),
        "measured": " to ".join(dict.fromkeys([*sessions[:1], *sessions[-1:]])),
    }
    lines = ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items() if text)]
    return "\n".join(lines)


def _pairs(results: Results, field: str) -> list[tuple[str, str]]:
    return [pair for run in results.runs() for pair in run.get(field, {}).items()]


def _versions(results: Results) -> list[str]:
    return [f"{name} {version}" for name, version in sorted(dict(_pairs(results, "versions")).items())]


def disturbed_note(results: Results, everything: dict[str, Work]) -> str:
    """Return the line that explains the mark of disturbed measurements, "" where there are none."""
    found = (one for work in everything.values() for one in summaries(results, work).values())
    return DISTURBED_NOTE if any(one.disturbed for one in found) else ""


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
    unit = f" {quantity}" * bool(quantity) + DISTURBED * one.disturbed
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
    for sides, title in ((TORCH, "fastest transformers"), (TORCH_BFLOAT16, "fastest transformers, bfloat16")):
        if set(target.against) <= set(sides):
            return title
    return SIDES[target.against[0]].title


def _ratio(one: Verdict) -> str:
    if one.value is None or one.ours is None:
        return "–"
    if one.theirs is None:
        return shown(one.ours, one.work.quantity)
    numbers = f"{digits(one.ours.value)} / {digits(one.theirs.value)} {one.work.quantity}"
    marks = " *" * one.apart + f" {DISTURBED}" * (one.ours.disturbed or one.theirs.disturbed)
    return f"{one.value:.2f} ({numbers}){marks}"


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
    "end-to-end": FASTEST,
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
    "end-to-end": "Training from files",
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
            parts += [files_text(results, work) for work in listed if work.section == "end-to-end"]
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


def files_text(results: Results, work: Work) -> str:
    """Name the files that were trained from."""
    names = sorted({str(entry.job.get("photos")) for entry in results.works[work.name].values()})
    return f"Files: {', '.join(names)}."


def section_table(results: Results, listed: Sequence[Work]) -> str:
    """Format one row per side and one column per work: the result, and its ratio to the work's yardstick.

    Sides of bfloat16 have no row where none was tried.
    """
    found = [summaries(results, work) for work in listed]
    rivals = [best(one, yardstick(work), work.quantity) for one, work in zip(found, listed)]
    rows = []
    sides = dict.fromkeys(side for work in listed for side in work.sides)
    tried = {side for work in listed for side in results.works.get(work.name, {})}
    for side in [side for side in sides if side in tried or side not in BFLOAT16]:
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


def yardstick(work: Work) -> tuple[str, ...]:
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
