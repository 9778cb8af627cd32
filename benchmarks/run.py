"""Run the benchmark's command line: measure the sides in turn, and print tables.

python -m benchmarks.run                                        everything: about an hour on two cores
python -m benchmarks.run --quick                                one process a side, no sweeps: some minutes
python -m benchmarks.run pretrain --models tiny base --repeats 5
python -m benchmarks.run pretrain --isa avx2                    products of all sides without AVX-512
python -m benchmarks.run report                                 print the tables again, measure nothing
python -m benchmarks.run page --out benchmarks/results          rewrite docs/speed.md from complete results
python -m benchmarks.run --list

Results are written to build/bench, or to the folder that --out names. Only `page` writes into docs.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.calibration import ATTEMPTS, Calibration
from benchmarks.measure import ROOT, calibration_rate, job_of, run_work
from benchmarks.photos import COUNT, SIZE, photo_folder, small_jpegs
from benchmarks.results import FOLDER, Entry, Machine, commit, now, open_results, read, this_machine, write
from benchmarks.speed_page import write_page
from benchmarks.works import ISAS, MODELS, ON_REQUEST, SECTIONS, SIDES, Work, works
from paddlemae.engine.cpus import usable_cpus

PHOTOS = ROOT.parent / "shared" / "data" / "imagenet1000.tar"
PHOTOS_HELP = (
    f"folder or tar of JPEG files for the sections input and end-to-end (default {PHOTOS.name}, and {COUNT} files of "
    f"{SIZE} px that are written first)"
)
QUICK = {"min_steps": 2, "min_seconds": 1.0, "warmup": 1}


def parser() -> argparse.ArgumentParser:
    usage = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__.partition("\n")[0],
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usage.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)}; or report or page alone")
    usage.add_argument("--models", nargs="+", metavar="MODEL", help=f"only works on these: {', '.join(MODELS)}")
    usage.add_argument("--sides", nargs="+", metavar="SIDE", help=f"only these: {', '.join(SIDES)}")
    usage.add_argument("--repeats", type=int, help="processes a side (default 1 to 3, by the work)")
    usage.add_argument("--quick", action="store_true", help="one process a side, few steps, no sweeps, no repetitions")
    usage.add_argument("--isa", default="", choices=ISAS, help="limit the instructions of every side's products")
    usage.add_argument("--photos", help=PHOTOS_HELP)
    usage.add_argument("--out", type=Path, default=FOLDER, help="folder of the results (default build/bench)")
    usage.add_argument("--name", help="OUT/NAME.json (default: after the CPU)")
    usage.add_argument("--prefix", default="", help="words before each command, such as 'taskset -c 0,1'")
    usage.add_argument("--list", action="store_true", help="print the works and their sides, and stop")
    return usage


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        _run(options)
    except (ValueError, OSError) as fault:
        print(f"benchmarks: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks: stopped; works measured before are kept", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    machine = this_machine(usable_cpus(), options.isa)
    path = options.out / f"{options.name or machine_name(machine)}.json"
    if options.sections == ["page"]:
        write_page(read(path), path)
    if options.sections in (["report"], ["page"]):
        print(report.tables_text(read(path)))
        return
    plan = select_works(works(machine.cores), options)
    if options.list:
        for work in plan:
            print(f"{work.name}: {', '.join(work.sides)}")
        return
    _measure(plan, options, machine, path)
    print(f"{report.tables_text(read(path))}\n\nwritten: {report.shown_path(path)}")


def select_works(everything: dict[str, Work], options: argparse.Namespace) -> list[Work]:
    """Return the works and sides that the options select.

    Raises:
        ValueError: a section, model or side that there is not, or nothing left.
    """
    _check("section", options.sections, SECTIONS)
    _check("model", options.models or [], MODELS)
    _check("side", options.sides or [], SIDES)
    if options.repeats is not None and options.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, got {options.repeats}")
    sections = options.sections or [name for name in SECTIONS if not (options.quick and name == "sweep")]
    plan = []
    for work in everything.values():
        sides = [side for side in (work.quick if options.quick else work.sides) if side in (options.sides or SIDES)]
        if work.section in sections and sides and _wanted_model(work, options.models):
            plan.append(replace(work, sides=tuple(sides)))
    if not plan:
        raise ValueError("no work is left of what was asked for; --list shows them all")
    return plan


def _wanted_model(work: Work, models: Sequence[str] | None) -> bool:
    return work.job.model in models or work.job.model == "square" if models else work.job.model not in ON_REQUEST


def _check(kind: str, given: Sequence[str], known: Any) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"there is no {kind} {name!r}; there are {', '.join(known)}")


def machine_name(machine: Machine) -> str:
    """Return a file name for a machine: its CPU, cores and limit."""
    words = re.sub(r"\(.*?\)|@.*|\d+-Core|Processor|CPU", " ", machine.cpu)
    return (
        "-".join(re.findall(r"[a-z0-9]+", words.lower()))
        + f"-{machine.cores}-cores"
        + f"-{machine.isa}" * bool(machine.isa)
    )


def _measure(plan: Sequence[Work], options: argparse.Namespace, machine: Machine, path: Path) -> None:
    """Measure works one by one, writing after each, so that a run that is stopped keeps what it has."""
    known = open_results(path, machine)  # refuses before anything is measured
    session, at = now(), commit()
    say = _progress(len(plan))
    calibration = Calibration(
        partial(calibration_rate, machine.cores, options.prefix),
        known=known.rates(),
        attempts=1 if options.quick else ATTEMPTS,
    )
    for work in plan:
        changes: dict[str, Any] = {"isa": options.isa}
        if options.quick and work.section not in ("limit", "end-to-end"):
            changes |= QUICK
        if work.section in ("input", "end-to-end"):
            changes["photos"] = _photos(work, options.photos)
        repeats = options.repeats or (1 if options.quick else work.repeats)
        runs = run_work(
            work, work.sides, repeats, changes=changes, prefix=options.prefix, calibration=calibration, say=say(work)
        )
        results = open_results(path, machine)
        for side, found in runs.items():
            job = job_of(work, side, changes)
            shown = asdict(replace(job, photos=Path(job.photos).name))
            entry = Entry(session=session, commit=at, job=shown, runs=found)
            results.works.setdefault(work.name, {})[side] = entry
        write(path, results)


def _photos(work: Work, given: str | None) -> str:
    """Return the folder of a work's photos: those that are given, or its own; "" if there are none."""
    if given:
        return photo_folder(Path(given))
    if work.section == "end-to-end":
        return small_jpegs()
    return photo_folder(PHOTOS) if PHOTOS.exists() else ""


def _progress(total: int) -> Callable[[Work], Callable[[str], None]]:
    """Return a function that makes the printer of a work's lines: time since the start, number of the work."""
    started, numbers = time.monotonic(), itertools.count(1)

    def of_work(work: Work) -> Callable[[str], None]:
        number = next(numbers)

        def say(line: str) -> None:
            minutes, seconds = divmod(int(time.monotonic() - started), 60)
            print(f"{minutes:3}:{seconds:02}  {number}/{total}  {line}", flush=True)

        return say

    return of_work


if __name__ == "__main__":
    sys.exit(main())
