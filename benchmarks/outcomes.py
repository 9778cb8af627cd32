"""How good the results of `paddlemae auto` are: runs it on data sets with several seeds, and prints both sides.

python -m benchmarks.outcomes tiles --minutes 30 --seeds 3        the runs and the table of one data set
python -m benchmarks.outcomes tiles cifar10-1                     of several, one after the other
python -m benchmarks.outcomes --table tiles                       the table of the runs that are there
python -m benchmarks.outcomes --list

A run takes twice its minutes where it is compared with training from scratch. Runs are kept in build/outcomes, or in
the folder that --out names; a run that is finished is not repeated, and one that was stopped is resumed.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks.measure import ROOT
from paddlemae.data.sources import open_source
from paddlemae.runs.metrics import title_of

SHARED = ROOT.parent / "shared" / "data"
FOLDER = ROOT / "build" / "outcomes"
TIME_FILE = "minutes.json"  # of all sessions of the command, in a run's folder's place
RIVALS = ("majority", "gradients", "colour", "knn_untrained", "scratch")


@dataclass(frozen=True)
class Case:
    """One data set, its labels, and what should be reached on its test part.

    Args:
        archive: in ../shared/data; images: the folder in it.
        labels: of each class, or a share; None is all. The other training images are kept without labels.
        keep_all: a class of up to this number of images keeps all its labels.
        ours: key of the method that is judged; rivals: the methods of which the best is compared with.
        points: that `ours` should be above the best rival; least: its least value.
        knn: also classify all test images by all training images, after the run.
    """

    archive: str
    images: str
    labels: float | None = None
    keep_all: int = 0
    ours: str = "finetuned"
    rivals: tuple[str, ...] = RIVALS
    points: float | None = None
    least: float | None = None
    compare: bool = True
    knn: bool = False


CASES = {
    "tiles": Case("tiles.tar", "images", points=10),
    "tiles-20": Case("tiles.tar", "images", labels=20, keep_all=24, points=5),
    "cifar10-1": Case("cifar10.tar", "", labels=0.01, rivals=("scratch",), points=10),
    "cifar10-10": Case("cifar10.tar", "", labels=0.1, rivals=("scratch",), points=8),
    "cifar10": Case("cifar10.tar", "", ours="knn", rivals=("knn_untrained",), least=0.5, compare=False, knn=True),
    "nuclei": Case("nuclei.tar", "images", compare=False),
    "imagenet1000": Case("imagenet1000.tar", "", compare=False),
}


def parser() -> argparse.ArgumentParser:
    usage = argparse.ArgumentParser(
        prog="python -m benchmarks.outcomes",
        description=__doc__.partition("\n")[0],
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usage.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    usage.add_argument("--minutes", type=float, default=30.0, help="of each run (default 30)")
    usage.add_argument("--seeds", type=int, default=3, help="runs of each case (default 3)")
    usage.add_argument("--data", type=Path, default=SHARED, help="folder of the archives")
    usage.add_argument("--out", type=Path, default=FOLDER, help="folder of the runs (default build/outcomes)")
    usage.add_argument("--table", action="store_true", help="print the tables of finished runs, and run nothing")
    usage.add_argument("--list", action="store_true", help="print the cases, and stop")
    return usage


def main(arguments: Sequence[str] | None = None) -> int:
    usage = parser()
    options = usage.parse_args(arguments)
    if options.list:
        print(*(f"{name}: {case}" for name, case in CASES.items()), sep="\n")
        return 0
    if unknown := [name for name in options.cases if name not in CASES]:
        usage.error(f"unknown case {unknown[0]!r}; known: {', '.join(CASES)}")
    for name in options.cases or CASES:
        runs = [options.out / f"{name}-{options.minutes:g}-{seed}" for seed in range(options.seeds)]
        if not options.table:
            data = prepare(CASES[name], name, options.data, options.out / "data")
            for seed, run in enumerate(runs):
                _run(CASES[name], data, run, options.minutes, seed)
        print("\n".join(table(name, CASES[name], list(summaries(runs)))), flush=True)
    return 0


def prepare(case: Case, name: str, archives: Path, out: Path) -> Path:
    """Unpack a case's images, and return them, or a list that has some of their labels only."""
    folder = out / case.archive.removesuffix(".tar")
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}.partial")
        with tarfile.open(archives / case.archive) as archive:
            archive.extractall(partial, filter="data")
        partial.rename(folder)
    images = next(path for path in (folder / folder.name / case.images, folder / case.images) if path.is_dir())
    return images if case.labels is None else write_labels(case, images, out / f"{name}.csv")


