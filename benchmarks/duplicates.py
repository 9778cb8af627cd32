"""Measure how many near duplicates `data check` finds of those that comparing all pairs finds, and how fast.

python -m benchmarks.duplicates --data cifar10 --blends 300000

Blends mix the thumbnails of two random images, the first mirrored: they are as alike as real images are.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.inspect.duplicates import MOST_BITS, NEAR_STEPS, are_similar, find_near_groups, hash_thumbnails
from paddlemae.data.inspect.survey import COLUMNS, ROWS, survey_sources
from paddlemae.data.sources import open_source

_QUERIES = 500  # that are compared with everything at a time
_WELL_BELOW = 0.96  # float32 products find candidates, which `are_similar` judges


def pairs_by_force(queries_NP: NDArray[np.uint8], others_NP: NDArray[np.uint8]) -> tuple[NDArray, NDArray]:
    """Return (queries, others): the pairs that the rule calls near duplicates, found by comparing each with each."""
    queries, others = _standardised(queries_NP), _standardised(others_NP)
    found = []
    for start in range(0, len(queries), _QUERIES):
        a, b = np.nonzero(queries[start : start + _QUERIES] @ others.T > _WELL_BELOW)
        found.append((a + start, b))
    a, b = (np.concatenate(each) for each in zip(*found))
    differing = np.unpackbits(
        (hash_thumbnails(queries_NP)[a] ^ hash_thumbnails(others_NP)[b]).view(np.uint8).reshape(-1, 8), axis=1
    )
    near = are_similar(queries_NP[a], others_NP[b]) & (differing.sum(axis=1) <= MOST_BITS)
    return a[near], b[near]


def _standardised(thumbnails_NP: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = thumbnails_NP - thumbnails_NP.mean(axis=1, keepdims=True, dtype=np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1)


def blends(thumbnails_NP: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    made = np.empty((count, ROWS * COLUMNS), np.uint8)
    for start in range(0, count, 10_000):
        rows = made[start : start + 10_000]
        one, other = thumbnails_NP[rng.integers(0, len(thumbnails_NP), (2, len(rows)))]
        share = rng.uniform(0, 0.3, (len(rows), 1))
        rows[:] = (share * one.reshape(-1, ROWS, COLUMNS)[..., ::-1].reshape(one.shape) + (1 - share) * other).astype(
            int
        )
    return made


def grouped(thumbnails_NP: NDArray[np.uint8]) -> NDArray[np.int64]:
    started, count = time.process_time(), len(thumbnails_NP)
    firsts = find_near_groups(thumbnails_NP, np.arange(count), np.ones(count, np.bool_), lambda step: None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{count} images compared in {time.process_time() - started:.1f} s of CPU time ({NEAR_STEPS} sorts): "
        f"{count - len(np.unique(firsts))} near duplicates of others; peak {peak / 1e9:.2f} GB"
    )
    return firsts


def main() -> None:
    usage = argparse.ArgumentParser(prog="python -m benchmarks.duplicates", description=__doc__.partition("\n")[0])
    usage.add_argument("--data", required=True, help="images with a train and a test part")
    usage.add_argument("--blends", type=int, default=0)
    options = usage.parse_args()
    train, test = open_source(options.data, "train"), open_source(options.data, "test")
    thumbnails = survey_sources([train, test], 3).thumbnails_NP
    firsts = grouped(thumbnails)
    if options.blends:
        grouped(blends(thumbnails, options.blends))
    a, b = pairs_by_force(thumbnails[len(train) :], thumbnails[: len(train)])
    same = firsts[a + len(train)] == firsts[b]
    print(f"{same.sum()} found of {len(a)} near duplicates between test and train that comparing each with each tells")


if __name__ == "__main__":
    main()
