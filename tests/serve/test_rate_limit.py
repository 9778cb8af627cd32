"""Token buckets of addresses."""

from __future__ import annotations

import pytest

from paddlemae.serve.rate_limit import MOST_ADDRESSES, RateLimit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_passes_and_then_so_many_a_second(clock: Clock) -> None:
    limit = RateLimit(per_second=2, burst=3, clock=clock)
    assert [limit.seconds_to_wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now += 0.5
    assert limit.seconds_to_wait("a") == 0
    assert limit.seconds_to_wait("a") == 0.5
    clock.now += 100
    assert [limit.seconds_to_wait("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_addresses_do_not_share(clock: Clock) -> None:
    limit = RateLimit(per_second=1, burst=1, clock=clock)
    assert limit.seconds_to_wait("a") == 0 == limit.seconds_to_wait("b")
    assert limit.seconds_to_wait("a") > 0


def test_refused_requests_do_not_count(clock: Clock) -> None:
    limit = RateLimit(per_second=1, burst=1, clock=clock)
    limit.seconds_to_wait("a")
    for _ in range(100):
        assert limit.seconds_to_wait("a") == 1
    clock.now += 1
    assert limit.seconds_to_wait("a") == 0


def test_few_addresses_are_remembered(clock: Clock) -> None:
    limit = RateLimit(per_second=1, burst=1, clock=clock)
    for number in range(MOST_ADDRESSES + 100):
        limit.seconds_to_wait(str(number))
    assert len(limit._buckets) == MOST_ADDRESSES