def write_labels(case: Case, images: Path, out: Path) -> Path:
    """Write a list of all images, in which some training images of each class have their label."""
    assert case.labels is not None
    rows: list[tuple[str, str, str]] = []
    for part in ("train", "test"):
        source = open_source(str(images), part, labelled=True)
        assert source.labels is not None
        kept = np.ones(len(source), bool) if part == "test" else chosen(source.labels, case.labels, case.keep_all)
        for i, label in enumerate(source.labels.tolist()):
            rows.append((str(Path(source.describe(i)).resolve()), source.classes[label] if kept[i] else "", part))
    with out.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return out


def chosen(labels: np.ndarray, wanted: float, keep_all: int) -> np.ndarray:
    """Return which images keep their labels: `wanted` of each class, or that share of it if it is below 1."""
    kept, rng = np.zeros(len(labels), bool), np.random.default_rng(0)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = round(wanted * len(members)) if wanted < 1 else int(wanted)
        kept[members[: len(members) if len(members) <= keep_all else count]] = True
    return kept


def _run(case: Case, data: Path, run: Path, minutes: float, seed: int) -> None:
    report = run / "report.json"
    program = [sys.executable, "-m", "paddlemae"]
    if not report.is_file():
        began = time.monotonic()
        command = ["auto", "--data", data, "--minutes", minutes, "--seed", seed, "--out", run]
        subprocess.run([*program, *map(str, command), *(["--compare"] if case.compare else [])], check=True)
        _add_minutes(run, (time.monotonic() - began) / 60)
    if case.knn and not (run / "knn.json").is_file():
        command = ["knn", run / "pretrain", "--data", data]
        subprocess.run([*program, *map(str, command)], check=True)
        lines = [json.loads(line) for line in (run / "pretrain" / "results.jsonl").read_text().splitlines()]
        found = [line for line in lines if line["task"] == "knn" and line["start"] == "pretrained"]
        (run / "knn.json").write_text(json.dumps(max(found, key=lambda line: (line["train_images"], line["top1"]))))


def _add_minutes(run: Path, minutes: float) -> None:
    path = run.with_name(f"{run.name}-{TIME_FILE}")
    before = json.loads(path.read_text()) if path.is_file() else 0.0
    path.write_text(json.dumps(before + minutes))


def summaries(runs: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the outcome of each finished run, with the `minutes` that it took."""
    for run in runs:
        if not (run / "report.json").is_file():
            continue
        summary = json.loads((run / "report.json").read_text())["summary"]
        path = run.with_name(f"{run.name}-{TIME_FILE}")
        minutes = json.loads(path.read_text()) if path.is_file() else None
        more = []
        if (run / "knn.json").is_file():
            line = json.loads((run / "knn.json").read_text())
            more = [{**line, "key": "knn_all", "title": f"kNN of all images, k = {line['protocol']['k']}"}]
        yield {**summary, "rows": [*summary["rows"], *more], "minutes": minutes}


def table(name: str, case: Case, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a case's methods over all seeds as lines of Markdown, then what should be reached and what was."""
    lines = [f"### {name}: {len(found)} runs"]
    if not found:
        return [*lines, "no finished run"]
    minutes = [one["minutes"] for one in found if one["minutes"] is not None]
    if minutes:
        lines.append(f"{mean(minutes):.1f} minutes each")
    if not found[0]["rows"]:
        return [*lines, *dict.fromkeys(one["verdict"] for one in found)]
    primary = found[0]["primary"]
    titles = {row["key"]: row["title"] for one in found for row in one["rows"]}
    values = {key: [row[primary] for one in found for row in one["rows"] if row["key"] == key] for key in titles}
    lines += ["", f"| method | {title_of(primary)} |", "|---|---:|"]
    lines += [f"| {titles[key]} | {spread(values[key])} |" for key in sorted(values, key=lambda key: mean(values[key]))]
    return [*lines, "", *judged(case, values)]


def judged(case: Case, values: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Yield whether what should be reached was reached."""
    ours = case.ours if not case.knn else "knn_all"
    if ours not in values:
        yield f"{ours} was not measured"
        return
    reached = mean(values[ours])
    rivals = {key: mean(values[key]) for key in case.rivals if key in values}
    if rivals:
        best = max(rivals, key=lambda key: rivals[key])
        gain = 100 * (reached - rivals[best])
        wanted = "" if case.points is None else f", {case.points:+g} wanted: {_word(gain >= case.points)}"
        yield f"{ours} is {gain:+.1f} points above {best}{wanted}"
    if case.least is not None:
        yield f"{ours} {reached:.1%}, {case.least:.0%} wanted: {_word(reached >= case.least)}"


def _word(is_reached: bool) -> str:
    return "reached" if is_reached else "missed"


def spread(values: Sequence[float]) -> str:
    """Return the mean and standard deviation over seeds, in percent."""
    return f"{mean(values):.1%}" + (f" ± {stdev(values):.1%}" if len(values) > 1 else "")


if __name__ == "__main__":
    sys.exit(main())
