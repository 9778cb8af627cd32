"""Check that the machine is quiet: time a matrix product of fixed size before and after each measurement.

python -m benchmarks.calibration        print its GFLOP/s
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

from benchmarks.works import Run

SIZE = 1024  # rows, inner and columns, float32
SECONDS = 0.5
QUIET_SHARE = 0.05  # how far the rate may be below the usual one
USUAL_SHARE = 0.75  # of the rates seen, this many are at most the usual one: short bursts of the clock are above it
ATTEMPTS = 3  # measurements of the same side, until one is quiet
PAUSE_SECONDS = 2.0  # before another attempt


def product_rate() -> float:
    """Return the GFLOP/s of NumPy's product over half a second: the mean, so that every disturbance counts."""
    import numpy as np

    rng = np.random.default_rng(0)
    left, right = (rng.random((SIZE, SIZE), np.float32) for _ in range(2))
    out = left @ right
    started, count = time.perf_counter(), 0
    while (took := time.perf_counter() - started) < SECONDS or not count:
        np.matmul(left, right, out=out)
        count += 1
    return 2e-9 * SIZE**3 * count / took


class Calibration:
    """Repeat measurements that were disturbed.

    Args:
        rate: gives the present GFLOP/s of the product.
        known: rates that were seen on this machine before.
        attempts: how often a side is measured until it is undisturbed.
    """

    def __init__(
        self,
        rate: Callable[[], float],
        known: Iterable[float] = (),
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.rate, self.attempts, self.sleep = rate, attempts, sleep
        self.seen = list(known)
        self.last = self._take()

    def _take(self) -> float:
        self.last = self.rate()
        self.seen.append(self.last)
        return self.last

    @property
    def usual(self) -> float:
        """The machine's rate when it is quiet, GFLOP/s."""
        return usual_rate(self.seen)

    def measure(self, run: Callable[[], Run], say: Callable[[str], None]) -> Run:
        """Run until nothing disturbs, a limited number of times.

        Returns:
            the least disturbed run, with `calibration`: the product's GFLOP/s before and after it; a run that failed as
            it is.
        """
        tried: list[Run] = []
        while len(tried) < self.attempts:
            if tried:
                say(f"disturbed ({self.describe(tried[-1])}), measured again")
                self.sleep(PAUSE_SECONDS)
                self._take()
            before, found = self.last, run()
            if "unavailable" in found:
                return found
            tried.append({**found, "calibration": [before, self._take()]})
            if not is_disturbed(tried[-1], self.usual):
                break
        return max(tried, key=lambda one: min(one["calibration"]))

    def describe(self, run: Run) -> str:
        """Return the rates around a run and the usual one."""
        before, after = run["calibration"]
        return f"{before:.0f} and {after:.0f} of {self.usual:.0f} GFLOP/s"


def is_disturbed(run: Run, usual: float) -> bool:
    """Return whether the product was slower than usual before or after a run; False where it was not timed."""
    return "calibration" in run and min(run["calibration"]) < (1 - QUIET_SHARE) * usual


def rates_of(runs: Iterable[Run]) -> list[float]:
    """Return the rates before and after each of the runs."""
    return [rate for run in runs for rate in run.get("calibration", [])]


def usual_rate(rates: Sequence[float]) -> float:
    """Return a machine's rate when it is quiet: the upper quartile of those seen, 0 without any."""
    return sorted(rates)[math.ceil(USUAL_SHARE * len(rates)) - 1] if rates else 0.0


if __name__ == "__main__":
    print(product_rate())
