"""Read and write results: a JSON file per machine, in which a new measurement of a work replaces the old one."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.calibration import rates_of
from benchmarks.measure import ROOT
from benchmarks.processor import instruction_sets, model_numbers, processor_name, read_cpuinfo
from benchmarks.works import Run

FOLDER = ROOT / "build" / "bench"  # not committed; benchmarks/results holds the results that docs/speed.md shows
STRICT = ConfigDict(extra="forbid")


class Machine(BaseModel):
    """The machine that the numbers are measured on.

    Attributes:
        cpu: the processor's name.
        model: its family and model, "" where unknown.
        instruction_sets: those that matter, see `processor.RELEVANT`; None in results that did not record them.
        isa: the limit of all products, see `works.ISAS`; "" is none.
    """

    model_config = STRICT
    cpu: str
    model: str = ""
    instruction_sets: list[str] | None = None
    isa: str = ""
    cores: int
    memory_gb: float
    system: str
    python: str

    def named(self) -> str:
        """Return what tells it from other machines: processor, model, cores and limit."""
        cpu = f"{self.cpu} ({self.model})" if self.model else self.cpu
        return f"{cpu}, {self.cores} cores" + f", limited to {self.isa}" * bool(self.isa)


class Entry(BaseModel):
    """One side's measurement of one work.

    Attributes:
        session: when the command that measured it began; sides of one session were run in turn.
        commit: of the repository, "+" behind it when files were changed since.
        job: what each process did, see `works.Job`.
        runs: what each process gave, see `worker.run`.
    """

    model_config = STRICT
    session: str
    commit: str
    job: dict[str, Any]
    runs: list[Run]


class Results(BaseModel):
    """Results on one machine: work -> side -> measurement."""

    model_config = STRICT
    machine: Machine
    works: dict[str, dict[str, Entry]] = {}

    def runs(self) -> Iterator[Run]:
        """Yield what every process gave."""
        return (run for sides in self.works.values() for entry in sides.values() for run in entry.runs)

    def rates(self) -> list[float]:
        """Return the GFLOP/s of the calibration product around every process, where it was timed."""
        return rates_of(self.runs())


def read(path: Path) -> Results:
    """Read a results file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one.
    """
    if not path.exists():
        raise FileNotFoundError(f"no results in {path}; measure some first: make bench")
    try:
        return Results.model_validate_json(path.read_text())
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path} is no results file: {place}: {first['msg']}; delete it and measure again") from fault


def write(path: Path, results: Results) -> None:
    """Write a results file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results.model_dump(), indent=1) + "\n")
    os.replace(part, path)


def open_results(path: Path, machine: Machine) -> Results:
    """Return the results that this machine adds to, empty if the file does not exist.

    Raises:
        ValueError: the file is another machine's.
    """
    if not path.exists():
        return Results(machine=machine)
    results = read(path)
    same = machine if results.machine.model else machine.model_copy(update={"model": ""})  # older results have none
    if results.machine.named() != same.named():
        raise ValueError(
            f"{path} was measured on {results.machine.named()}, this is {same.named()}; choose another --name"
        )
    return results.model_copy(update={"machine": machine})


def this_machine(cores: int, isa: str = "") -> Machine:
    """Describe this machine, on which `cores` CPUs may be used.

    Args:
        isa: limits the instructions of products, see `works.ISAS`.
    Raises:
        ValueError: the processor does not have them.
    """
    cpuinfo = read_cpuinfo()
    if isa and isa not in instruction_sets(cpuinfo):
        raise ValueError(f"--isa {isa} needs a processor with {isa}, which {processor_name(cpuinfo)} does not have")
    return Machine(
        cpu=processor_name(cpuinfo),
        model=model_numbers(cpuinfo),
        instruction_sets=instruction_sets(cpuinfo),
        isa=isa,
        cores=cores,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def commit() -> str:
    """Return the repository's commit, with "+" if code has changed since; "unknown" outside a clone."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--", "src", "benchmarks/*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def now() -> str:
    """Return the time to the minute, as results store it."""
    return datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z")
