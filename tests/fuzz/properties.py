"""Runs the property tests on many seeds: python -m tests.fuzz.properties --cases 20000 [--only archives pixels]

Each property has a module with `check(seed, folder)`, which builds case `seed` in an empty folder and raises an
AssertionError where the property does not hold. `make test` runs some hundred seeds of each, this --cases.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

PROPERTIES = (
    "archives",  # an archive is its unpacked folder
    "splits",  # splits, classes and labels do not depend on the kind of source
    "pixels",  # pixels are those that the file states
    "names",  # any name can be shown
    "writes",  # files are written whole or not at all
    "runfiles",  # a damaged run folder ends in one line; slow: a tenth of the cases
)
SLOW = ("runfiles",)


def failures_of(name: str, seeds: range) -> list[str]:
    """Run a property on seeds; return a line for each that failed."""
    check = importlib.import_module(f"tests.fuzz.{name}").check
    failures = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    check(seed, Path(folder))
                except Exception as fault:
                    place = traceback.extract_tb(fault.__traceback__)[-1]
                    text = " ".join(str(fault).split())[:300]
                    failures.append(f"{name}, seed {seed}: {type(fault).__name__} in {place.name}: {text}")
    return failures


def main() -> int:
    usage = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    usage.add_argument("--cases", type=int, default=20_000, help="seeds of each property")
    usage.add_argument("--seed", type=int, default=0, help="the first one")
    usage.add_argument("--only", nargs="+", choices=PROPERTIES, default=PROPERTIES, metavar="NAME")
    options = usage.parse_args()
    failed = []
    for name in options.only:
        start = time.monotonic()
        cases = options.cases // 10 if name in SLOW else options.cases
        failures = failures_of(name, range(options.seed, options.seed + cases))
        failed += failures
        print(f"{name}: {cases:,} cases from seed {options.seed} in {time.monotonic() - start:.0f} s, "
              f"{len(failures)} failed", flush=True)  # fmt: skip
    print(*failed[:20], sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
