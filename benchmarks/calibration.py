"""Check that the machine is quiet: time a matrix product of fixed size before and after each measurement.

python -m benchmarks.calibration        print its GFLOP/s
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from benchmarks.works import Run

SIZE = 1024  # rows, inner and columns, float32
SECONDS = 0.5
QUIET_SHARE = 0.05  # how far the rate may be below the best seen
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
        best: the best rate that is known of this machine.
        attempts: how often a side is measured until it is undisturbed.
    """

    def __init__(
        self,
        rate: Callable[[], float],
        best: float = 0.0,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.rate, self.best, self.attempts, self.sleep = rate, best, attempts, sleep
        self.last = self._take()

    def _take(self) -> float:
        self.last = self.rate()
        self.best = max(self.best, self.last)
        return self.last

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
            if not is_disturbed(tried[-1], self.best):
                break
        return max(tried, key=lambda one: min(one["calibration"]))

    def describe(self, run: Run) -> str:
        """Return the rates around a run and the best known."""
        before, after = run["calibration"]
        return f"{before:.0f} and {after:.0f} of {self.best:.0f} GFLOP/s"


def is_disturbed(run: Run, best: float) -> bool:
    """Return whether the product was slower than the best known before or after a run; False where it was not timed."""
    return "calibration" in run and min(run["calibration"]) < (1 - QUIET_SHARE) * best


def best_rate(runs: Iterable[Run]) -> float:
    """Return the best rate around any of the runs; 0 without one."""
    return max((rate for run in runs for rate in run.get("calibration", [])), default=0.0)


if __name__ == "__main__":
    print(product_rate())
