"""What the soak calls wrong: a training that changes, not a machine that does."""

from __future__ import annotations

import pytest

from drill.soak import Sample, faults, judge


def watched(minutes: int, peer_at, gb_at) -> list[Sample]:
    """A sample every 15 seconds; `peer_at` and `gb_at` give the peer's seconds and the memory at a minute."""
    return [
        Sample(
            15.0 * i, peer_at(i / 4), int(gb_at(i / 4) * 1e9), processes=3, threads=8, open_files=19, shared_segments=0
        )
        for i in range(4 * minutes + 1)
    ]


def found(samples: list[Sample], speed_at) -> list[str]:
    return list(faults(judge(samples, [(one.seconds, speed_at(one.seconds / 60)) for one in samples])))


def slower_later(minute: float) -> float:
    return 0.5 if minute < 30 else 0.6


def test_a_slower_machine_is_no_fault() -> None:
    samples = watched(60, slower_later, lambda minute: 0.65)
    assert not found(samples, lambda minute: 100 / slower_later(minute))


def test_a_slower_training_is() -> None:
    samples = watched(60, lambda minute: 0.5, lambda minute: 0.65)
    (said,) = found(samples, lambda minute: 100 / slower_later(minute))
    assert said.startswith("speed deviates by")


def test_growing_memory_counts_only_after_the_warm_up() -> None:
    steady = watched(60, lambda minute: 0.5, lambda minute: 0.65 if minute > 5 else 0.2)
    assert not found(steady, lambda minute: 200)
    growing = watched(60, lambda minute: 0.5, lambda minute: 0.65 + minute / 1000)
    (said,) = found(growing, lambda minute: 200)
    assert said.startswith("memory grew by")


def test_a_short_one_is_refused() -> None:
    with pytest.raises(ValueError, match="must last 30 minutes or more, this one took 20"):
        found(watched(20, lambda minute: 0.5, lambda minute: 0.65), lambda minute: 200)


def test_the_peer_takes_time_and_changes_nothing() -> None:
    from drill.peer import Peer

    peer = Peer("digits")
    before = {name: weight.numpy() for name, weight in peer.model.state_dict().items()}
    assert peer.seconds() > 0
    assert all((before[name] == weight.numpy()).all() for name, weight in peer.model.state_dict().items())
    assert all(weight.grad is None or not weight.grad.numpy().any() for weight in peer.model.parameters())
