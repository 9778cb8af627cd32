"""Limit how often an address may ask: a token bucket for each."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MOST_ADDRESSES = 4096  # that are remembered; the one longest silent is forgotten first


class RateLimit:
    """Let each address ask `burst` times at once, and `per_second` times a second on average. For several threads.

    Args:
        clock: seconds, from any start.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic):
        self.per_second, self.burst, self._clock = per_second, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> (tokens, when)
        self._lock = threading.Lock()

    def seconds_to_wait(self, address: str) -> float:
        """Return 0 and count the request, or the seconds after which the address may ask again."""
        with self._lock:
            now = self._clock()
            tokens, when = self._buckets.pop(address, (float(self.burst), now))
            tokens = min(self.burst, tokens + (now - when) * self.per_second)
            wait = 0.0 if tokens >= 1 else (1 - tokens) / self.per_second
            self._buckets[address] = (tokens - (wait == 0), now)
            while len(self._buckets) > MOST_ADDRESSES:
                self._buckets.popitem(last=False)
            return wait
